"""How alike two maps are: cosine, correlation, optimal transport distance, Jensen-Shannon divergence (Table 6).

Shapes: (h,w) both maps, (gh,gw) reduced grid, n cells. Maps are finite and non-negative.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import cdist, jensenshannon

from odam_d2.evaluation.metrics.localization import CheckedMap

# Cells along the longer side of the grid on which optimal transport is solved exactly.
GRID = 24


class Similarity(NamedTuple):
    """How alike two maps are; all NaN where one of them is all-zero.

    Attributes:
        cosine: see :func:`cosine`.
        correlation: see :func:`correlation`.
        otd: see :func:`transport_distance`.
        jsd: see :func:`jensen_shannon`.
    """

    cosine: float
    correlation: float
    otd: float
    jsd: float


def compare(first: np.ndarray, second: np.ndarray, grid: int = GRID) -> Similarity:
    """All four.

    Args:
        first: (h,w).
        second: (h,w).
        grid: see :func:`transport_distance`.

    Raises:
        ValueError: as there.
    """
    a, b = _checked(first, second)
    return Similarity(_cosine(a, b), _correlation(a, b), _transport(a, b, grid), _divergence(a, b))


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    """Cosine of the angle between two maps: <a,b> / (|a| |b|).

    Args:
        first: (h,w).
        second: (h,w).

    Returns:
        in [0,1]; NaN where a map is all-zero.

    Raises:
        ValueError: sizes differ, or a value that is not finite or negative.
    """
    return _cosine(*_checked(first, second))


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's correlation of two maps: the cosine of what is left of them without their means.

    Args:
        first: (h,w).
        second: (h,w).

    Returns:
        in [-1,1]; NaN where a map is constant.

    Raises:
        ValueError: as for :func:`cosine`.
    """
    return _correlation(*_checked(first, second))


def transport_distance(first: np.ndarray, second: np.ndarray, grid: int = GRID) -> float:
    """Optimal transport distance: how far one map's mass has to be carried, on average, to make the other map of it.

        min_T sum_ij T_ij d_ij,   sum_j T_ij = a_i,   sum_i T_ij = b_j

    with both maps scaled to sum 1 and Euclidean distances d between the centres of cells, in units of the diagonal of
    what the maps span. Solved exactly by POT (Flamary et al., JMLR 2021), on a grid whose cells hold the sums of the
    pixels they cover.

    Args:
        first: (h,w).
        second: (h,w).
        grid: cells along the longer side, at most one a pixel; the shorter has as many as keep them square.

    Returns:
        in [0,1); NaN where a map is all-zero.

    Raises:
        ValueError: as for :func:`cosine`, no cells, or POT is not installed.
    """
    a, b = _checked(first, second)
    return _transport(a, b, grid)


def jensen_shannon(first: np.ndarray, second: np.ndarray) -> float:
    """Jensen-Shannon divergence of two maps scaled to sum 1, in bits.

        (KL(a | m) + KL(b | m)) / 2,   m = (a + b) / 2

    Args:
        first: (h,w).
        second: (h,w).

    Returns:
        in [0,1]: 0 for equal maps, 1 for maps that share no pixel; NaN where a map is all-zero.

    Raises:
        ValueError: as for :func:`cosine`.
    """
    return _divergence(*_checked(first, second))


def reduce_map(values: np.ndarray, grid: int) -> np.ndarray:
    """Sums of a map over the cells of a grid; a pixel that two cells share is divided between them.

    Args:
        values: (h,w).
        grid: cells along the longer side, at most one a pixel.

    Returns:
        (gh,gw) float64 with the same sum.

    Raises:
        ValueError: no cells.
    """
    if grid < 1:
        raise ValueError(f"the grid has {grid} cells along its longer side; it needs at least 1")
    scale = min(1.0, grid / max(values.shape))
    shape = tuple(max(1, round(side * scale)) for side in values.shape)
    rows, columns = (_shares(cells, pixels) for cells, pixels in zip(shape, values.shape))
    return rows @ values @ columns.T


def _shares(cells: int, pixels: int) -> np.ndarray:
    """Part of every pixel that lies in every cell, (cells,pixels); columns sum to 1."""
    edges = np.arange(cells + 1) * (pixels / cells)
    low = np.maximum(edges[:-1, None], np.arange(pixels))
    high = np.minimum(edges[1:, None], np.arange(1, pixels + 1))
    return np.clip(high - low, 0, None)


def _checked(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = CheckedMap.of(first).values, CheckedMap.of(second).values
    if a.shape != b.shape:
        raise ValueError(f"two maps of one size can be compared, not of {a.shape} and {b.shape}")
    return a, b


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    # Divided by their maxima first: products of very small numbers vanish.
    if not a.any() or not b.any():
        return math.nan
    a, b = a / a.max(), b / b.max()
    return min(1.0, float((a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b))))


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    if a.min() == a.max() or b.min() == b.max():
        return math.nan
    a, b = a / a.max(), b / b.max()
    a, b = a - a.mean(), b - b.mean()
    return float(np.clip((a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b)), -1, 1))


def _divergence(a: np.ndarray, b: np.ndarray) -> float:
    if not a.any() or not b.any():
        return math.nan
    # SciPy gives the distance, its square root; of equal maps rounding may leave a little less than 0 under it.
    with np.errstate(invalid="ignore"):
        distance = float(jensenshannon((a / a.max()).ravel(), (b / b.max()).ravel(), base=2))
    return 0.0 if math.isnan(distance) else distance**2


def _transport(a: np.ndarray, b: np.ndarray, grid: int) -> float:
    try:
        from ot import emd2
    except ModuleNotFoundError as error:
        raise ValueError(
            "the optimal transport distance needs the package POT, which is not installed; run pip install POT"
        ) from error
    small = [reduce_map(own / own.max() if own.any() else own, grid) for own in (a, b)]
    if not all(own.any() for own in small):
        return math.nan
    # Cells without mass only make the problem larger.
    places = [np.argwhere(own > 0) + 0.5 for own in small]
    masses = [own[own > 0] / own.sum() for own in small]
    cell = np.array(a.shape) / small[0].shape
    distances = cdist(places[0] * cell, places[1] * cell) / math.hypot(*a.shape)
    return float(emd2(masses[0], masses[1], np.ascontiguousarray(distances), numItermax=2_000_000))
