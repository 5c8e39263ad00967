"""CrowdHuman's measures of detection in crowds: AP, log-average miss rate (MR^-2), Jaccard index (JI) and recall.

The definitions are those of the dataset's own tool (also CrowdDet's), on full boxes at an overlap of 0.5; matching and
ignore rules stand in ``crowd_matching``. Details that papers leave open are as in the tool, or said to differ:

* Every detection is a point of the curves, also among equal scores. Equal scores keep the order of the files: images as
  in the ground truth, detections of an image as given.
* AP is the area under the raw points by trapezoid from the first point on: nothing is interpolated and nothing counted
  left of the first point, so that a single detection has an area of 0.
* A miss rate of exactly 0 at one of the nine references makes the geometric mean 0.
* Images without detections count: their people are missed. (The tool leaves images that the detection file does not
  list out of JI.) Images without people count for the false positives per image.
* The tool adds 1e-6 to areas and to JI's denominator against division by zero; here zero is handled, and a perfect
  result is 100 exactly.

Shapes: N images, P points of a curve, T score thresholds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from odam_d2.data.odgt import OdgtDetections, OdgtImage
from odam_d2.evaluation.detections.crowd_matching import DROPPED, HIT, count_pairs, match_by_score, measure_overlaps

# False positives per image at which the miss rate is read, as the tool rounds them: equal steps in log from .01 to 1.
FPPI_REFERENCES = np.array([0.0100, 0.0178, 0.0316, 0.0562, 0.1000, 0.1778, 0.3162, 0.5623, 1.000])
# Score thresholds of which JI takes the best.
JI_THRESHOLDS = np.arange(10) / 10


@dataclass(frozen=True)
class CrowdResult:
    """The measures of a data set, in percent, and what they were computed from.

    Args:
        ap: average precision; larger is better, as for recall and ji.
        mr: log-average miss rate; smaller is better.
        ji: Jaccard index at the best score threshold.
        recall: share of people found, whatever the score.
        ji_threshold: the score threshold of ``ji``; the lowest of several equally good ones.
        images: in the ground truth.
        people: in the ground truth, without those to be ignored.
        detections: in all images.
        ignored_detections: of these, dropped from AP, MR and recall because they lie in regions to be ignored.

    All measures and the threshold are NaN where there is no person in the whole ground truth; JI and its threshold also
    where all people lie in regions to be ignored and nothing was detected.
    """

    ap: float
    mr: float
    ji: float
    recall: float
    ji_threshold: float
    images: int
    people: int
    detections: int
    ignored_detections: int


def evaluate_crowd(ground_truth: Sequence[OdgtImage], detections: Sequence[OdgtDetections]) -> CrowdResult:
    """Evaluate the detections of a data set.

    Args:
        ground_truth: every image of the data set, as from ``read_odgt``.
        detections: as from ``read_detections``, in any order; images may be missing and then have none.

    Returns:
        AP, MR^-2, JI and recall.

    Raises:
        ValueError: an image twice, detections for an image that is not in the ground truth, or image sizes that differ;
            the message names the ID.
    """
    found = _by_image(ground_truth, detections)
    # Empty arrays first, for a data set without images.
    scores, verdicts, pairs = [np.zeros(0)], [np.zeros(0, dtype=np.int8)], [np.zeros((0, len(JI_THRESHOLDS), 3), int)]
    for image in ground_truth:
        overlaps = measure_overlaps(image, found.get(image.id))
        scores.append(overlaps.scores)
        verdicts.append(match_by_score(overlaps))
        pairs.append(count_pairs(overlaps, JI_THRESHOLDS)[None])
    all_scores, all_verdicts = np.concatenate(scores), np.concatenate(verdicts)
    counted = all_verdicts != DROPPED
    hits = (all_verdicts[counted] == HIT)[np.argsort(-all_scores[counted], kind="stable")]
    people = int(sum((~image.ignored).sum() for image in ground_truth))
    ji, threshold = jaccard_index(np.concatenate(pairs)) if people else (np.nan, np.nan)
    return CrowdResult(
        ap=100 * average_precision(hits, people),
        mr=100 * log_average_miss_rate(hits, people, len(ground_truth)),
        ji=100 * ji,
        recall=100 * float(hits.sum()) / people if people else np.nan,
        ji_threshold=threshold,
        images=len(ground_truth),
        people=people,
        detections=len(all_verdicts),
        ignored_detections=int((~counted).sum()),
    )


def average_precision(hits: np.ndarray, people: int) -> float:
    """Area under the raw precision-recall points, by trapezoid from the first point on.

    Args:
        hits: (P,) bool by descending score, whether each detection found a person.
        people: number of people to be found.

    Returns:
        in [0,1]; 0 for no detections, NaN for no people.
    """
    if not people:
        return np.nan
    found = hits.cumsum()
    recall, precision = found / people, found / np.arange(1, len(hits) + 1)
    return float(((precision[1:] + precision[:-1]) / 2 * np.diff(recall)).sum())


def log_average_miss_rate(hits: np.ndarray, people: int, images: int) -> float:
    """Geometric mean of the miss rates at nine numbers of false positives per image, MR^-2.

    A reference takes the first point with at least so many false positives per image, or, where the detections end
    before, the last point.

    Args:
        hits: (P,) bool by descending score, whether each detection found a person.
        people: number of people to be found.
        images: number of images, with people or without.

    Returns:
        in [0,1]; 1 for no detections, 0 if one of the nine is 0, NaN for no people.
    """
    if not people:
        return np.nan
    if not len(hits):
        return 1.0
    missed, fppi = 1 - hits.cumsum() / people, (~hits).cumsum() / images
    points = np.searchsorted(fppi, FPPI_REFERENCES, side="left").clip(max=len(hits) - 1)
    rates = missed[points]
    return float(np.exp(np.log(rates).mean())) if rates.all() else 0.0


def jaccard_index(pairs: np.ndarray) -> tuple[float, float]:
    """Mean over images of k / (m + n - k), at the best score threshold.

    Args:
        pairs: (N,T,3) from ``count_pairs``: pairs k, people m, detections n at ``JI_THRESHOLDS``. An image with
            m = n = 0 does not count at that threshold.

    Returns:
        the index in [0,1] and its threshold, the lowest of equals; NaN both where no image counts at any threshold.
    """
    k, m, n = np.moveaxis(pairs, 2, 0)
    union = m + n - k
    images = (union > 0).sum(axis=0)
    if not images.any():
        return np.nan, np.nan
    total = np.divide(k, union, out=np.zeros(k.shape), where=union > 0).sum(axis=0)
    index = np.divide(total, images, out=np.full(total.shape, -1.0), where=images > 0)
    best = int(np.argmax(index))
    return float(index[best]), float(JI_THRESHOLDS[best])


def _by_image(ground_truth: Sequence[OdgtImage], detections: Sequence[OdgtDetections]) -> dict[str, OdgtDetections]:
    images = {image.id: image for image in ground_truth}
    if len(images) < len(ground_truth):
        raise ValueError(f"the ground truth has the image {_repeated(ground_truth)} more than once")
    found = {image.id: image for image in detections}
    if len(found) < len(detections):
        raise ValueError(f"there are detections for the image {_repeated(detections)} more than once")
    for name, image in found.items():
        if name not in images:
            raise ValueError(f"there are detections for the image {name}, which is not in the ground truth")
        truth, size = images[name], (image.height, image.width)
        if (truth.height or size[0], truth.width or size[1]) != size:
            raise ValueError(
                f"the image {name} is {truth.height} x {truth.width} (height x width) in the ground truth, "
                f"but {size[0]} x {size[1]} in the detections"
            )
    return found


def _repeated(items: Sequence[OdgtImage] | Sequence[OdgtDetections]) -> str:
    names = [item.id for item in items]
    return next(name for i, name in enumerate(names) if name in names[:i])
