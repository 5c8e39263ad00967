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
def dataset(tmp_path):
    """One image with two cats and one dog; no bird."""
    Image.fromarray(np.zeros((100, 100, 3), np.uint8)).save(tmp_path / "a.png")
    boxes = [(1, [10, 10, 20, 20]), (1, [50, 50, 20, 20]), (2, [10, 60, 30, 30])]
    annotations = [
        {"id": i + 1, "image_id": 1, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": 0}
        for i, (c, b) in enumerate(boxes)
    ]
    categories = [{"id": i + 1, "name": n} for i, n in enumerate(("cat", "dog", "bird"))]
    images = [{"id": 1, "file_name": "a.png", "height": 100, "width": 100}]
    content = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "a.json").write_text(json.dumps(content))
    register_coco_instances("odam_ap", {}, str(tmp_path / "a.json"), str(tmp_path))
    DatasetCatalog.get("odam_ap")
    yield "odam_ap"
    DatasetCatalog.remove("odam_ap")
    MetadataCatalog.remove("odam_ap")


def test_ap50_of_each_class_is_worked_out_by_hand(dataset, tmp_path):
    # Cats: one of two found exactly -> precision 1 up to recall .5, nothing beyond: 51 of 101 recall points.
    # Dog: found with IoU 30*20/(30*30) = 2/3 > .5 -> 100. Bird: no objects -> no AP.
    found = Instances((100, 100))
    found.pred_boxes = Boxes(torch.tensor([[10.0, 10, 30, 30], [10, 60, 40, 80]]))
    found.scores = torch.tensor([0.9, 0.8])
    found.pred_classes = torch.tensor([0, 1])
    evaluator = BoxEvaluator(dataset, tasks=("bbox",), output_dir=str(tmp_path / "out"))
    evaluator.reset()
    evaluator.process([{"image_id": 1}], [{"instances": found}])
    results = evaluator.evaluate()["bbox"]
    assert results["AP50-cat"] == pytest.approx(100 * 51 / 101)
    assert results["AP50-dog"] == pytest.approx(100)
    assert math.isnan(results["AP50-bird"])
    assert results["AP50"] == pytest.approx((100 * 51 / 101 + 100) / 2)
