"""Registers the small COCO split that the shipped detectors are trained on.

``coco_mini_train`` (343 images) and ``coco_mini_val`` (98 images) are read from ``$DETECTRON2_DATASETS/coco_mini``:
COCO's own annotation files restricted to those images, ``annotations/instances_{train,val}2017.json`` beside
``train2017/`` and ``val2017/``.
"""

import os
from pathlib import Path

from detectron2.data import DatasetCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.data.datasets.builtin_meta import _get_builtin_metadata


def register_coco_mini(root: str | Path | None = None) -> None:
    """Register ``coco_mini_train`` and ``coco_mini_val``; a second call does nothing.

    Args:
        root: folder that holds ``coco_mini``; default ``$DETECTRON2_DATASETS``, as for Detectron2's own datasets.
    """
    if "coco_mini_train" in DatasetCatalog:
        return
    base = Path(root or os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser() / "coco_mini"
    for split in ("train", "val"):
        register_coco_instances(
            f"coco_mini_{split}",
            # The 80 COCO classes in COCO's order, known before the files are read: a predictor needs only the names.
            _get_builtin_metadata("coco"),
            str(base / "annotations" / f"instances_{split}2017.json"),
            str(base / f"{split}2017"),
        )
