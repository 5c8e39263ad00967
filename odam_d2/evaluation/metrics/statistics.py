"""How sure a mean over objects is: bootstrap intervals.

Shapes: n values.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.stats import bootstrap

# Values drawn at a time: 32 MiB of indices and as much of values.
CHUNK_VALUES = 4 * 2**20


class Interval(NamedTuple):
    """A mean and its bootstrap interval.

    Attributes:
        mean: of the defined values; NaN without any, as are ``low`` and ``high``.
        low: lower end of the interval.
        high: upper end of the interval.
        count: of the defined values.
        undefined: how many values are NaN; they are left out.
    """

    mean: float
    low: float
    high: float
    count: int
    undefined: int


def bootstrap_interval(values: np.ndarray, seed: int = 0, level: float = 0.95, repeats: int = 2000) -> Interval:
    """Percentile bootstrap interval of a mean (Efron, 1979), by SciPy.

    ``repeats`` times as many values as there are, are drawn with replacement and averaged; the interval holds the
    middle ``level`` of these means. It takes the values for independent of each other.

    Args:
        values: (n,), NaN where undefined.
        seed: the same seed gives the same interval.
        level: in (0,1).
        repeats: number of resampled means.

    Raises:
        ValueError: another shape, an infinite value, a level outside (0,1), or no repeats.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or np.isinf(numbers).any():
        raise ValueError(f"values must be finite or NaN and of shape (n,); they are {values!r}")
    if not 0 < level < 1 or repeats < 1:
        raise ValueError(f"level must lie in (0,1) and repeats must be positive, not {level} and {repeats}")
    defined = numbers[~np.isnan(numbers)]
    count, undefined = len(defined), len(numbers) - len(defined)
    if not count:
        return Interval(math.nan, math.nan, math.nan, 0, undefined)
    mean = float(defined.mean())
    if count == 1:  # of which SciPy makes no interval
        return Interval(mean, mean, mean, 1, undefined)
    interval = bootstrap(
        (defined,),
        np.mean,
        n_resamples=repeats,
        batch=max(1, CHUNK_VALUES // count),
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(mean, float(interval.low), float(interval.high), count, undefined)
