"""The objects of a dataset as explanations are measured against them: boxes, classes and, where there are any, masks.

Shapes: G annotations of an image, (h,w) image. Boxes are XYXY in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from odam_d2.data.catalog import check_registered
from odam_d2.data.coco_json import check_box, load_coco
from odam_d2.data.images import read_image
from odam_d2.data.masks import object_mask


@dataclass(frozen=True, eq=False)
class ImageObjects:
    """The annotations of one image.

    Args:
        image_id: in the dataset.
        file: of the image.
        size: (h,w).
        ids: annotation ids, (G,); where a dataset has none, such as CrowdHuman's, the place in the image from 0 on.
        boxes: (G,4), as annotated; CrowdHuman's full boxes may leave the image.
        classes: (G,) int64.
        crowd: whether a box stands for a crowd or a region to be ignored instead of one object, (G,) bool.
        segmentations: COCO's masks, (G,), None for an object without.
    """

    image_id: str
    file: str
    size: tuple[int, int]
    ids: Sequence[str]
    boxes: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray
    segmentations: Sequence[Any]

    @property
    def clipped_boxes(self) -> np.ndarray:
        """The parts of the boxes in the image, as detectors predict them, (G,4)."""
        height, width = self.size
        return self.boxes.clip(0, [width, height, width, height])

    def others(self, row: int) -> np.ndarray:
        """All other objects of the image, whatever their class (section 4.2.4 of the paper), but no crowds: rows."""
        return np.flatnonzero(~self.crowd & (np.arange(len(self.crowd)) != row))

    def masks(self) -> list[np.ndarray | None]:
        """The mask of each object, (h,w) bool; None where there is none, and for crowds.

        Raises:
            ValueError: a mask that cannot be read; the message names the annotation.
        """
        masks: list[np.ndarray | None] = []
        for name, segmentation, crowd in zip(self.ids, self.segmentations, self.crowd):
            try:
                masks.append(None if crowd or not segmentation else object_mask(segmentation, *self.size))
            except ValueError as error:
                raise ValueError(f"annotation {name} of image {self.image_id}: {error}") from error
        return masks

    def read_image(self) -> np.ndarray:
        """The image that the annotations belong to.

        Returns:
            (h,w,3) uint8, BGR.

        Raises:
            FileNotFoundError: no such file.
            ValueError: it is unreadable, or of another size than the dataset says.
        """
        image = read_image(self.file)
        if image.shape[:2] != tuple(self.size):
            raise ValueError(f"{self.file} has size {image.shape[:2]}; the dataset says {tuple(self.size)}")
        return image


def load_objects(dataset_name: str) -> dict[str, ImageObjects]:
    """Read a registered dataset.

    Args:
        dataset_name: of a dataset in COCO's format, where annotations have ids, or of any other with boxes.

    Returns:
        image id -> its annotations, in the dataset's order.

    Raises:
        ValueError: an unknown dataset (those whose files are here are listed), or one with a fault: a field that is
            missing or of another kind, or an image id that comes twice; the message names the entry and the field.
        FileNotFoundError: the dataset's files are missing.
    """
    check_registered(dataset_name)
    metadata = MetadataCatalog.get(dataset_name)
    # Detectron2's evaluator gives any dataset a json_file; one that is COCO's from the start has an image_root.
    json_file = metadata.get("json_file") if metadata.get("image_root") else None
    # Detectron2's dicts lack the annotations' ids; its reader of COCO files gives them if asked.
    if metadata.get("evaluator_type") == "coco" and json_file and Path(json_file).is_file():
        try:
            dicts = load_coco(json_file, metadata.image_root, dataset_name, extra_annotation_keys=["id"])
        except AssertionError as error:
            reason = str(error).splitlines()[0] if str(error) else "its annotations contradict each other"
            raise ValueError(f"the dataset {dataset_name} cannot be read: {reason}") from error
    else:
        try:
            dicts = DatasetCatalog.get(dataset_name)
        except FileNotFoundError as error:
            if error.filename is None:
                raise  # by a dataset of ours, which says what to do
            raise FileNotFoundError(
                f"the dataset {dataset_name} lacks its file {error.filename}; set DETECTRON2_DATASETS to the folder of "
                "your datasets"
            ) from error
    check_dicts(dicts, dataset_name)
    return {str(one["image_id"]): _to_objects(one) for one in dicts}


def check_dicts(dicts: Sequence[dict[str, Any]], dataset_name: str) -> None:
    """Refuse dataset dicts from which objects cannot be told: Detectron2 takes what a user's function returns.

    Args:
        dicts: in Detectron2's format.
        dataset_name: for the message.

    Raises:
        ValueError: a field that is missing or of another kind, or an image id that comes twice; the message names the
            dataset, the image and the field.
    """
    known: dict[str, str] = {}
    for place, one in enumerate(dicts):
        where = f"the dataset {dataset_name}, image {one.get('file_name', place)}"
        for field in ("file_name", "image_id", "height", "width"):
            if one.get(field) is None:
                raise ValueError(f"{where}: it lacks the field {field!r}, which Detectron2's dataset dicts have")
        name = str(one["image_id"])
        if name in known:
            raise ValueError(
                f"the dataset {dataset_name}: the images {known[name]} and {one['file_name']} share the image_id "
                f"{name}; give each an id of its own"
            )
        known[name] = one["file_name"]
        ids: set[str] = set()
        for number, annotation in enumerate(one.get("annotations", [])):
            own = str(annotation.get("id", number))
            try:
                _check_annotation(annotation)
                if own in ids:
                    raise ValueError("another one has the same id")
            except ValueError as error:
                raise ValueError(f"{where}, annotation {own}: {error}") from error
            ids.add(own)


def _check_annotation(annotation: dict[str, Any]) -> None:
    check_box(annotation, "four numbers")
    mode, label = annotation.get("bbox_mode"), annotation.get("category_id")
    if mode not in (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS):
        raise ValueError(f"its bbox_mode is {mode!r}; it must be BoxMode.XYXY_ABS or BoxMode.XYWH_ABS")
    if not isinstance(label, (int, np.integer)) or label < 0:
        raise ValueError(f"its category_id is {label!r}; it must be the number of a class, from 0 on")


def _to_objects(one: dict[str, Any]) -> ImageObjects:
    annotations = one.get("annotations", [])
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
    return ImageObjects(
        image_id=str(one["image_id"]),
        file=one["file_name"],
        size=(one["height"], one["width"]),
        ids=[str(a.get("id", place)) for place, a in enumerate(annotations)],
        boxes=np.array(boxes, dtype=np.float64).reshape(-1, 4),
        classes=np.array([a["category_id"] for a in annotations], dtype=np.int64),
        crowd=np.array([bool(a.get("iscrowd", 0)) for a in annotations], dtype=bool),
        segmentations=[a.get("segmentation") for a in annotations],
    )
