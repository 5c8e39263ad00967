"""Which objects of a dataset are explained: the well-detected ones, or an even choice of them.

Shapes: D detections, (h,w) image.
"""

from collections.abc import Sequence

import numpy as np
from detectron2.structures import Instances
from detectron2.utils import comm

from odam_d2.data.images import read_image_bgr
from odam_d2.evaluation.explanation_objects import ImageObjects
from odam_d2.evaluation.explanation_settings import ExplanationSettings
from odam_d2.evaluation.matching import well_detected
from odam_d2.predictor import ODAMPredictor

# Detections of an image that are matched with objects, as in COCO's evaluation.
DETECTIONS = 100
# (image id, annotation id).
ObjectId = tuple[str, str]


def read_image(objects: ImageObjects) -> np.ndarray:
    """The image that annotations belong to.

    Returns:
        (h,w,3) uint8, BGR.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is unreadable, or of another size than the dataset says.
    """
    image = read_image_bgr(objects.file)
    if image.shape[:2] != tuple(objects.size):
        raise ValueError(f"{objects.file} has size {image.shape[:2]}; the dataset says {tuple(objects.size)}")
    return image


def match_objects(objects: ImageObjects, found: Instances, settings: ExplanationSettings) -> list[tuple[int, int]]:
    """The well-detected objects of an image.

    Detections lie in the image, so only the part of an object's box that does is compared with them.

    Args:
        objects: of the image.
        found: the detector's detections, the best first, in pixels of the image, (D,).
        settings: thresholds.

    Returns:
        (row of the object, row of its detection), by object.
    """
    best = found[:DETECTIONS].to("cpu")
    pairs = well_detected(
        objects.clipped_boxes,
        objects.classes,
        best.pred_boxes.tensor.numpy(),
        best.scores.numpy(),
        best.pred_classes.numpy(),
        settings.iou_threshold,
        settings.score_threshold,
        objects.crowd,
    )
    return [(int(row), int(detection)) for row, detection in pairs]


def choose_objects(
    predictor: ODAMPredictor, images: Sequence[ImageObjects], settings: ExplanationSettings
) -> set[ObjectId]:
    """Some of the well-detected objects, spread evenly over the images, for methods that take long.

    Args:
        predictor: the detector; it runs once an image. Several processes share the images and get the same answer.
        images: to choose from.
        settings: thresholds, and ``max_objects``.

    Raises:
        ValueError: an image cannot be read.
    """
    own = {}
    for objects in images[comm.get_rank() :: comm.get_world_size()]:
        found = predictor(read_image(objects))["instances"]
        own[objects.image_id] = [objects.ids[row] for row, _ in match_objects(objects, found, settings)]
    by_image: dict[str, list[str]] = {}
    for part in comm.all_gather(own):
        by_image |= part
    every = [(objects.image_id, name) for objects in images for name in by_image[objects.image_id]]
    count = min(settings.max_objects or len(every), len(every))
    # The middles of equal parts.
    return {every[(2 * i + 1) * len(every) // (2 * count)] for i in range(count)}
