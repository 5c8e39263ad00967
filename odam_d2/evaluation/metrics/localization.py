"""Where a heat map lies: pointing game, energy-based pointing game and compactness (section 4.2.3 of the paper).

Shapes: (h,w) image. A heat map is (h,w), finite and non-negative. A region is a box, (4,) XYXY in pixels, or a mask,
(h,w) bool. The pixel in row i and column j covers [j, j+1) x [i, i+1); its centre is (j + .5, i + .5).
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

# What picks the pixels of a region out of an (h,w) array.
Pixels = tuple[slice, slice] | np.ndarray


@dataclass(frozen=True, eq=False)
class CheckedMap:
    """A heat map known to be fit for the metrics, with what several of them need, so that it is worked out once.

    Args:
        values: (h,w) float64, finite and non-negative.
        lowest: the least value.
        highest: the largest value; 0 for an all-zero map.
    """

    values: np.ndarray
    lowest: float
    highest: float

    @classmethod
    def of(cls, heat_map: "np.ndarray | CheckedMap") -> "CheckedMap":
        """Check a heat map; one that was checked before is returned as it is.

        Args:
            heat_map: (h,w), of any numeric type.

        Raises:
            ValueError: a shape other than (h,w) with h, w > 0, or a value that is NaN, infinite or negative.
        """
        if isinstance(heat_map, CheckedMap):
            return heat_map
        values = np.asarray(heat_map, dtype=np.float64)
        if values.ndim != 2 or not values.size:
            raise ValueError(f"a heat map must have shape (h,w) with h, w > 0, not {values.shape}")
        lowest, highest = float(values.min()), float(values.max())
        # The least value is NaN if any value is.
        if math.isnan(lowest):
            raise ValueError("a heat map must not contain NaN")
        if lowest < 0 or math.isinf(highest):
            raise ValueError(f"a heat map must be finite and non-negative; it has values from {lowest} to {highest}")
        return cls(values, lowest, highest)

    @property
    def shape(self) -> tuple[int, int]:
        """(h,w)."""
        return self.values.shape

    @property
    def is_zero(self) -> bool:
        """Whether the map points nowhere: no value above 0."""
        return self.highest == 0

    @cached_property
    def peak(self) -> tuple[int, int]:
        """Row and column of the first maximum in row-major order."""
        row, column = np.unravel_index(self.values.argmax(), self.shape)
        return int(row), int(column)

    @cached_property
    def energy(self) -> float:
        """Sum of all values."""
        return float(self.values.sum())


def pointing_game(heat_map: np.ndarray | CheckedMap, region: np.ndarray) -> bool:
    """Whether the map's maximum lies on the object: the first maximum in row-major order.

    Args:
        heat_map: (h,w).
        region: box (4,) or mask (h,w) of the object. A box holds the pixels whose centres it holds, half-open:
            x1 <= j + .5 < x2 and y1 <= i + .5 < y2; a mask is looked up.

    Returns:
        hit or miss. An all-zero map points nowhere and is a miss.

    Raises:
        ValueError: NaN, a negative value, or a mask of another size than the map.
    """
    heat = CheckedMap.of(heat_map)
    row, column = heat.peak
    if np.ndim(region) == 1:
        x1, y1, x2, y2 = checked_box(region)
        hit = x1 <= column + 0.5 < x2 and y1 <= row + 0.5 < y2
    else:
        hit = bool(checked_mask(region, heat.shape)[row, column])
    return hit and not heat.is_zero


def energy_pointing_game(heat_map: np.ndarray | CheckedMap, region: np.ndarray) -> float:
    """Share of the map's energy that lies on the object: sum_(x in region) S_x / sum_x S_x.

    Args:
        heat_map: (h,w).
        region: box (4,), rounded outward to whole pixels and clipped to the image, or mask (h,w).

    Returns:
        in [0,1]; 0 for an all-zero map, a miss.

    Raises:
        ValueError: NaN, a negative value, or a mask of another size than the map.
    """
    heat = CheckedMap.of(heat_map)
    inside = float(heat.values[region_pixels(region, heat.shape)].sum())
    # Two sums of the same values in another order may differ in the last digit.
    return 0.0 if heat.is_zero else min(1.0, inside / heat.energy)


def compactness(heat_map: np.ndarray | CheckedMap, box: np.ndarray) -> float:
    """How far the map's energy lies from its maximum, relative to the object's size.

        Comp. = ( 1 / sum_x S_x * sum_x S_x ||x - x_max||^2 / ((h^2 + w^2) / 4) )^(1/2)

    with the first maximum x_max in row-major order, and the object's height h and width w.

    Args:
        heat_map: (h,w).
        box: (4,) of the object, neither rounded nor clipped.

    Returns:
        non-negative; smaller is more concentrated. NaN for an all-zero map, which has no spread.

    Raises:
        ValueError: NaN, a negative value, or a box with neither height nor width.
    """
    heat = CheckedMap.of(heat_map)
    x1, y1, x2, y2 = checked_box(box)
    size = ((y2 - y1) ** 2 + (x2 - x1) ** 2) / 4
    if size == 0:
        raise ValueError(f"compactness is relative to the size of the object, but box {box} is a point")
    if heat.is_zero:
        return math.nan
    # ||x - x_max||^2 is a sum over the axes, so that the sums along the axes are enough.
    spread = sum(
        float(heat.values.sum(axis=1 - axis) @ (np.arange(heat.shape[axis]) - float(heat.peak[axis])) ** 2)
        for axis in (0, 1)
    )
    return math.sqrt(spread / heat.energy / size)


def region_pixels(region: np.ndarray, shape: tuple[int, int]) -> Pixels:
    """What picks a region's pixels out of an image: ``values[region_pixels(region, values.shape)]``.

    Args:
        region: box (4,), rounded outward to whole pixels and clipped to the image, or mask (h,w).
        shape: (h,w) of the image.

    Raises:
        ValueError: a malformed box, or a mask of another size.
    """
    if np.ndim(region) != 1:
        return checked_mask(region, shape)
    x1, y1, x2, y2 = checked_box(region)

    def clipped(first: float, last: float, length: int) -> slice:
        return slice(min(max(math.floor(first), 0), length), min(max(math.ceil(last), 0), length))

    return clipped(y1, y2, shape[0]), clipped(x1, x2, shape[1])


def checked_box(box: np.ndarray) -> tuple[float, float, float, float]:
    """The four sides of a box as numbers.

    Args:
        box: (4,) XYXY in pixels.

    Raises:
        ValueError: another shape, a side that is no finite number, x2 < x1 or y2 < y1.
    """
    if np.shape(box) != (4,):
        raise ValueError(f"a box must have shape (4,), not {np.shape(box)}")
    return tuple(checked_boxes([box])[0].tolist())


def checked_boxes(boxes: np.ndarray) -> np.ndarray:
    """Boxes as numbers.

    Args:
        boxes: (n,4) XYXY; an empty list is no box.

    Returns:
        (n,4) float64.

    Raises:
        ValueError: another shape, a side that is no finite number, x2 < x1 or y2 < y1.
    """
    sides = np.asarray(boxes, dtype=np.float64)
    if not sides.size:
        return np.zeros((0, 4))
    if sides.ndim != 2 or sides.shape[1] != 4:
        raise ValueError(f"boxes must have shape (n,4), not {sides.shape}")
    wrong = ~np.isfinite(sides).all(axis=1) | (sides[:, 2:] < sides[:, :2]).any(axis=1)
    if wrong.any():
        raise ValueError(f"boxes must be finite numbers x1 <= x2, y1 <= y2, not {sides[wrong][0].tolist()}")
    return sides


def checked_mask(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A mask as bool.

    Args:
        mask: (h,w), bool or 0 and 1.
        shape: (h,w) that it must have.

    Raises:
        ValueError: another shape.
    """
    pixels = np.asarray(mask)
    if pixels.shape != tuple(shape):
        raise ValueError(f"a mask of size {pixels.shape} does not fit a heat map of size {tuple(shape)}")
    return pixels.astype(bool, copy=False)
