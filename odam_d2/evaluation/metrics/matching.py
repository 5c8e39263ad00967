"""Which objects are detected well enough to be explained (section 4.2 of the paper: IoU > 0.9, best match).

Shapes: G objects, D detections, K pairs. Boxes are XYXY in pixels.
"""

from typing import NamedTuple

import numpy as np

from odam_d2.boxes import box_iou as unchecked_iou
from odam_d2.evaluation.metrics.localization import checked_boxes


class MatchingInput(NamedTuple):
    """The objects and detections of an image as arrays that fit.

    Attributes:
        gt_boxes: (G,4) float64.
        gt_classes: (G,).
        gt_crowd: (G,) bool.
        boxes: of the detections, (D,4) float64.
        scores: (D,) float64.
        classes: (D,).
    """

    gt_boxes: np.ndarray
    gt_classes: np.ndarray
    gt_crowd: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


def check_matching(
    gt_boxes: np.ndarray,
    gt_classes: np.ndarray,
    gt_crowd: np.ndarray | None,
    boxes: np.ndarray,
    scores: np.ndarray,
    classes: np.ndarray,
) -> MatchingInput:
    """Objects and detections that are to be matched, if they fit.

    Args:
        gt_boxes: (G,4).
        gt_classes: (G,).
        gt_crowd: (G,) bool; None for none.
        boxes: (D,4).
        scores: (D,).
        classes: (D,).

    Raises:
        ValueError: shapes that do not fit, or NaN.
    """
    targets, found = checked_boxes(gt_boxes), checked_boxes(boxes)
    ranks, labels, gt_labels = np.asarray(scores, dtype=np.float64), np.asarray(classes), np.asarray(gt_classes)
    crowd = np.zeros(len(targets), dtype=bool) if gt_crowd is None else np.asarray(gt_crowd).astype(bool)
    if not len(targets) == len(gt_labels) == len(crowd) or not len(found) == len(ranks) == len(labels):
        raise ValueError(
            f"{len(targets)} objects have {len(gt_labels)} classes and {len(crowd)} crowd flags; "
            f"{len(found)} detections have {len(ranks)} scores and {len(labels)} classes"
        )
    if np.isnan(ranks).any():
        raise ValueError("scores must not contain NaN")
    return MatchingInput(targets, gt_labels, crowd, found, ranks, labels)


def well_detected(
    gt_boxes: np.ndarray,
    gt_classes: np.ndarray,
    boxes: np.ndarray,
    scores: np.ndarray,
    classes: np.ndarray,
    iou_threshold: float = 0.9,
    score_threshold: float = 0.1,
    gt_crowd: np.ndarray | None = None,
) -> np.ndarray:
    """Pairs of an object and the detection that finds it, one to one, greedily by descending IoU.

    An object and a detection can be paired if they are of one class, IoU > ``iou_threshold`` and score >
    ``score_threshold``. Of pairs with equal IoU the one with the higher score comes first, then the earlier object.

    Args:
        gt_boxes: (G,4).
        gt_classes: (G,) integers.
        boxes: detections after class-wise NMS, (D,4).
        scores: (D,) in [0,1].
        classes: (D,) integers.
        iou_threshold: in [0,1].
        score_threshold: in [0,1].
        gt_crowd: whether a box is a crowd region instead of an object, (G,) bool; such boxes are left out.

    Returns:
        index of the object and of its detection, (K,2) int64, by object.

    Raises:
        ValueError: shapes that do not fit, or NaN.
    """
    targets, gt_labels, crowd, found, ranks, labels = check_matching(
        gt_boxes, gt_classes, gt_crowd, boxes, scores, classes
    )
    iou = box_iou(targets, found)
    allowed = (gt_labels[:, None] == labels) & ~crowd[:, None] & (ranks > score_threshold) & (iou > iou_threshold)
    rows, columns = allowed.nonzero()
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    # lexsort sorts by its last key first.
    for place in np.lexsort((rows, -ranks[columns], -iou[rows, columns])):
        row, column = int(rows[place]), int(columns[place])
        if row not in pairs and column not in taken:
            pairs[row] = column
            taken.add(column)
    return np.array(sorted(pairs.items()), dtype=np.int64).reshape(-1, 2)


def box_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of every box with every other; 0 where the union is empty.

    Args:
        first: (n,4).
        second: (m,4).

    Returns:
        (n,m) float64 in [0,1].

    Raises:
        ValueError: another shape, or NaN.
    """
    return unchecked_iou(checked_boxes(first), checked_boxes(second))
