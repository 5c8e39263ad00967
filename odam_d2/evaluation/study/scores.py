"""All metrics of one explanation that need no further run of the detector.

Shapes: (h,w) image, k other objects.
"""

import math
from collections.abc import Sequence

import numpy as np

from odam_d2.evaluation.metrics.discrimination import odi
from odam_d2.evaluation.metrics.localization import CheckedMap, compactness, energy_pointing_game, pointing_game
from odam_d2.evaluation.metrics.specification import vea_auc, vea_curve


def score_maps(
    heat_map: np.ndarray | CheckedMap,
    target_box: np.ndarray,
    target_mask: np.ndarray | None,
    other_boxes: np.ndarray,
    other_masks: np.ndarray | Sequence[np.ndarray] | None,
) -> dict[str, float | bool]:
    """The cheap metrics of Tables 1, 2 and 3 of the paper for one explained object.

    Args:
        heat_map: (h,w), finite and non-negative, in image pixels.
        target_box: ground truth of the explained object, (4,) XYXY in image pixels.
        target_mask: (h,w) bool, or None where there is none.
        other_boxes: of all other objects of the image, whatever their class, (k,4).
        other_masks: (k,h,w) bool, or None where one is missing.

    Returns:
        the paper's units: ``pg_box``, ``pg_mask`` (0 or 100 each), ``enpg_box``, ``enpg_mask``, ``odi_box``,
        ``odi_mask`` in %; ``compactness`` in object sizes; ``vea_auc`` in [0,.8]. NaN where a mask is needed and
        missing, and where the metric is undefined. With two flags: ``zero_map``, an all-zero map, a miss in the
        pointing games with neither compactness nor, beside other objects, ODI; ``multi_object``, there are others.

    Raises:
        ValueError: NaN, a negative value, a malformed box, or a number or size of masks that does not fit.
    """
    heat = CheckedMap.of(heat_map)
    if other_masks is not None and len(other_masks) != len(other_boxes):
        raise ValueError(f"there are {len(other_masks)} masks for {len(other_boxes)} other boxes")
    metrics = {"pg_box": 100.0 * pointing_game(heat, target_box), "pg_mask": math.nan}
    metrics |= {"enpg_box": 100 * energy_pointing_game(heat, target_box), "enpg_mask": math.nan}
    metrics |= {"compactness": compactness(heat, target_box)}
    metrics |= {"odi_box": 100 * odi(heat, target_box, other_boxes), "odi_mask": math.nan, "vea_auc": math.nan}
    if target_mask is not None:
        metrics["pg_mask"] = 100.0 * pointing_game(heat, target_mask)
        metrics["enpg_mask"] = 100 * energy_pointing_game(heat, target_mask)
        metrics["vea_auc"] = vea_auc(vea_curve(heat, target_mask))
        if other_masks is not None:
            metrics["odi_mask"] = 100 * odi(heat, target_mask, other_masks)
    return metrics | {"zero_map": heat.is_zero, "multi_object": len(other_boxes) > 0}
