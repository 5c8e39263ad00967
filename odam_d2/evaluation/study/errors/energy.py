"""Where the energy of a map lies: on the object, on a neighbour, on the background.

Shapes: (h,w) image, k other objects.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from odam_d2.evaluation.metrics.localization import CheckedMap, region_pixels

OBJECT, NEIGHBOUR, BACKGROUND, NOTHING = "object", "neighbour", "background", "nothing"


class Shares(NamedTuple):
    """The parts of a map's energy; all NaN for an all-zero map.

    Attributes:
        object: on the object, in [0,1].
        neighbour: on other objects alone.
        background: on none; the three add up to 1.
        nearest: the other object with the most energy on it, its place in the list; -1 where none has any.
        box: in the prediction's own box.
    """

    object: float
    neighbour: float
    background: float
    nearest: int
    box: float

    @property
    def looks_at(self) -> str:
        """Where most of the energy lies: ``object``, ``neighbour``, ``background``; ``nothing`` for a zero map."""
        if math.isnan(self.object):
            return NOTHING
        return max((OBJECT, NEIGHBOUR, BACKGROUND), key=lambda name: getattr(self, name))


def energy_shares(
    heat_map: np.ndarray | CheckedMap, own: np.ndarray | None, others: Sequence[np.ndarray], box: np.ndarray
) -> Shares:
    """Divide a map's energy between an object, its neighbours and the background.

        object = sum_(x in T) H_x / sum_x H_x,   neighbour = sum_(x in O, not in T) H_x / sum_x H_x

    with the object's region T and the union O of the others'. What both cover is the object's: a neighbour is looked
    at only where it shows by itself.

    Args:
        heat_map: (h,w), finite and non-negative.
        own: box (4,) or mask (h,w) of the object; None where there is none.
        others: a box or mask each.
        box: of the prediction, (4,) XYXY in pixels.

    Raises:
        ValueError: NaN, a negative value, a malformed box, or a mask of another size than the map.
    """
    heat = CheckedMap.of(heat_map)
    total = float(heat.values.sum())
    if not total > 0:
        return Shares(math.nan, math.nan, math.nan, -1, math.nan)
    mine, covered = np.zeros(heat.shape, dtype=bool), np.zeros(heat.shape, dtype=bool)
    if own is not None:
        mine[region_pixels(own, heat.shape)] = True
    energies = []
    for other in others:
        region = np.zeros(heat.shape, dtype=bool)
        region[region_pixels(other, heat.shape)] = True
        region &= ~mine
        energies.append(float(heat.values[region].sum()))
        covered |= region
    on_object, on_others = float(heat.values[mine].sum()) / total, float(heat.values[covered].sum()) / total
    nearest = int(np.argmax(energies)) if energies and max(energies) > 0 else -1
    in_box = float(heat.values[region_pixels(box, heat.shape)].sum()) / total
    # Sums of the same values in another order may differ in the last digit.
    return Shares(on_object, on_others, max(0.0, 1 - on_object - on_others), nearest, min(1.0, in_box))
