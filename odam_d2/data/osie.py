"""OSIE's photographs with the boxes of a detector, as a Detectron2 dataset to train on.

``osie_pseudo`` is read from ``$DETECTRON2_DATASETS/osie``: 700 photographs in ``stimuli/``, and boxes of the 80 COCO
classes, each with the ``score`` that the detector gave it, in ``annotations/instances_pseudo.json``.
"""

from pathlib import Path

from odam_d2.data.catalog import datasets_folder
from odam_d2.data.coco_mini import register_coco_file


def register_osie(root: str | Path | None = None) -> None:
    """Register ``osie_pseudo``, but for a name that is taken; the files are read later.

    Args:
        root: folder that holds ``osie``; default ``$DETECTRON2_DATASETS``, as for Detectron2's own datasets.
    """
    base = datasets_folder(root) / "osie"
    register_coco_file("osie_pseudo", base / "annotations" / "instances_pseudo.json", base / "stimuli", ("score",))
