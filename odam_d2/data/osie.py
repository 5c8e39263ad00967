"""OSIE's photographs with the boxes of a detector, as a Detectron2 dataset to train on.

``osie_pseudo`` is read from ``$DETECTRON2_DATASETS/osie``: 700 photographs in ``stimuli/``, and boxes of the 80 COCO
classes, each with the ``score`` that the detector gave it, in ``annotations/instances_pseudo.json``.
"""

import functools
from pathlib import Path

from detectron2.data.datasets.builtin_meta import _get_builtin_metadata

from odam_d2.data.catalog import datasets_folder, register_dataset
from odam_d2.data.coco_json import load_coco


def register_osie(root: str | Path | None = None) -> None:
    """Register ``osie_pseudo``, but for a name that is taken; the files are read later.

    Args:
        root: folder that holds ``osie``; default ``$DETECTRON2_DATASETS``, as for Detectron2's own datasets.
    """
    base = datasets_folder(root) / "osie"
    json_file, image_root = str(base / "annotations" / "instances_pseudo.json"), str(base / "stimuli")
    register_dataset(
        "osie_pseudo",
        functools.partial(load_coco, json_file, image_root, "osie_pseudo", ("score",)),
        evaluator_type="coco",
        json_file=json_file,
        image_root=image_root,
        **_get_builtin_metadata("coco"),
    )
