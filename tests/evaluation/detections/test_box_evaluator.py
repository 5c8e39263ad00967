"""AP50 of each class on detections whose AP50 is known."""

import json
import math

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import Boxes, Instances
from PIL import Image

from odam_d2.evaluation.detections.evaluators import BoxEvaluator


@pytest.fixture
def registered(tmp_path):
    """Registers a file with two cats and a dog in one image, no bird, after a change of its annotations."""
    Image.fromarray(np.zeros((100, 100, 3), np.uint8)).save(tmp_path / "a.png")
    boxes = [(1, [10, 10, 20, 20]), (1, [50, 50, 20, 20]), (2, [10, 60, 30, 30])]
    annotations = [
        {"id": i + 1, "image_id": 1, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": 0}
        for i, (c, b) in enumerate(boxes)
    ]
    categories = [{"id": i + 1, "name": n} for i, n in enumerate(("cat", "dog", "bird"))]
    images = [{"id": 1, "file_name": "a.png", "height": 100, "width": 100}]
    content = {"info": {}, "images": images, "annotations": annotations, "categories": categories}

    def register(change=lambda annotations: None):
        change(annotations)
        (tmp_path / "a.json").write_text(json.dumps(content))
        register_coco_instances("odam_ap", {}, str(tmp_path / "a.json"), str(tmp_path))
        DatasetCatalog.get("odam_ap")
        return "odam_ap"

    yield register
    DatasetCatalog.remove("odam_ap")
    MetadataCatalog.remove("odam_ap")


def evaluate(dataset, folder, boxes, classes):
    """Box AP of some detections, by falling score."""
    found = Instances((100, 100))
    found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
    found.scores = torch.linspace(0.95, 0.55, len(boxes))
    found.pred_classes = torch.tensor(classes)
    evaluator = BoxEvaluator(dataset, tasks=("bbox",), output_dir=str(folder))
    evaluator.reset()
    evaluator.process([{"image_id": 1}], [{"instances": found}])
    return evaluator.evaluate()["bbox"]


def number_from_0(annotations):
    for number, annotation in enumerate(annotations):
        annotation["id"] = number


def without(*fields):
    def remove(annotations):
        for annotation in annotations:
            for field in fields:
                del annotation[field]

    return remove


PERFECT = ([[10, 10, 30, 30], [50, 50, 70, 70], [10, 60, 40, 90]], [0, 0, 1])


@pytest.mark.parametrize(
    "change",
    [
        lambda annotations: None,
        number_from_0,
        lambda annotations: annotations[2].update(id="the dog"),
        without("area"),
        without("iscrowd"),
        lambda annotations: annotations[0].update(area=None, iscrowd=None),
    ],
)
def test_perfect_detections_have_ap_100_however_annotations_are_numbered(change, registered, tmp_path):
    results = evaluate(registered(change), tmp_path / "out", *PERFECT)
    assert [results[name] for name in ("AP", "AP50-cat", "AP50-dog")] == pytest.approx([100, 100, 100])
    # All of them are small: of less than 32 x 32 pixels.
    assert results["APs"] == pytest.approx(100) and math.isnan(results["APm"])


def test_one_detection_of_two_objects_scores_the_same_from_0_as_from_1(registered, tmp_path):
    # The first annotation, of id 0, is the one that is found: precision 1 up to recall 1/2, 51 of 101 points.
    results = evaluate(registered(number_from_0), tmp_path / "out", [[10, 10, 30, 30]], [0])
    assert results["AP50-cat"] == pytest.approx(100 * 51 / 101) and results["AP50-dog"] == 0


def test_a_crowd_is_no_object_whatever_else_is_missing(registered, tmp_path):
    def second_cat_is_a_crowd(annotations):
        without("area")(annotations)
        annotations[1]["iscrowd"] = 1

    results = evaluate(registered(second_cat_is_a_crowd), tmp_path / "out", [[10, 10, 30, 30]], [0])
    assert results["AP50-cat"] == pytest.approx(100)


def test_faults_of_the_dataset_are_named_before_inference(registered, tmp_path):
    dataset = registered()
    for field in ("id", "bbox"):
        content = json.loads((tmp_path / "a.json").read_text())
        del content["annotations"][1][field]
        path = tmp_path / "b.json"
        path.write_text(json.dumps(content))
        MetadataCatalog.get(dataset).__dict__["json_file"] = str(path)
        with pytest.raises(ValueError, match=f"b.json: .*annotation.*lacks the field '{field}'"):
            BoxEvaluator(dataset, output_dir=str(tmp_path / "out"))


def test_dicts_that_share_an_image_id_are_named(tmp_path):
    dicts = [{"file_name": f"{name}.jpg", "image_id": 1, "height": 5, "width": 5} for name in "ab"]
    DatasetCatalog.register("odam_shared", lambda: dicts)
    try:
        with pytest.raises(ValueError, match="odam_shared: the images a.jpg and b.jpg share the image_id 1"):
            BoxEvaluator("odam_shared", output_dir=str(tmp_path))
    finally:
        DatasetCatalog.remove("odam_shared")
        MetadataCatalog.remove("odam_shared")


def test_a_class_that_the_dataset_lacks_is_named_at_the_first_image(registered, tmp_path):
    with pytest.raises(ValueError, match="a class number 3 in the image 1, .*odam_ap has 3 classes"):
        evaluate(registered(), tmp_path / "out", [[0, 0, 9, 9], [1, 1, 9, 9]], [0, 3])


def test_ap50_of_each_class_is_worked_out_by_hand(registered, tmp_path):
    # Cats: one of two found exactly -> precision 1 up to recall .5, nothing beyond: 51 of 101 recall points.
    # Dog: found with IoU 30*20/(30*30) = 2/3 > .5 -> 100. Bird: no objects -> no AP.
    results = evaluate(registered(), tmp_path / "out", [[10, 10, 30, 30], [10, 60, 40, 80]], [0, 1])
    assert results["AP50-cat"] == pytest.approx(100 * 51 / 101)
    assert results["AP50-dog"] == pytest.approx(100)
    assert math.isnan(results["AP50-bird"])
    assert results["AP50"] == pytest.approx((100 * 51 / 101 + 100) / 2)


def test_precision_and_recall_above_a_score_worked_by_hand(registered, tmp_path):
    # Scores .95, .85, .75, .65, .55: a cat, the same cat again, the dog, the dog as a cat, nothing.
    boxes = [[10, 10, 30, 30], [11, 10, 31, 30], [10, 60, 40, 90], [10, 60, 40, 90], [70, 0, 99, 30]]
    results = evaluate(registered(), tmp_path / "out", boxes, [0, 0, 1, 0, 0])
    precision = {score: results[f"precision-{score}"] for score in ("0.9", "0.8", "0.7", "0.6", "0.5", "0.1")}
    assert precision == {"0.9": 100, "0.8": 50, "0.7": pytest.approx(200 / 3), "0.6": 50, "0.5": 40, "0.1": 40}
    assert results["recall-0.9"] == pytest.approx(100 / 3) and results["recall-0.1"] == pytest.approx(200 / 3)


def test_what_lies_on_a_crowd_is_neither_right_nor_wrong(registered, tmp_path):
    def crowd(annotations):
        annotations[2]["iscrowd"] = 1

    boxes, classes = PERFECT
    results = evaluate(registered(crowd), tmp_path / "out", [*boxes, [0, 0, 5, 5]], [*classes, 2])
    # Of four detections one lies on the crowd of dogs, and one, the weakest, is a bird that is not there.
    assert results["precision-0.6"] == 100 and results["precision-0.5"] == pytest.approx(200 / 3)
    assert results["recall-0.5"] == 100
