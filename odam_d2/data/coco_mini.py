"""Registers the small COCO split that the shipped detectors are trained on.

``coco_mini_train`` (343 images) and ``coco_mini_val`` (98 images) are read from ``$DETECTRON2_DATASETS/coco_mini``:
COCO's own annotation files restricted to those images, ``annotations/instances_{train,val}2017.json`` beside
``train2017/`` and ``val2017/``.
"""

import functools
from pathlib import Path

from detectron2.data.datasets.builtin_meta import _get_builtin_metadata

from odam_d2.data.catalog import datasets_folder, register_dataset
from odam_d2.data.coco_json import load_coco


def register_coco_mini(root: str | Path | None = None) -> None:
    """Register ``coco_mini_train`` and ``coco_mini_val``, but for names that are taken.

    Args:
        root: folder that holds ``coco_mini``; default ``$DETECTRON2_DATASETS``, as for Detectron2's own datasets.
    """
    base = datasets_folder(root) / "coco_mini"
    for split in ("train", "val"):
        name = f"coco_mini_{split}"
        json_file = str(base / "annotations" / f"instances_{split}2017.json")
        image_root = str(base / f"{split}2017")
        register_dataset(
            name,
            functools.partial(load_coco, json_file, image_root, name),
            evaluator_type="coco",
            json_file=json_file,
            image_root=image_root,
            # The 80 COCO classes in COCO's order, known before the files are read: a predictor needs only the names.
            **_get_builtin_metadata("coco"),
        )
