"""Whether a heat map tells its object from the others: the object discrimination index (section 4.2.4 of the paper).

Shapes: (h,w) image, k other objects, n explained objects. Heat maps and regions are as in ``localization``.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from odam_d2.evaluation.metrics.localization import CheckedMap, region_pixels


class ODISummary(NamedTuple):
    """Mean object discrimination index. Single-object images give 0, which says nothing: hence the second mean.

    Attributes:
        mean: over all objects whose index is defined; NaN if there are none.
        count: of these objects.
        multi_mean: over those of them that share their image with others; NaN if there are none.
        multi_count: of these objects.
        undefined: objects whose index is NaN; they are in neither mean.
    """

    mean: float
    count: int
    multi_mean: float
    multi_count: int
    undefined: int


def odi(heat_map: np.ndarray | CheckedMap, target: np.ndarray, others: np.ndarray | Sequence[np.ndarray]) -> float:
    """Object discrimination index: how much of the energy on objects leaks to objects other than the target.

        ODI = sum_(x in O) S_x / sum_(x in O or T) S_x

    with the target's region T and the union O of the other objects' regions, regardless of class. Energy where O and
    T overlap counts as leak; energy on the background does not count.

    Args:
        heat_map: (h,w).
        target: box (4,) or mask (h,w). Boxes are rounded outward to whole pixels and clipped to the image.
        others: boxes (k,4) or masks (k,h,w); k = 0 for the only object of an image.

    Returns:
        in [0,1]; smaller is better. 0 without other objects. NaN with other objects but no energy on any object, as
        in an all-zero map: 0 would be the best value for an explanation that shows none.

    Raises:
        ValueError: NaN, a negative value, or a mask of another size than the map.
    """
    heat = CheckedMap.of(heat_map)
    own = region_pixels(target, heat.shape)
    covered = np.zeros(heat.shape, dtype=bool)
    for other in others:
        covered[region_pixels(other, heat.shape)] = True
    if not len(others):
        return 0.0
    leak = float(heat.values[covered].sum())
    covered[own] = True
    energy = float(heat.values[covered].sum())
    # Two sums of the same values in another order may differ in the last digit.
    return min(1.0, leak / energy) if energy > 0 else math.nan


def summarize_odi(values: np.ndarray, other_counts: np.ndarray) -> ODISummary:
    """Means over all objects and over those in images of several objects.

    Args:
        values: object discrimination index of each object, (n,), NaN where undefined.
        other_counts: how many other objects its image has, (n,).

    Raises:
        ValueError: shapes that do not fit.
    """
    index, counts = np.asarray(values, dtype=np.float64), np.asarray(other_counts)
    if index.ndim != 1 or index.shape != counts.shape:
        raise ValueError(f"values and other_counts must both have shape (n,), not {index.shape} and {counts.shape}")
    defined = ~np.isnan(index)
    multi = defined & (counts > 0)

    def mean(chosen: np.ndarray) -> float:
        return float(index[chosen].mean()) if chosen.any() else math.nan

    return ODISummary(mean(defined), int(defined.sum()), mean(multi), int(multi.sum()), int((~defined).sum()))
