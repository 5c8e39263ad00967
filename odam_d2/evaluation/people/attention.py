"""Maps of human attention: fixations blurred by what the eye sees sharply, about one degree (section 4.3.3).

Shapes: n fixations, (h,w) image.
"""

import math
from collections.abc import Sequence

import numpy as np

from odam_d2.evaluation.people.fixations import Fixations

# What a fixation counts: as long as it was, or one.
WEIGHTS = ("duration", "count")
# Pixels that make one degree of visual angle in the paper.
PIXELS_PER_DEGREE = 23.0
# Standard deviation of the map that knows only that people look at the middle, in sides of the image.
CENTRE_SPREAD = 0.25


def attention_map(
    fixations: Fixations,
    size: tuple[int, int],
    pixels_per_degree: float = PIXELS_PER_DEGREE,
    weights: str = "duration",
) -> np.ndarray:
    """Where people looked, as a map: the sum of a Gaussian for each fixation.

        M(x) = sum_i w_i exp(-|x - x_i|^2 / (2 s^2)),   s = one degree of visual angle

    A Gaussian is cut off at the image's border; nothing is reflected, and none is cut off before.

    Args:
        fixations: of everybody, in the image.
        size: (h,w).
        pixels_per_degree: s, in pixels of the image; 23 in the paper.
        weights: ``duration`` or ``count``, what w is.

    Returns:
        (h,w) float64, non-negative, at the centres of pixels; all zero without fixations.

    Raises:
        ValueError: another weight, a side that is not positive, or an s that is not.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"unknown weights {weights!r}; valid values are {', '.join(WEIGHTS)}")
    if not (math.isfinite(pixels_per_degree) and pixels_per_degree > 0):
        raise ValueError(f"pixels_per_degree is {pixels_per_degree}; it must be a positive number of pixels")
    if min(size) < 1:
        raise ValueError(f"an image has at least one pixel, not {size[0]} x {size[1]}")
    weight = fixations.duration if weights == "duration" else np.ones(len(fixations))
    rows = _bells(size[0], fixations.y, pixels_per_degree)
    # A Gaussian in two dimensions is a product of two in one.
    return (rows * weight) @ _bells(size[1], fixations.x, pixels_per_degree).T


def centre_map(size: tuple[int, int], spread: float = CENTRE_SPREAD) -> np.ndarray:
    """What can be known of where people look without the photograph: rather in the middle.

    Args:
        size: (h,w).
        spread: standard deviation along each axis, in sides of the image.

    Returns:
        (h,w) float64: a Gaussian around the middle, 1 there.
    """
    height, width = size
    return (
        _bells(height, np.array([height / 2]), spread * height) @ _bells(width, np.array([width / 2]), spread * width).T
    )


def crop(values: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """The part of a map in a box, rounded outward to whole pixels and clipped to the image.

    Args:
        values: (h,w).
        box: (4,) XYXY in pixels.

    Returns:
        a view of at least one pixel.

    Raises:
        ValueError: the box lies outside of the image.
    """
    height, width = values.shape
    x1, y1 = max(0, math.floor(box[0])), max(0, math.floor(box[1]))
    x2, y2 = min(width, math.ceil(box[2])), min(height, math.ceil(box[3]))
    if x1 >= x2 or y1 >= y2:
        raise ValueError(f"the box {[float(side) for side in box]} has no pixel in an image of {width} x {height}")
    return values[y1:y2, x1:x2]


def split_observers(fixations: Fixations, seed: int) -> tuple[Fixations, Fixations] | None:
    """Two halves of the people, for what they agree about.

    Args:
        fixations: of everybody.
        seed: the same gives the same halves. With an odd number the second half has one more.

    Returns:
        the fixations of either half, or None of fewer than two people.
    """
    people = np.unique(fixations.observer)
    if len(people) < 2:
        return None
    first = np.isin(fixations.observer, np.random.default_rng(seed).permutation(people)[: len(people) // 2])
    return fixations[first], fixations[~first]


def _bells(length: int, places: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian of height 1 around each place, at the centres of pixels, (length,n)."""
    distance = np.arange(length)[:, None] + 0.5 - places
    return np.exp(-0.5 * (distance / sigma) ** 2)
