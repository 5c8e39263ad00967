"""Registers the small parts of COCO that the bundled detectors are trained and measured on.

``coco_mini_train`` (343 images) and ``coco_mini_val`` (98 images) are read from ``$DETECTRON2_DATASETS/coco_mini``:
COCO's own annotation files restricted to those images, ``annotations/instances_{train,val}2017.json`` beside
``train2017/`` and ``val2017/``. ``coco_more_val`` are 122 further images of val2017 in ``coco_more``, and
``coco_mini_more_val`` the 220 of both.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

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
    load = {}
    for name, (folder, split) in PARTS.items():
        base = datasets_folder(root) / folder
        load[name] = register_coco_file(name, base / "annotations" / f"instances_{split}.json", base / split)
    register_dataset(
        BOTH,
        lambda: [one for name in PARTS_OF_BOTH for one in load[name]()],
        evaluator_type="coco",
        parts=PARTS_OF_BOTH,
        **_get_builtin_metadata("coco"),
    )


def register_coco_file(
    name: str, json_file: Path, image_root: Path, extra_annotation_keys: Sequence[str] = ()
) -> Callable[[], list[dict[str, Any]]]:
    """Register an annotation file of the 80 COCO classes, but for a name that is taken; it is read later.

    Args:
        name: in Detectron2's catalogs.
        json_file: its path.
        image_root: folder of its images.
        extra_annotation_keys: fields of annotations that are kept beside COCO's own.

    Returns:
        what reads it.
    """
    load = functools.partial(load_coco, str(json_file), str(image_root), name, tuple(extra_annotation_keys))
    files = {"json_file": str(json_file), "image_root": str(image_root)}
    # The classes in COCO's order are known before the files are read: a predictor needs only the names.
    register_dataset(name, load, evaluator_type="coco", **files, **_get_builtin_metadata("coco"))
    return load
