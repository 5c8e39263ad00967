"""CrowdHuman as a Detectron2 dataset: full boxes of people in crowds, and regions to be ignored.

``crowdhuman_train`` (15,000 images) and ``crowdhuman_val`` (4,370) are read from ``$DETECTRON2_DATASETS/crowdhuman``::

    crowdhuman/annotation_train.odgt
    crowdhuman/annotation_val.odgt
    crowdhuman/Images/<ID>.jpg
"""

import functools
import os
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode

from odam_d2.data.catalog import datasets_folder, register_dataset
from odam_d2.data.images import read_image_size
from odam_d2.data.odgt import read_odgt


def load_crowdhuman(
    odgt_file: str, image_root: str, suffix: str = ".jpg", advice: str | None = None
) -> list[dict[str, Any]]:
    """Read an odgt file as Detectron2 dataset dicts.

    Args:
        odgt_file: such as ``annotation_val.odgt``.
        image_root: folder of the images, ``<ID>`` + ``suffix`` each.
        suffix: of the images' names.
        advice: what to do about missing files; default how to get CrowdHuman.

    Returns:
        dicts with ``file_name``, ``image_id`` (the ID), ``height``, ``width`` (the file's where it says, else read from
        the image's header) and ``annotations``: ``bbox`` (the full box, XYXY_ABS, may leave the image), ``category_id``
        0, ``iscrowd`` 1 for regions to be ignored, which Detectron2's mapper leaves out of training.

    Raises:
        FileNotFoundError: the odgt file or an image is missing; the message ends with the advice.
        ValueError: a bad line of the odgt file, or an unreadable image.
    """
    if not Path(odgt_file).is_file():
        raise FileNotFoundError(f"there is no annotation file {odgt_file}; {advice or _advice(Path(odgt_file).parent)}")
    images = read_odgt(odgt_file)
    files = [os.path.join(image_root, image.id + suffix) for image in images]
    missing = [file for file in files if not os.path.isfile(file)]
    if missing:
        count = f"{len(missing)} of {len(files)} images are missing, the first is {missing[0]}"
        raise FileNotFoundError(f"{count}; {advice or _advice(Path(image_root).parent)}")
    dicts = []
    for image, file in zip(images, files):
        known = image.height is not None and image.width is not None
        height, width = (image.height, image.width) if known else read_image_size(file)
        annotations = [
            {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "iscrowd": int(ignored)}
            for box, ignored in zip(image.boxes.tolist(), image.ignored)
        ]
        dicts.append(
            {
                "file_name": file,
                "image_id": image.id,
                "height": height,
                "width": width,
                "annotations": annotations,
            }
        )
    return dicts


def register_crowdhuman(root: str | Path | None = None) -> None:
    """Register ``crowdhuman_train`` and ``crowdhuman_val``, but for names that are taken.

    The files are read when the dataset is asked for, as Detectron2 does; missing ones are reported then.

    Args:
        root: folder that holds ``crowdhuman``; default ``$DETECTRON2_DATASETS``, as for Detectron2's own datasets.
    """
    base = datasets_folder(root) / "crowdhuman"
    for split in ("train", "val"):
        odgt_file, image_root = str(base / f"annotation_{split}.odgt"), str(base / "Images")
        register_dataset(
            f"crowdhuman_{split}",
            functools.partial(load_crowdhuman, odgt_file, image_root),
            evaluator_type="crowdhuman",
            odgt_file=odgt_file,
            image_root=image_root,
            thing_classes=["person"],
        )


def _advice(folder: Path) -> str:
    return (
        "download annotation_train.odgt, annotation_val.odgt and the image archives from CrowdHuman's own site, "
        f"www.crowdhuman.org, and put the annotations into {folder} and all images into {folder / 'Images'}"
    )
