"""How often a detector is right above a score: what a person sees who looks at its detections above a threshold."""

import contextlib
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

SCORES = tuple(round(0.1 * step, 1) for step in range(1, 10))


class OperatingPoint(NamedTuple):
    """Detections that score at least ``score``, of all images and classes together.

    Attributes:
        score: the threshold, in [0,1].
        precision: in [0,1], the part of them that is right; NaN where there is none.
        recall: in [0,1], the part of the objects that they find; NaN where there is no object.
        detections: how many they are, without those on crowds.
    """

    score: float
    precision: float
    recall: float
    detections: int


def operating_points(
    ground_truth: COCO, detections: COCO, scores: Sequence[float] = SCORES, iou_threshold: float = 0.5
) -> list[OperatingPoint]:
    """Precision and recall at score thresholds, by COCO's matching.

    A detection is right if it is matched to an object of its class with at least that IoU; the best detection takes
    it. Detections on crowds count neither way. All images and classes go into one count, so that common ones weigh
    more, as they do for who looks at pictures.

    Args:
        ground_truth: as pycocotools has it.
        detections: of the same images.
        scores: thresholds, in [0,1].
        iou_threshold: in (0,1].

    Returns:
        one a threshold, in the order of ``scores``.
    """
    evaluation = COCOeval(ground_truth, detections, "bbox")
    evaluation.params.iouThrs = np.array([iou_threshold])
    evaluation.params.areaRng = evaluation.params.areaRng[:1]  # objects of any size
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
    found, right, objects = [], [], 0
    for part in evaluation.evalImgs:
        if part is None:  # an image without objects and detections of this class
            continue
        counted = ~np.asarray(part["dtIgnore"], dtype=bool)[0]
        found.append(np.asarray(part["dtScores"], dtype=np.float64)[counted])
        right.append(np.asarray(part["dtMatches"])[0][counted] > 0)
        objects += int((np.asarray(part["gtIgnore"]) == 0).sum())
    found, right = np.concatenate(found or [[]]), np.concatenate(right or [[]]) > 0
    points = []
    for score in scores:
        chosen = found >= score
        count, hits = int(chosen.sum()), int((chosen & right).sum())
        precision = hits / count if count else float("nan")
        points.append(OperatingPoint(score, precision, hits / objects if objects else float("nan"), count))
    return points
