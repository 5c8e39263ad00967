"""Which objects of an image are explained: the well-detected ones.

Shapes: D detections.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from odam_d2.data.objects import ImageObjects
from odam_d2.evaluation.metrics.matching import well_detected
from odam_d2.evaluation.study.settings import ExplanationSettings

Item = TypeVar("Item")

# Detections of an image that are matched with objects, as in COCO's evaluation.
DETECTIONS = 100


def match_objects(
    objects: ImageObjects, boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, settings: ExplanationSettings
) -> list[tuple[int, int]]:
    """The well-detected objects of an image.

    Detections lie in the image, so only the part of an object's box that does is compared with them.

    Args:
        objects: of the image.
        boxes: the detector's detections, the best first, in pixels of the image, (D,4).
        scores: (D,).
        classes: (D,).
        settings: thresholds.

    Returns:
        (row of the object, row of its detection), by object.
    """
    found = (part[:DETECTIONS] for part in (boxes, scores, classes))
    thresholds = (settings.iou_threshold, settings.score_threshold)
    pairs = well_detected(objects.clipped_boxes, objects.classes, *found, *thresholds, objects.crowd)
    return [(int(row), int(detection)) for row, detection in pairs]


def choose_evenly(items: Sequence[Item], most: int) -> list[Item]:
    """Some of the items, spread evenly over them: the middles of equal parts.

    Args:
        items: in order.
        most: at most so many, at least 1.
    """
    count = min(most, len(items))
    return [items[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)]
