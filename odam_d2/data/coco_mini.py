"""Registers the small parts of COCO that the bundled detectors are trained and measured on.

``coco_mini_train`` (343 images) and ``coco_mini_val`` (98 images) are read from ``$DETECTRON2_DATASETS/coco_mini``:
COCO's own annotation files restricted to those images, ``annotations/instances_{train,val}2017.json`` beside
``train2017/`` and ``val2017/``. ``coco_more_val`` are 122 further images of val2017 in ``coco_more``, and
``coco_mini_more_val`` the 220 of both.
"""

import functools
from pathlib import Path

from detectron2.data.datasets.builtin_meta import _get_builtin_metadata

from odam_d2.data.catalog import datasets_folder, register_dataset
from odam_d2.data.coco_json import load_coco

# Name of the dataset: folder and split.
PARTS = {
    "coco_mini_train": ("coco_mini", "train2017"),
    "coco_mini_val": ("coco_mini", "val2017"),
    "coco_more_val": ("coco_more", "val2017"),
}
BOTH, PARTS_OF_BOTH = "coco_mini_more_val", ("coco_mini_val", "coco_more_val")


def register_coco_mini(root: str | Path | None = None) -> None:
    """Register them, but for names that are taken; the files are read later.

    Args:
        root: folder that holds ``coco_mini`` and ``coco_more``; default ``$DETECTRON2_DATASETS``, as for Detectron2's
            own datasets.
    """
    # The 80 COCO classes in COCO's order, known before the files are read: a predictor needs only the names.
    classes = _get_builtin_metadata("coco")
    load = {}
    for name, (folder, split) in PARTS.items():
        base = datasets_folder(root) / folder
        json_file, image_root = str(base / "annotations" / f"instances_{split}.json"), str(base / split)
        load[name] = functools.partial(load_coco, json_file, image_root, name)
        register_dataset(name, load[name], evaluator_type="coco", json_file=json_file, image_root=image_root, **classes)
    register_dataset(
        BOTH,
        lambda: [one for name in PARTS_OF_BOTH for one in load[name]()],
        evaluator_type="coco",
        parts=PARTS_OF_BOTH,
        **classes,
    )
