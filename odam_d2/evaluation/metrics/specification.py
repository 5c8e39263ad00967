"""Whether a heat map shows what the detector uses: Deletion, Insertion and VEA (sections 4.2.1 and 4.2.2 of the paper).

Shapes: (h,w) image, n images of a batch, k points of a curve, R predictions. Heat maps are as in ``localization``,
boxes XYXY in pixels.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np

from odam_d2.evaluation.metrics.localization import CheckedMap, checked_box, checked_mask
from odam_d2.evaluation.metrics.matching import box_iou

# At which the scaled map is cut for VEA.
THRESHOLDS = tuple(step / 10 for step in range(1, 10))
# Images (n,h,w,3) uint8 -> the score of the explained object in each, (n,).
ScoreOf = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class PerturbationCurve:
    """The score of an object while its image is perturbed.

    Args:
        area: perturbed pixels in % of the object's box, from 0 to 100, (k,).
        percent: the score in % of the start score (authors' Insertion: the score itself times 100), (k,); NaN where
            the start score is 0.
        start: score in the image as it is.
    """

    area: np.ndarray
    percent: np.ndarray
    start: float

    @property
    def auc(self) -> float:
        """Mean height of the curve in %, by the trapezoid rule; NaN if the curve is undefined."""
        return area_under_curve(self.area / 100, self.percent)

    @property
    def is_undefined(self) -> bool:
        """Whether the object has no score to lose or to win back."""
        return self.start == 0


def perturbation_scores(
    image: np.ndarray,
    heat_map: np.ndarray | CheckedMap,
    box: np.ndarray,
    score_of: ScoreOf,
    protocol: str = "paper",
    steps: int = 100,
    batch: int = 8,
    seed: int = 0,
    kind: str = "deletion",
    input_size: tuple[int, int] | None = None,
) -> PerturbationCurve:
    """Deletion and Insertion: how the score falls or rises with the pixels that the map calls important.

    Pixels are ranked over the whole image, the most important first, equal ones in row-major order. In ``steps`` equal
    steps as many of them as the object's box has are replaced by random values (Deletion), or put into a black image
    (Insertion). Images are made batch by batch, and equal ones are scored once.

    Args:
        image: (h,w,3) uint8.
        heat_map: (h,w).
        box: of the object, (4,); only its part in the image counts.
        score_of: runs the detector: (n,h,w,3) uint8 -> (n,), non-negative. See :func:`match_score`.
        protocol: ``paper``: every step is recorded, in % of the start score. ``authors``, as in their code: a step is
            max(1, int(box area in the network input / steps)) pixels and every tenth is recorded; Deletion replaces
            pixels by uniform random values and is divided by the start score; Insertion begins with a black canvas and
            is not divided by it. What pixels are replaced by is the same in both.
        steps: 100 in the paper, of 1 % of the box's area each; with ``authors`` a multiple of 10.
        batch: images scored at a time.
        seed: of the random values, uniform in 0..255 for each pixel and channel, the same for every map.
        kind: ``deletion`` or ``insertion``.
        input_size: (height, width) of the network input before padding, which ``authors`` needs.

    Raises:
        ValueError: an unknown protocol or kind, shapes that do not fit, NaN, a box outside the image, or wrong scores.
    """
    heat = CheckedMap.of(heat_map)
    _check_perturbation(image, heat, protocol, steps, batch, kind)
    recorded = np.arange(0, steps + 1, 1 if protocol == "paper" else 10)
    counts = _pixel_counts(recorded, steps, box, heat.shape, protocol, input_size)
    order = np.argsort(-heat.values, axis=None, kind="stable")
    # Steps smaller than a pixel, and those after the image's last one, change nothing.
    different, curve_index = np.unique(counts, return_inverse=True)
    if kind == "deletion":
        fill = np.random.default_rng(seed).integers(0, 256, image.shape, dtype=np.uint8)
        # The first image has nothing deleted: it gives the start score.
        images = _perturbed(image, fill, order, different)
    else:
        inserted = _perturbed(np.zeros_like(image), image, order, different)
        images, curve_index = chain([image], inserted), curve_index + 1
    area, scores = recorded * 100 / steps, []
    for some in _batches(images, batch):
        scores.extend(_checked_scores(score_of(some), len(some)))
        if scores[0] == 0:
            return PerturbationCurve(area, np.full(len(area), math.nan), 0.0)
    divisor = 1.0 if (protocol, kind) == ("authors", "insertion") else scores[0]
    return PerturbationCurve(area, 100 * np.array(scores)[curve_index] / divisor, scores[0])


def match_score(boxes: np.ndarray, scores: np.ndarray, gt_box: np.ndarray, iou_threshold: float = 0.5) -> float:
    """Score of an object in a perturbed image: the highest of the predictions that still find it.

    Args:
        boxes: predictions of the object's class before NMS, (R,4).
        scores: (R,).
        gt_box: (4,).
        iou_threshold: predictions find the object if their IoU with ``gt_box`` exceeds it.

    Returns:
        0 where no prediction finds it.

    Raises:
        ValueError: shapes that do not fit, or NaN.
    """
    values = np.asarray(scores, dtype=np.float64)
    overlap = box_iou(np.asarray([checked_box(gt_box)]), boxes)[0]
    if values.shape != overlap.shape or np.isnan(values).any():
        raise ValueError(f"scores of {len(overlap)} boxes must be numbers of shape ({len(overlap)},), not {values!r}")
    return float(values[overlap > iou_threshold].max(initial=0.0))


def vea_curve(heat_map: np.ndarray | CheckedMap, mask: np.ndarray) -> np.ndarray:
    """Visual explanation accuracy: IoU of the object's mask with the map cut at each of :data:`THRESHOLDS`.

        VEA(T) = |M and H > T| / |M or H > T|,  H = (S - min S) / (max S - min S)

    Args:
        heat_map: (h,w). A constant one, all-zero or not, is above no threshold.
        mask: (h,w) bool, M.

    Returns:
        IoU at T = .1, .2, ..., .9, (9,) float64 in [0,1]; 0 where the union is empty.

    Raises:
        ValueError: NaN, a negative value, or a mask of another size than the map.
    """
    heat = CheckedMap.of(heat_map)
    own = checked_mask(mask, heat.shape)
    span = heat.highest - heat.lowest
    if span == 0:
        return np.zeros(len(THRESHOLDS))
    scaled = (heat.values - heat.lowest) / span
    inside, size = scaled[own], np.count_nonzero(own)
    both = np.array([np.count_nonzero(inside > threshold) for threshold in THRESHOLDS])
    cut = np.array([np.count_nonzero(scaled > threshold) for threshold in THRESHOLDS])
    # The maximum is above every threshold, so that the union is not empty.
    return both / (cut + size - both)


def vea_auc(curve: np.ndarray) -> float:
    """Area under a VEA curve over T from .1 to .9 by the trapezoid rule.

    Args:
        curve: (9,) from :func:`vea_curve`, or a mean of such curves.

    Returns:
        in [0,.8].

    Raises:
        ValueError: another shape.
    """
    return area_under_curve(np.array(THRESHOLDS), np.asarray(curve, dtype=np.float64))


def area_under_curve(x: np.ndarray, y: np.ndarray) -> float:
    """Area under the straight lines between points: sum_i (y_i + y_(i+1)) / 2 * (x_(i+1) - x_i).

    Args:
        x: (k,), ascending.
        y: (k,).

    Raises:
        ValueError: shapes that do not fit.
    """
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"the points of a curve must have shape (k,) each, not {x.shape} and {y.shape}")
    return float(((y[1:] + y[:-1]) / 2) @ np.diff(x))


def _check_perturbation(image: np.ndarray, heat: CheckedMap, protocol: str, steps: int, batch: int, kind: str) -> None:
    if protocol not in ("paper", "authors"):
        raise ValueError(f"unknown protocol {protocol!r}; valid protocols are paper, authors")
    if kind not in ("deletion", "insertion"):
        raise ValueError(f"unknown kind {kind!r}; valid kinds are deletion, insertion")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"an image must be uint8 of shape (h,w,3), not {image.dtype} of shape {image.shape}")
    if image.shape[:2] != heat.shape:
        raise ValueError(f"a heat map of size {heat.shape} does not fit an image of size {image.shape[:2]}")
    if steps < 1 or batch < 1 or (protocol == "authors" and steps % 10):
        raise ValueError(f"steps and batch must be positive, authors' steps a multiple of 10; not {steps} and {batch}")


def _pixel_counts(
    recorded: np.ndarray,
    steps: int,
    box: np.ndarray,
    shape: tuple[int, int],
    protocol: str,
    input_size: tuple[int, int] | None,
) -> np.ndarray:
    """How many pixels are perturbed after each recorded step, (k,) int64."""
    x1, y1, x2, y2 = checked_box(box)
    height, width = shape
    area = max(0.0, min(y2, height) - max(y1, 0)) * max(0.0, min(x2, width) - max(x1, 0))
    if area == 0:
        raise ValueError(f"box {box} has no area in an image of size {shape}")
    if protocol == "authors":
        if input_size is None:
            raise ValueError("protocol 'authors' needs input_size, in whose pixels it measures the box")
        scaled = area * (input_size[0] / height) * (input_size[1] / width)
        counts = recorded * max(1, int(scaled / steps))
    else:
        # Rounded in total, not step by step, so that the last one reaches the box's area.
        counts = np.floor(recorded * area / steps + 0.5).astype(np.int64)
    return np.minimum(counts, height * width)


def _perturbed(canvas: np.ndarray, source: np.ndarray, order: np.ndarray, counts: np.ndarray) -> Iterator[np.ndarray]:
    """The canvas with the first pixels of an order taken from the source, as many as each of the ascending counts."""
    current, pixels, done = canvas.reshape(-1, 3).copy(), source.reshape(-1, 3), 0
    for count in counts:
        new = order[done:count]
        current[new] = pixels[new]
        done = count
        yield current.reshape(canvas.shape).copy()


def _batches(images: Iterator[np.ndarray], batch: int) -> Iterator[np.ndarray]:
    while some := list(islice(images, batch)):
        yield np.stack(some)


def _checked_scores(scores: np.ndarray, count: int) -> list[float]:
    values = np.asarray(scores, dtype=np.float64)
    # NaN is not >= 0 either.
    if values.shape != (count,) or not (values >= 0).all():
        raise ValueError(f"score_of must give {count} non-negative numbers for {count} images, not {values}")
    return values.tolist()
