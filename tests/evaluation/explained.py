"""Datasets whose objects a random detector detects perfectly: its own detections are written as the truth."""

import json
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from PIL import Image

from helpers import random_photo, small_cfg
from odam_d2.predictor import ODAMPredictor

SIZES = [(75, 133), (120, 90), (96, 96)]
# Objects of each image that are detections; each image also has a lamp nobody detects, the last one a crowd.
DETECTED = [3, 2, 1]
# Their ids have gaps, their places in this list have none.
CATEGORIES = [c for c in COCO_CATEGORIES if c["isthing"]]
# A random detector's scores are low.
THRESHOLD = 0.0


def make_predictor(kind: str, weights: str) -> ODAMPredictor:
    return ODAMPredictor(small_cfg(kind, ["MODEL.WEIGHTS", weights]))


def write_dataset(folder: Path, predictor: ODAMPredictor) -> Path:
    """COCO's format: images 1, 2, 3, annotation ids 10, 20, ...; masks are the boxes' left halves."""
    folder.mkdir()
    images, annotations = [], []
    for number, (size, count) in enumerate(zip(SIZES, DETECTED), 1):
        photo = random_photo(*size, seed=number)
        Image.fromarray(photo).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": size[0], "width": size[1]})
        found = predictor(photo[:, :, ::-1])["instances"]
        boxes, classes = found.pred_boxes.tensor.tolist()[:count], found.pred_classes.tolist()[:count]
        for box, label in [*zip(boxes, classes), ([2.0, 3.0, 20.0, 30.0], 79)]:
            annotations.append(annotation(len(annotations) + 1, number, box, label))
    crowd = annotation(len(annotations) + 1, 3, [0, 0, 50, 50], 0)
    run_lengths = {"size": [96, 96], "counts": [0, 96 * 50, 96 * 46]}
    annotations.append(crowd | {"iscrowd": 1, "segmentation": run_lengths})
    categories = [{"id": c["id"], "name": c["name"]} for c in CATEGORIES]
    path = folder / "instances.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def annotation(number, image, box, label):
    x1, y1, x2, y2 = box
    middle = (x1 + x2) / 2
    return {
        "id": 10 * number,
        "image_id": image,
        "category_id": CATEGORIES[label]["id"],
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": (x2 - x1) * (y2 - y1),
        "iscrowd": 0,
        "segmentation": [[x1, y1, middle, y1, middle, y2, x1, y2]],
    }


def register(name: str, path: Path) -> None:
    register_coco_instances(name, {}, str(path), str(path.parent))


def unregister(name: str) -> None:
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def read_rows(path: Path) -> list[dict]:
    """objects.csv with numbers as numbers; None for an empty cell."""
    header, *lines = path.read_text().splitlines()

    def value(name, text):
        if name in ("image_id", "annotation_id", "class", "method"):
            return text
        return float(text) if text else None

    return [{n: value(n, t) for n, t in zip(header.split(","), line.split(","))} for line in lines]


def mean(values) -> float:
    return float(np.mean([value for value in values if value is not None]))
