"""Which detections of one image find which people: greedy matching by score, and maximum-weight matching.

Regions to be ignored take no part in the matching. They absorb, as many as come, what nothing matched: a detection of
which more than half lies in one of them is neither right nor wrong. Thresholds are strict everywhere.

Shapes: D detections of an image by descending score, G people, I regions to be ignored, T score thresholds.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from odam_d2.boxes import box_areas, box_intersections, box_iou
from odam_d2.data.odgt import OdgtDetections, OdgtImage

# IoU that a match exceeds, and share of a box that lies in a region where that region takes it.
THRESHOLD = 0.5
# Verdicts on a detection.
HIT, FALSE, DROPPED = 1, 0, -1


@dataclass(frozen=True, eq=False)
class Overlaps:
    """How the detections of an image lie to its people and its regions to be ignored, all clipped to the image.

    Args:
        scores: (D,) descending; equal ones keep their order.
        iou: (D,G).
        detection_inside: (D,) bool, more than half in one region to be ignored.
        person_inside: (G,) bool, likewise.
    """

    scores: np.ndarray
    iou: np.ndarray
    detection_inside: np.ndarray
    person_inside: np.ndarray


def clip_boxes(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Boxes cut to the image as CrowdHuman's tool does: 0 <= x1 <= w-1, 0 <= y1 <= h-1, 0 <= x2 <= w, 0 <= y2 <= h.

    A box right of the image so becomes its last column of pixels, one left of it a box without area.

    Args:
        boxes: (N,4) XYXY.
        height: of the image, in pixels.
        width: likewise.

    Returns:
        (N,4), a new array.
    """
    return np.maximum(np.minimum(boxes, [width - 1, height - 1, width, height]), 0)


def measure_overlaps(image: OdgtImage, found: OdgtDetections | None) -> Overlaps:
    """Compare the detections of an image with its ground truth.

    Args:
        image: ground truth.
        found: detections, None for none.

    Returns:
        the overlaps of the clipped boxes. Without detections the size of the image may be unknown; the ground truth is
        then taken unclipped.
    """
    people, regions = image.boxes[~image.ignored], image.boxes[image.ignored]
    boxes, scores = np.zeros((0, 4)), np.zeros(0)
    height, width = image.height, image.width
    if found is not None:
        order = np.argsort(-found.scores, kind="stable")
        boxes, scores = found.boxes[order], found.scores[order]
        height, width = found.height, found.width
    if height is not None and width is not None:
        boxes, people, regions = (clip_boxes(b, height, width) for b in (boxes, people, regions))
    return Overlaps(scores, box_iou(boxes, people), _inside(boxes, regions), _inside(people, regions))


def match_by_score(overlaps: Overlaps) -> np.ndarray:
    """Greedy matching: by descending score, each detection takes the person of the largest IoU that is still free.

    A detection that finds no free person with IoU > 0.5, because there is none or others were faster, is DROPPED if
    more than half of it lies in a region to be ignored, else FALSE. Of several people with the same IoU the first in
    the ground truth is taken.

    Returns:
        (D,) int8: HIT, FALSE or DROPPED.
    """
    verdicts = np.where(overlaps.detection_inside, DROPPED, FALSE).astype(np.int8)
    rows, columns = np.nonzero(overlaps.iou > THRESHOLD)
    # Only candidate pairs are gone through, a detection's own by descending IoU: few detections have any.
    order = np.lexsort((-overlaps.iou[rows, columns], rows))
    free, last, hits = [True] * overlaps.iou.shape[1], -1, []
    for row, column in zip(rows[order].tolist(), columns[order].tolist()):
        if row != last and free[column]:
            free[column], last = False, row
            hits.append(row)
    verdicts[hits] = HIT
    return verdicts


def count_pairs(overlaps: Overlaps, thresholds: np.ndarray) -> np.ndarray:
    """What the Jaccard index of an image is made of, at each score threshold.

    Pairs of people and detections with a score > threshold, of IoU > 0.5, form the one-to-one matching of the largest
    sum of IoUs. Unmatched detections and unmatched people that lie in a region to be ignored by more than half leave.
    Where several matchings have the same largest sum, any one counts.

    Args:
        overlaps: of the image.
        thresholds: (T,) of the score.

    Returns:
        (T,3) int64: pairs k, people m, detections n.
    """
    # The detections above a threshold are the first ones. The whole of their IoU matrix goes into the assignment:
    # cutting it to rows and columns with a candidate costs as much as it saves.
    numbers = np.searchsorted(-overlaps.scores, -thresholds, side="left").tolist()
    weights = np.where(overlaps.iou > THRESHOLD, overlaps.iou, 0.0)
    counts = np.empty((len(thresholds), 3), dtype=np.int64)
    for t, number in enumerate(numbers):
        rows, columns = linear_sum_assignment(weights[:number], maximize=True)
        # The assignment is complete: pairs without weight are none.
        real = weights[rows, columns] > 0
        rows, columns = rows[real], columns[real]
        detections_out = overlaps.detection_inside[:number].sum() - overlaps.detection_inside[rows].sum()
        people_out = overlaps.person_inside.sum() - overlaps.person_inside[columns].sum()
        counts[t] = len(rows), weights.shape[1] - people_out, number - detections_out
    return counts


def _inside(boxes: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Whether more than half of each box lies in one region, (A,4) and (I,4) -> (A,) bool; never for an empty box."""
    # A product, where a quotient would divide by the area of an empty box.
    return (box_intersections(boxes, regions) > THRESHOLD * box_areas(boxes)[:, None]).any(axis=1)
