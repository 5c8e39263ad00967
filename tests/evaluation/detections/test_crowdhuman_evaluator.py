"""The CrowdHuman evaluator: what it collects, writes and returns, alone and with several processes."""

import json
import logging
import subprocess
import sys

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import print_csv_format
from detectron2.structures import Boxes, Instances

from odam_d2.data.odgt import read_detections, read_odgt
from odam_d2.evaluation.detections import evaluators
from odam_d2.evaluation.detections.crowdhuman import evaluate_crowd
from odam_d2.evaluation.detections.evaluators import CrowdHumanEvaluator

PERSON, FAR = [0.0, 0, 10, 10], [50.0, 50, 60, 60]


@pytest.fixture
def dataset(tmp_path):
    """Two people in the image a, one in the image b."""
    records = [("a", [[0, 0, 10, 10], [50, 50, 10, 10]]), ("b", [[0, 0, 10, 10]])]
    lines = [{"ID": name, "gtboxes": [{"tag": "person", "fbox": box} for box in boxes]} for name, boxes in records]
    (tmp_path / "a.odgt").write_text("".join(json.dumps(line) + "\n" for line in lines))
    DatasetCatalog.register("odam_crowd", lambda: [])
    MetadataCatalog.get("odam_crowd").set(odgt_file=str(tmp_path / "a.odgt"))
    yield "odam_crowd"
    DatasetCatalog.remove("odam_crowd")
    MetadataCatalog.remove("odam_crowd")


def process(evaluator, name, boxes, scores, size=(80, 90)):
    instances = Instances(size)
    instances.pred_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
    instances.scores = torch.tensor(scores)
    instances.pred_classes = torch.zeros(len(boxes), dtype=torch.int64)
    evaluator.process([{"image_id": name}], [{"instances": instances}])


def test_measures_by_hand_and_the_file_of_detections(dataset, tmp_path):
    # Hit .9, hit .8, false .7, of 3 people: recall 1/3, 2/3, 2/3, precision 1, 1, 2/3 -> AP 1/3.
    # MR: false positives 0, 0, 1/2 an image: all nine references take the last point, 1/3 missed.
    # JI at 0: image a 1 / (2 + 2 - 1), image b 1; at .7 the false one is out: 1/2 and 1 -> 3/4.
    evaluator = CrowdHumanEvaluator(dataset, str(tmp_path / "out"))
    evaluator.reset()
    process(evaluator, "a", [PERSON, [20.0, 20, 30, 30]], [0.9, 0.7])
    process(evaluator, "b", [PERSON], [0.8])
    results = evaluator.evaluate()
    assert list(results["crowd"]) == ["AP", "MR", "JI", "Recall"]
    assert list(results["crowd"].values()) == pytest.approx([100 / 3, 100 / 3, 75, 200 / 3])
    written = read_detections(tmp_path / "out" / "detections.jsonl")
    assert [(d.id, d.height, d.width, len(d.boxes)) for d in written] == [("a", 80, 90, 2), ("b", 80, 90, 1)]
    again = evaluate_crowd(read_odgt(tmp_path / "a.odgt"), written)
    assert (again.ap, again.mr, again.ji, again.recall) == tuple(results["crowd"].values())


def test_detectron2_can_print_the_results(dataset, caplog):
    evaluator = CrowdHumanEvaluator(dataset)
    process(evaluator, "a", [], [])
    process(evaluator, "b", [PERSON], [0.8])
    with caplog.at_level(logging.INFO):
        print_csv_format(evaluator.evaluate())
    assert "AP,MR,JI,Recall" in caplog.text and "MR-2 66.67" in caplog.text


def test_images_never_processed_count_as_without_detections_after_a_warning(dataset, caplog):
    evaluator = CrowdHumanEvaluator(dataset)
    process(evaluator, "a", [PERSON, FAR], [0.9, 0.8])
    results = evaluator.evaluate()
    assert results["crowd"]["Recall"] == pytest.approx(200 / 3)
    assert "1 of 2 images of the ground truth were not processed" in caplog.text


def test_an_image_seen_twice_counts_once_and_reset_forgets(dataset):
    evaluator = CrowdHumanEvaluator(dataset)
    for _ in range(2):
        process(evaluator, "a", [PERSON], [0.9])
    process(evaluator, "b", [PERSON], [0.8])
    assert evaluator.evaluate()["crowd"]["JI"] == pytest.approx(75)
    evaluator.reset()
    assert evaluator.evaluate()["crowd"]["Recall"] == 0


def test_the_parts_of_several_processes_are_put_together_on_the_first(dataset, tmp_path, monkeypatch):
    # A padded sampler gives image a to both.
    parts = []
    for images in (("a", "b"), ("a",)):
        part = CrowdHumanEvaluator(dataset, str(tmp_path / "out"))
        for name in images:
            process(part, name, [PERSON], [0.9])
        parts.append(part)
    monkeypatch.setattr(evaluators.comm, "gather", lambda data: [part._found for part in parts])
    assert parts[0].evaluate()["crowd"]["JI"] == pytest.approx(75)
    assert len(read_detections(tmp_path / "out" / "detections.jsonl")) == 2
    monkeypatch.setattr(evaluators.comm, "is_main_process", lambda: False)
    assert parts[1].evaluate() == {}


def test_wrong_datasets_images_and_numbers_are_named(dataset, tmp_path):
    with pytest.raises(ValueError, match="unknown_crowd names no odgt_file"):
        CrowdHumanEvaluator("unknown_crowd")
    evaluator = CrowdHumanEvaluator(dataset)
    with pytest.raises(ValueError, match="in the image a: .*not finite"):
        process(evaluator, "a", [[0.0, 0, float("nan"), 5]], [0.5])
    process(evaluator, "c", [PERSON], [0.9])
    with pytest.raises(ValueError, match="image c, which is not in the ground truth"):
        evaluator.evaluate()


WORKER = """
import sys
import torch
from detectron2.data import MetadataCatalog
from detectron2.engine import launch
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from odam_d2.evaluation.detections.evaluators import CrowdHumanEvaluator


def main(odgt_file):
    MetadataCatalog.get("crowd").set(odgt_file=odgt_file)
    evaluator = CrowdHumanEvaluator("crowd")
    for name in (("a", "b"), ("a",))[comm.get_rank()]:
        found = Instances((80, 90), pred_boxes=Boxes(torch.tensor([[0.0, 0, 10, 10]])), scores=torch.tensor([0.9]))
        evaluator.process([{"image_id": name}], [{"instances": found}])
    print("rank", comm.get_rank(), dict(evaluator.evaluate()), flush=True)


if __name__ == "__main__":
    launch(main, 2, dist_url="auto", args=(sys.argv[1],))
"""


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.device_count() == 1, reason="Detectron2 launches one process for each GPU")
def test_two_real_processes(dataset, tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    command = [sys.executable, str(tmp_path / "worker.py"), str(tmp_path / "a.odgt")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "rank 1 {}" in done.stdout
    assert "'JI': 75.0" in done.stdout
