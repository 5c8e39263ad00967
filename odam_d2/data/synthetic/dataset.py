"""Synthetic crowds: images of overlapping figures with known boxes, visible boxes and masks, a stand-in for CrowdHuman.

Image ``i`` of seed ``s`` is drawn from ``np.random.default_rng([s, i])`` alone, so a longer data set begins like a
shorter one, and every image can be made again by itself.

Shapes: N figures, M regions to ignore, (h,w) image. Boxes are XYWH in the files.
"""

import functools
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from odam_d2.boxes import box_iou
from odam_d2.data.odgt import read_odgt
from odam_d2.data.synthetic.scene import CLOSE, SIZE, Crowd, make_crowd
from odam_d2.data.synthetic.splits import SPLITS

__all__ = ["SIZE", "SPLITS", "Crowd", "crowd_statistics", "make_crowd", "write_dataset"]


def write_dataset(
    folder: Path,
    seed: int,
    count: int,
    crowd_level: float = 1.0,
    size: tuple[int, int] = SIZE,
    workers: int = 1,
    progress: Callable[[], None] | None = None,
) -> None:
    """Write a data set: ``images/<ID>.jpg``, ``annotation.odgt`` (CrowdHuman's format), ``instances.json`` (COCO's).

    The same arguments give the same bytes, however many workers there are. The folder appears only when it is complete.

    Args:
        folder: to be made; must not exist.
        seed: of the data set, at least 0.
        count: of images, at least 1.
        crowd_level: as for ``make_crowd``.
        size: (h, w) in pixels, as for ``make_crowd``.
        workers: processes that draw.
        progress: called after every image.

    Raises:
        ValueError: an argument outside its range.
        FileExistsError: the folder exists.
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    if count < 1 or workers < 1:
        raise ValueError(f"count is {count} and workers {workers}; both must be at least 1")
    if folder.exists():
        raise FileExistsError(f"{folder} exists; remove it to make it again")
    part = folder.with_name(f".{folder.name}.part")
    draw = functools.partial(_write_image, part / "images", seed, size, crowd_level)
    try:
        shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
        (part / "images").mkdir(parents=True)
        records: list[dict[str, Any]] = []
        with _pool(workers) if workers > 1 else nullcontext() as pool:
            for record in (pool.map if pool else map)(draw, range(count)):
                records.append(record)
                if progress:
                    progress()
        (part / "annotation.odgt").write_text("".join(json.dumps(_to_odgt(r)) + "\n" for r in records))
        (part / "instances.json").write_text(json.dumps(_to_coco(records)) + "\n")
        part.rename(folder)
    except OSError as error:
        raise OSError(f"the folder {folder} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _pool(workers: int) -> ProcessPoolExecutor:
    # Fresh processes: OpenCV's threads do not survive a fork. One thread each, as the processes share the cores.
    return ProcessPoolExecutor(workers, get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,))


def _write_image(folder: Path, seed: int, size: tuple[int, int], level: float, index: int) -> dict[str, Any]:
    """Draw and save one image; return what is known of it, ready for JSON, boxes as XYWH."""
    crowd = make_crowd(seed, index, size, level)
    name = f"crowd{seed}_{index:05d}"
    if not cv2.imwrite(str(folder / f"{name}.jpg"), crowd.image, [cv2.IMWRITE_JPEG_QUALITY, 92]):
        raise OSError(f"OpenCV could not write {name}.jpg")
    region_masks = np.zeros((len(crowd.ignore_regions), *size), bool)
    for mask, (x1, y1, x2, y2) in zip(region_masks, crowd.ignore_regions.astype(int)):
        mask[y1:y2, x1:x2] = True
    kinds = ("full_boxes", "visible_boxes", "head_boxes")
    boxes = {kind: np.concatenate([getattr(crowd, kind), crowd.ignore_regions]).astype(int) for kind in kinds}
    masks = [coco_mask.encode(np.asfortranarray(m, np.uint8)) for m in (*crowd.visible_masks, *region_masks)]
    return {
        "id": name,
        "size": size,
        "ignored": [*crowd.ignored.tolist(), *[True] * len(region_masks)],
        "regions": len(region_masks),
        "masks": [{"size": list(size), "counts": mask["counts"].decode("ascii")} for mask in masks],
        "areas": [int(coco_mask.area(mask)) for mask in masks],
    } | {kind: np.concatenate([b[:, :2], b[:, 2:] - b[:, :2]], axis=1).tolist() for kind, b in boxes.items()}


def _to_odgt(record: dict[str, Any]) -> dict[str, Any]:
    found = []
    people = len(record["ignored"]) - record["regions"]
    for i, ignored in enumerate(record["ignored"]):
        full, visible, head = (record[kind][i] for kind in ("full_boxes", "visible_boxes", "head_boxes"))
        extra = {"box_id": i, "occ": int(full != visible)} if i < people else {}
        extra |= {"ignore": 1} if ignored else {}
        tag = "person" if i < people else "mask"
        found.append({"tag": tag, "hbox": head, "head_attr": {}, "fbox": full, "vbox": visible, "extra": extra})
    return {"ID": record["id"], "height": record["size"][0], "width": record["size"][1], "gtboxes": found}


def _to_coco(records: list[dict[str, Any]]) -> dict[str, Any]:
    images, annotations = [], []
    for index, record in enumerate(records):
        (h, w), name = record["size"], f"{record['id']}.jpg"
        images.append({"id": index, "file_name": name, "height": h, "width": w})
        for i, ignored in enumerate(record["ignored"]):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index,
                    "category_id": 1,
                    "bbox": record["full_boxes"][i],
                    "visible_bbox": record["visible_boxes"][i],
                    "segmentation": record["masks"][i],
                    "area": record["areas"][i],
                    "iscrowd": int(ignored),
                }
            )
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}


def crowd_statistics(folder: Path) -> dict[str, float]:
    """Return what is comparable with CrowdHuman's own statistics of a folder that ``write_dataset`` made.

    Returns:
        ``images``; and an image, on average, ``objects`` (figures not ignored), ``pairs`` of them whose full boxes have
        an IoU over 0.5 (CrowdHuman: 22.6 and 2.4) and ``ignored`` figures and regions.

    Raises:
        FileNotFoundError: the folder holds no ``annotation.odgt``.
    """
    images = read_odgt(Path(folder) / "annotation.odgt")
    people = [image.boxes[~image.ignored] for image in images]
    pairs = [np.triu(box_iou(boxes, boxes) > CLOSE, 1).sum() for boxes in people]
    return {
        "images": len(images),
        "objects": float(np.mean([len(boxes) for boxes in people])),
        "pairs": float(np.mean(pairs)),
        "ignored": float(np.mean([image.ignored.sum() for image in images])),
    }
