"""Pairs of overlapping objects that several detectors found: where to look when their heat maps are compared.

Shapes: N detectors, D detections of one of them in an image, M objects that all of them found, P pairs. Boxes are XYXY
in pixels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from odam_d2.boxes import box_iou
from odam_d2.evaluation.metrics.matching import well_detected

# Two detectors mean the same object if the IoU of their boxes is more than this.
SAME_OBJECT = 0.5


class Found(NamedTuple):
    """What one detector found in an image, after NMS.

    Attributes:
        boxes: (D,4).
        scores: (D,).
        classes: (D,) integers.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


def common_pairs(detectors: Sequence[Found], count: int, same_object: float = SAME_OBJECT) -> np.ndarray:
    """Pairs of different objects whose boxes overlap most, the same objects for all detectors.

    An object is a detection of the first detector to which each other detector has one of the same class with an IoU
    above ``same_object``, matched one to one by descending IoU. Two objects of one class whose boxes overlap, in what
    every detector found, can be a pair; what counts is the least of its IoUs over the detectors. Pairs are taken by
    descending overlap, and each object once, so that they show several parts of a crowd.

    Boxes alone decide. Chosen by ODAM-NMS, pairs would have different maps because they were chosen for them.

    Args:
        detectors: at least one; what NMS kept, so that two of its detections are two objects.
        count: of pairs, at most.
        same_object: in [0,1].

    Returns:
        (N,P,2) int64, P <= ``count``: of every detector the two detections of each pair, the one further left in the
        first detector's boxes first.

    Raises:
        ValueError: shapes that do not fit, or NaN.
    """
    objects = _common_objects(detectors, same_object)
    first, second = np.triu_indices(objects.shape[1], k=1)
    overlaps = [box_iou(one.boxes[rows], one.boxes[rows])[first, second] for one, rows in zip(detectors, objects)]
    overlap = np.min(overlaps, axis=0)
    classes = detectors[0].classes[objects[0]]
    allowed = (overlap > 0) & (classes[first] == classes[second])
    pairs: list[tuple[int, int]] = []
    taken: set[int] = set()
    for place in np.argsort(-overlap, kind="stable"):
        pair = int(first[place]), int(second[place])
        if len(pairs) < count and allowed[place] and not taken.intersection(pair):
            pairs.append(pair)
            taken.update(pair)
    chosen = objects[:, np.array(pairs, dtype=np.int64).reshape(-1, 2)]
    boxes = detectors[0].boxes[chosen[0]]
    left_first = np.argsort(boxes[..., 0] + boxes[..., 2], axis=1, kind="stable")
    return np.take_along_axis(chosen, np.broadcast_to(left_first, chosen.shape), axis=2)


def _common_objects(detectors: Sequence[Found], same_object: float) -> np.ndarray:
    """The detections of each object that all detectors found, (N,M) int64."""
    first, *others = detectors
    rows = [np.arange(len(first.boxes))]
    for other in others:
        pairs = well_detected(first.boxes, first.classes, *other, same_object, score_threshold=-np.inf)
        match = np.full(len(first.boxes), -1)
        match[pairs[:, 0]] = pairs[:, 1]
        rows.append(match)
    objects = np.stack(rows)
    return objects[:, (objects >= 0).all(axis=0)]
