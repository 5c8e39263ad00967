"""What is wrong with detections: the six kinds of error of TIDE (Bolya et al., ECCV 2020).

Shapes: G objects, D detections of an image. Boxes are XYXY in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from odam_d2.boxes import box_areas, box_intersections, box_iou
from odam_d2.evaluation.metrics.matching import check_matching

# What a detection can be: right, one of five errors, or on a region that does not count.
CORRECT, IGNORED = "correct", "ignored"
ERRORS = ("classification", "localisation", "both", "duplicate", "background")
# What an object can be that nothing found.
MISSED = "missed"
KINDS = {
    "classification": "the box fits an object, the class does not",
    "localisation": "the class is an object's, the box does not fit it",
    "both": "the box does not fit the object, and the class is another one",
    "duplicate": "the object was found already, by a detection with a higher score",
    "background": "there is nothing that it could mean",
    "missed": "an object that no detection found or meant",
}
# From this IoU on, a box fits; up to the other, it means nothing (TIDE's t_f and t_b).
FOREGROUND, BACKGROUND = 0.5, 0.1


@dataclass(frozen=True, eq=False)
class ErrorModes:
    """The detections of an image and its objects, sorted.

    Args:
        kinds: of each detection, :data:`CORRECT`, :data:`IGNORED` or one of :data:`ERRORS`, D of them.
        objects: the object that each detection found or that its error is about, (D,) int64; -1 for none.
        rivals: the detection that had found a duplicate's object before, (D,) int64; else -1.
        iou: of each detection with that object, (D,); 0 without one.
        found: the detection that found each object, (G,) int64; -1 for none.
        missed: objects that nothing found and that no classification or localisation error is about, (M,) int64.
    """

    kinds: Sequence[str]
    objects: np.ndarray
    rivals: np.ndarray
    iou: np.ndarray
    found: np.ndarray
    missed: np.ndarray


def sort_errors(
    gt_boxes: np.ndarray,
    gt_classes: np.ndarray,
    boxes: np.ndarray,
    scores: np.ndarray,
    classes: np.ndarray,
    gt_crowd: np.ndarray | None = None,
    foreground: float = FOREGROUND,
    background: float = BACKGROUND,
) -> ErrorModes:
    """Sort every detection and every object of an image.

    Detections are matched by descending score, each with the object of its class that nothing has found yet and with
    which its IoU is highest and at least ``foreground``. Of the others, the first that is true:

    * *localisation*: its IoU with an object of its class is at least ``background``, and less than ``foreground``
      with all of them,
    * *classification*: its IoU with an object of another class is at least ``foreground``,
    * *duplicate*: its IoU with an object of its class that was found is at least ``foreground``,
    * *background*: its IoU with every object is less than ``background``,
    * *both*: what is left, an IoU between the two with an object of another class.

    An object is *missed* if no detection found it, and none meant it with a classification or localisation error. A
    detection that found nothing and lies by at least ``foreground`` of its area in a crowd of its class is ignored, as
    in COCO's evaluation.

    Args:
        gt_boxes: (G,4).
        gt_classes: (G,) integers.
        boxes: detections after NMS, (D,4).
        scores: (D,).
        classes: (D,) integers.
        gt_crowd: whether a box is a crowd instead of an object, (G,) bool; default none.
        foreground: in (0,1].
        background: in [0, foreground).

    Raises:
        ValueError: shapes that do not fit, NaN, or thresholds out of their range.
    """
    _check_thresholds(foreground, background)
    targets, gt_labels, crowd, own, ranks, labels = check_matching(
        gt_boxes, gt_classes, gt_crowd, boxes, scores, classes
    )
    iou = box_iou(own, targets) * ~crowd
    same = (labels[:, None] == gt_labels) & ~crowd
    found = _match(iou, same, ranks, foreground)
    kinds, objects, rivals = [], np.full(len(own), -1), np.full(len(own), -1)
    objects[found[found >= 0]] = np.flatnonzero(found >= 0)
    in_crowd = _in_crowd(own, targets, (labels[:, None] == gt_labels) & crowd, foreground)
    for d in range(len(own)):
        if objects[d] >= 0:
            kind = CORRECT
        elif in_crowd[d]:
            kind = IGNORED
        else:
            kind, objects[d] = _sort_one(iou[d], same[d], found >= 0, foreground, background)
            rivals[d] = found[objects[d]] if kind == "duplicate" else -1
        kinds.append(kind)
    overlap = np.array([iou[d, row] if row >= 0 else 0.0 for d, row in enumerate(objects)], dtype=np.float64)
    return ErrorModes(kinds, objects, rivals, overlap, found, _missed(found, crowd, kinds, objects))


def _missed(found: np.ndarray, crowd: np.ndarray, kinds: Sequence[str], objects: np.ndarray) -> np.ndarray:
    """Objects that nothing found and no error of class or place was about, (M,) int64."""
    meant = [row for kind, row in zip(kinds, objects) if kind in ("classification", "localisation")]
    return np.setdiff1d(np.flatnonzero((found < 0) & ~crowd), meant)


def _check_thresholds(foreground: float, background: float) -> None:
    if not 0 <= background < foreground <= 1:
        raise ValueError(
            f"the thresholds are background {background} and foreground {foreground}; 0 <= background < foreground <= "
            "1 is needed"
        )


def _match(iou: np.ndarray, same: np.ndarray, scores: np.ndarray, foreground: float) -> np.ndarray:
    """The detection that finds each object, (G,) int64; -1 for none."""
    found = np.full(iou.shape[1], -1)
    for d in np.argsort(-scores, kind="stable"):
        open_to = np.where(same[d] & (found < 0), iou[d], -1.0)
        if len(open_to) and open_to.max() >= foreground:
            found[open_to.argmax()] = d
    return found


def _sort_one(
    iou: np.ndarray, same: np.ndarray, found: np.ndarray, foreground: float, background: float
) -> tuple[str, int]:
    """Kind of a detection that found nothing, and the object that it is about."""
    if not len(iou) or iou.max() < background:
        return "background", -1
    own, other = np.where(same, iou, 0.0), np.where(same, 0.0, iou)
    # 0 is no overlap, whatever the thresholds.
    if own.max() > 0 and background <= own.max() < foreground:
        return "localisation", int(own.argmax())
    if other.max() >= foreground:
        return "classification", int(other.argmax())
    if own.max() >= foreground:
        return "duplicate", int(np.where(found, own, 0.0).argmax())
    return ("both", int(iou.argmax())) if iou.max() > 0 else ("background", -1)


def _in_crowd(boxes: np.ndarray, targets: np.ndarray, crowd: np.ndarray, foreground: float) -> np.ndarray:
    """Whether each box lies in a crowd that it could be part of, (D,) bool."""
    inside = np.where(crowd, box_intersections(boxes, targets), 0.0)
    areas = box_areas(boxes)[:, None]
    part = np.divide(inside, areas, out=np.zeros_like(inside), where=areas > 0)
    return (part >= foreground).any(axis=1) if part.size else np.zeros(len(boxes), dtype=bool)
