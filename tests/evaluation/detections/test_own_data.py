"""Detections in datasets of a user's own, by the measures that their format has; each value is known."""

import json

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances

from helpers import small_cfg
from odam_d2.data.objects import load_objects
from odam_d2.data.own import register_datasets
from odam_d2.engine import ODAMTrainer
from own_data import SIZE, write_coco, write_odgt, write_voc


@pytest.fixture
def measure(tmp_path):
    """(word that describes a dataset, rows of the objects to find in each image) -> the results."""

    def evaluate(word, rows=slice(None)):
        cfg = small_cfg("fcos", ["OUTPUT_DIR", str(tmp_path / "out"), "ODAM.DATASETS", f"['{word}']"])
        register_datasets(cfg)
        try:
            evaluator = ODAMTrainer.build_evaluator(cfg, "odam_own")
            evaluator.reset()
            for image in DatasetCatalog.get("odam_own"):
                evaluator.process([image], [{"instances": perfect(image["annotations"][rows])}])
            return evaluator.evaluate()
        finally:
            DatasetCatalog.remove("odam_own")
            MetadataCatalog.remove("odam_own")

    return evaluate


def perfect(annotations):
    boxes = [BoxMode.convert(one["bbox"], one["bbox_mode"], BoxMode.XYXY_ABS) for one in annotations]
    found = Instances(SIZE)
    found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    found.scores = torch.linspace(0.95, 0.85, len(annotations))
    found.pred_classes = torch.tensor([one["category_id"] for one in annotations], dtype=torch.int64)
    return found


def test_perfect_detections_of_cocos_format_that_starts_at_zero(measure, tmp_path):
    # Category, annotation and image 0.
    word = "odam_own=" + write_coco(tmp_path / "c", {0: "cat", 5: "dog"}, [(0, 5, 5, 20, 20), (5, 3, 4, 30, 16)])
    results = measure(word)["bbox"]
    assert results["AP"] == pytest.approx(100) and results["AP50-cat"] == results["AP50-dog"] == pytest.approx(100)


def test_difficult_objects_of_voc_need_not_be_found_and_may_be(measure, tmp_path):
    # All objects of a class that has one difficult object beside a plain one.
    objects = {"a": [("dog", (1, 2, 30, 40), 0), ("dog", (35, 5, 55, 29), 1)], "b": [("cat", (5, 5, 29, 29), 0)]}
    word = f"odam_own=voc:{write_voc(tmp_path / 'pets', objects, {})}"
    for rows in (slice(None), slice(1)):
        results = measure(word, rows)["bbox"]
        assert results["AP"] == pytest.approx(100), rows
        assert results["AP50-cat"] == results["AP50-dog"] == pytest.approx(100)
    # Without the plain objects nothing is found.
    assert measure(word, slice(1, None))["bbox"]["AP"] == pytest.approx(0)


def test_another_dataset_of_the_same_name_is_not_measured_by_what_was_converted_before(measure, tmp_path):
    write_voc(tmp_path / "one", {"a": [("dog", (1, 2, 30, 40), 0)]}, {})
    write_voc(tmp_path / "two", {"a": [("dog", (21, 2, 60, 40), 0)]}, {})
    for name in ("one", "two"):
        assert measure(f"odam_own=voc:{tmp_path / name}")["bbox"]["AP"] == pytest.approx(100), name
    (converted,) = (tmp_path / "out" / "inference" / "odam_own").glob("*coco_format.json")
    assert json.loads(converted.read_text())["annotations"][0]["bbox"] == [20, 1, 40, 39]


def test_objects_of_voc_are_the_same_before_and_after_detections_were_measured(catalogs, tmp_path):
    folder = write_voc(tmp_path / "pets", {"a": [("dog", (1, 2, 30, 40), 0), ("cat", (5, 5, 9, 9), 1)]}, {})
    cfg = small_cfg("fcos", ["OUTPUT_DIR", str(tmp_path / "out"), "ODAM.DATASETS", f"['odam_own={folder}']"])
    register_datasets(cfg)
    before = load_objects("odam_own")["a"]
    # Detectron2's evaluator converts the dataset, and makes its metadata that of a file in COCO's format.
    ODAMTrainer.build_evaluator(cfg, "odam_own")
    assert MetadataCatalog.get("odam_own").json_file
    after = load_objects("odam_own")["a"]
    assert after.file == before.file and after.boxes.tolist() == before.boxes.tolist() == [[0, 1, 30, 40], [4, 4, 9, 9]]
    assert after.crowd.tolist() == before.crowd.tolist() == [False, True]


def test_people_in_crowds_are_measured_as_crowdhuman_is(measure, tmp_path):
    word = "odam_own=" + write_odgt(tmp_path / "c", {"1,a": [(1, 2, 10, 20), (30, 2, 10, 20)], "2,b": [(5, 5, 9, 9)]})
    results = measure(word)["crowd"]
    assert set(results) == {"AP", "MR", "JI", "Recall"}
    assert results["JI"] == results["Recall"] == pytest.approx(100)
    # CrowdHuman's curve begins at the first person found, at a recall of 1/3.
    assert results["AP"] == pytest.approx(200 / 3)
    # One of two, and one of one: two of three people.
    assert measure(word, slice(1))["crowd"]["Recall"] == pytest.approx(200 / 3)
