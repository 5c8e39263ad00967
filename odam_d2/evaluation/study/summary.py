"""The means of an evaluation of explanations: ``summary.json``."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from odam_d2.evaluation.metrics.discrimination import summarize_odi
from odam_d2.evaluation.study.record import Row
from odam_d2.evaluation.study.settings import COUNTS

# Object discrimination means little where there is no other object: a second mean leaves these images out.
MULTI = {"odi_box": "odi_box_multi", "odi_mask": "odi_mask_multi"}


def summarize(rows: Sequence[Row], methods: Sequence[str], metrics: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Means over objects.

    Args:
        rows: of all methods.
        methods: their names, in order.
        metrics: those to report.

    Returns:
        method -> metric -> mean over the objects for which it is defined, in % where the paper has percent; None where
        there is none. ``odi_box_multi`` and ``odi_mask_multi`` are means over objects that share their image with
        others. And ``counts``: ``objects`` explained, ``multi_object`` of them with others in the image, ``with_mask``;
        and for each method its ``objects``, ``missing`` maps, ``zero_maps`` and, by metric, ``undefined`` objects.
    """
    # All methods have a row for each object.
    first = [row for row in rows if row["method"] == methods[0]]
    counts: dict[str, Any] = {
        "objects": len(first),
        "multi_object": sum(row["other_objects"] > 0 for row in first),
        "with_mask": sum(row["has_mask"] for row in first),
    }
    summary: dict[str, dict[str, Any]] = {}
    for method in methods:
        own = rows_of(rows, method)
        means, undefined = {}, {}
        for metric in metrics:
            values = values_of(own, metric)
            undefined[metric] = int(np.isnan(values).sum())
            means[metric] = _mean(values)
            if metric in MULTI:
                means[MULTI[metric]] = _finite(summarize_odi(values, values_of(own, "other_objects")).multi_mean)
        summary[method] = means
        counts[method] = {
            "objects": len(own),
            "missing": sum(row["missing"] for row in rows if row["method"] == method),
            "zero_maps": sum(row["zero_map"] for row in own),
            "undefined": undefined,
        }
    return summary | {COUNTS: counts}


def rows_of(rows: Sequence[Row], method: str) -> list[Row]:
    """A method's rows, but for objects whose map is missing."""
    return [row for row in rows if row["method"] == method and not row["missing"]]


def values_of(rows: Sequence[Row], name: str) -> np.ndarray:
    """A number of each row, (n,) float64, NaN where it is undefined."""
    return np.array([math.nan if row[name] is None else row[name] for row in rows], dtype=np.float64)


def _mean(values: np.ndarray) -> float | None:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else value
