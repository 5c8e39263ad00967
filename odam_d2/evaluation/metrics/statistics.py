"""How sure a mean over objects is: bootstrap intervals.

Shapes: n values.
"""

import math
from typing import NamedTuple

import numpy as np

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
    """Percentile bootstrap interval of a mean (Efron, 1979).

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
    generator = np.random.default_rng(seed)
    rows = max(1, CHUNK_VALUES // count)
    means = np.concatenate(
        [
            defined[generator.integers(count, size=(min(rows, repeats - start), count))].mean(axis=1)
            for start in range(0, repeats, rows)
        ]
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(defined.mean()), float(low), float(high), count, undefined)
