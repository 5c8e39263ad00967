"""Pairs of overlapping detections that an NMS spared: two people, or one person twice?

Shapes: D detections of an image, N people.
"""

from typing import NamedTuple

import numpy as np

from odam_d2.boxes import box_iou


class SparedPairs(NamedTuple):
    """Counts of pairs, which add up over images.

    Attributes:
        pairs: of detections that overlap so much that classical NMS would have removed one.
        two_people: of these, those whose boxes lie on a person each, and not on the same one.
    """

    pairs: int
    two_people: int


def count_spared(
    boxes: np.ndarray,
    scores: np.ndarray,
    people: np.ndarray,
    nms_threshold: float = 0.5,
    min_score: float = 0.3,
    match_threshold: float = 0.5,
) -> SparedPairs:
    """Count the spared pairs of an image.

    Args:
        boxes: of the detections that are left after NMS, XYXY, (D,4).
        scores: (D,).
        people: full boxes of the people, XYXY, (N,4).
        nms_threshold: IoU from which classical NMS removes the weaker of two.
        min_score: weaker detections are not looked at.
        match_threshold: a box lies on the person with whom its IoU is highest, if it is more than this.
    """
    boxes = boxes[scores >= min_score]
    first, second = np.nonzero(np.triu(box_iou(boxes, boxes) >= nms_threshold, k=1))
    if not len(first):
        return SparedPairs(0, 0)
    if not len(people):
        return SparedPairs(len(first), 0)
    overlap = box_iou(boxes, people)
    person = np.where(overlap.max(axis=1) > match_threshold, overlap.argmax(axis=1), -1)
    two = (person[first] >= 0) & (person[second] >= 0) & (person[first] != person[second])
    return SparedPairs(len(first), int(two.sum()))
