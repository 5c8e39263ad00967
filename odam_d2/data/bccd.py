"""BCCD as Detectron2 datasets: blood cells under a microscope, in VOC's layout.

``bccd_train`` (205 images) and ``bccd_val`` (87) are read from ``$DETECTRON2_DATASETS/bccd``, a folder as for
:func:`odam_d2.data.voc.load_voc`. Three classes: platelets, red and white blood cells.
"""

import functools
from pathlib import Path

from odam_d2.data.catalog import datasets_folder, register_dataset
from odam_d2.data.voc import load_voc

CLASSES = ("Platelets", "RBC", "WBC")


def register_bccd(root: str | Path | None = None) -> None:
    """Register ``bccd_train`` and ``bccd_val``, but for names that are taken; the files are read later.

    Args:
        root: folder that holds ``bccd``; default ``$DETECTRON2_DATASETS``, as for Detectron2's own datasets.
    """
    folder = str(datasets_folder(root) / "bccd")
    for split in ("train", "val"):
        register_dataset(
            f"bccd_{split}",
            functools.partial(load_voc, folder, split, CLASSES),
            evaluator_type="coco",
            dirname=folder,
            split=split,
            thing_classes=list(CLASSES),
        )
