"""The splits of the synthetic crowds, registered with Detectron2; ``dataset.py``, which needs OpenCV, draws them.

``synthetic_crowd_<split>`` (evaluated as CrowdHuman is) and ``synthetic_crowd_<split>_coco`` (with masks) are read from
``$DETECTRON2_DATASETS/synthetic_crowd/<split>``.
"""

import functools
import os
from pathlib import Path
from typing import Any

from odam_d2.data.catalog import datasets_folder, register_dataset
from odam_d2.data.coco_json import load_coco
from odam_d2.data.crowdhuman import load_crowdhuman

# Split -> (seed, number of images). On ``tune`` settings are chosen, ``demo`` is shown, figures are made on the others.
SPLITS = {"train": (0, 1200), "val0": (1, 100), "val1": (2, 100), "val2": (3, 100), "tune": (4, 100), "demo": (5, 10)}


def register_synthetic_crowds(root: str | Path | None = None) -> None:
    """Register ``synthetic_crowd_<split>`` and ``synthetic_crowd_<split>_coco``, but for names that are taken.

    The files are read when the dataset is asked for, as Detectron2 does; a missing one is reported then, with the
    command that makes it.

    Args:
        root: folder that holds ``synthetic_crowd``; default ``$DETECTRON2_DATASETS``, as for Detectron2's own datasets.
    """
    base = datasets_folder(root) / "synthetic_crowd"
    for split in SPLITS:
        name, folder = f"synthetic_crowd_{split}", base / split
        shared = {"image_root": str(folder / "images"), "thing_classes": ["person"]}
        register_dataset(
            name,
            functools.partial(_load_odgt, folder),
            evaluator_type="crowdhuman",
            odgt_file=str(folder / "annotation.odgt"),
            **shared,
        )
        # register_coco_instances, but for the message where the file is missing.
        register_dataset(
            f"{name}_coco",
            functools.partial(_load_coco, folder, f"{name}_coco"),
            evaluator_type="coco",
            json_file=str(folder / "instances.json"),
            thing_dataset_id_to_contiguous_id={1: 0},
            **shared,
        )


def _load_odgt(folder: Path) -> list[dict[str, Any]]:
    return load_crowdhuman(str(_existing(folder / "annotation.odgt")), str(folder / "images"))


def _load_coco(folder: Path, name: str) -> list[dict[str, Any]]:
    return load_coco(str(_existing(folder / "instances.json")), str(folder / "images"), name)


def _existing(file: Path) -> Path:
    if file.is_file():
        return file
    # The plain command writes to the default place.
    where = (
        ""
        if os.environ.get("DETECTRON2_DATASETS", "datasets") == str(file.parents[2])
        else f" --root {file.parents[1]}"
    )
    raise FileNotFoundError(f"there is no {file}; make it with: python scripts/make_synthetic_crowd.py{where}")
