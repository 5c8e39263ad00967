"""The numbers of an evaluation of explanations: ``summary.json``, and the paper's Tables 1, 2 and 3 as Markdown."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from odam_d2.evaluation.metrics.discrimination import summarize_odi
from odam_d2.evaluation.metrics.statistics import Interval, bootstrap_interval
from odam_d2.evaluation.study.record import Row
from odam_d2.evaluation.study.settings import COUNTS, METRICS, TABLES

CAPTIONS = {
    1: "Faithfulness: area under the curves of Deletion and Insertion (%) and of visual explanation accuracy",
    2: "Localisation: pointing game (PG) and energy-based pointing game (enPG) in %, compactness in object sizes",
    3: "Object discrimination index in %: energy on other objects in the energy on all objects",
}
NOTHING = "No object was detected well enough to be explained: nothing was measured."
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
        own = _rows_of(rows, method)
        means, undefined = {}, {}
        for metric in metrics:
            values = _values(own, metric)
            undefined[metric] = int(np.isnan(values).sum())
            means[metric] = _mean(values)
            if metric in MULTI:
                means[MULTI[metric]] = _finite(summarize_odi(values, _values(own, "other_objects")).multi_mean)
        summary[method] = means
        counts[method] = {
            "objects": len(own),
            "missing": sum(row["missing"] for row in rows if row["method"] == method),
            "zero_maps": sum(row["zero_map"] for row in own),
            "undefined": undefined,
        }
    return summary | {COUNTS: counts}


class PaperTable(NamedTuple):
    """One of the paper's tables.

    Attributes:
        number: in the paper.
        caption: what it is about.
        headings: of its columns.
        rows: cells, a method a row: mean and 95 % bootstrap interval over objects, or why there is none.
        note: how many objects stand behind it.
    """

    number: int
    caption: str
    headings: list[str]
    rows: list[list[str]]
    note: str


def make_tables(
    rows: Sequence[Row], summary: Mapping[str, Any], methods: Sequence[str], metrics: Sequence[str]
) -> list[PaperTable]:
    """The paper's tables with 95 % bootstrap intervals over objects.

    Args:
        rows: of all methods.
        summary: from :func:`summarize`.
        methods: rows of the tables, in order.
        metrics: those that were asked for; the others are "not run".

    Returns:
        the tables; none where no object was explained.
    """
    counts, tables = summary[COUNTS], []
    for number, caption in CAPTIONS.items() if counts["objects"] else ():
        names = TABLES[number]
        titles = [METRICS[name].title for name in names]
        if number == 3:
            titles += [METRICS[name].title.replace(")", ", several objects)") for name in names]
        lines = []
        for method in methods:
            cells = [_cell(rows, method, name, metrics, counts) for name in names]
            if number == 3:
                cells += [_cell(rows, method, name, metrics, counts, several=True) for name in names]
            lines.append([method, *cells])
        note = _note(names, methods, metrics, counts)
        tables.append(PaperTable(number, f"{caption}.", ["method", *titles], lines, note))
    return tables


def write_tables(tables: Sequence[PaperTable], facts: Mapping[str, Any]) -> str:
    """The tables as Markdown.

    Args:
        tables: from :func:`make_tables`.
        facts: what was measured, for the reader.
    """
    lines = ["# How good the explanations are", "", *(f"- {key}: {value}" for key, value in facts.items()), ""]
    if not tables:
        return "\n".join([*lines, NOTHING, ""])
    for table in tables:
        lines += [f"**Table {table.number}.** {table.caption}", "", _line(table.headings)]
        lines += [_line(["---"] * len(table.headings)), *map(_line, table.rows), "", table.note, ""]
    return "\n".join(lines)


def _cell(
    rows: Sequence[Row], method: str, metric: str, metrics: Sequence[str], counts: Mapping, several: bool = False
) -> str:
    if metric not in metrics:
        return "not run"
    if METRICS[metric].needs_mask and not counts["with_mask"]:
        return "not available"
    own = [row for row in _rows_of(rows, method) if row["other_objects"] > 0 or not several]
    return format_interval(bootstrap_interval(_values(own, metric)), METRICS[metric].digits)


def format_interval(interval: Interval, digits: int) -> str:
    """Such as ``73.1 [70.2, 75.9]``; a dash without any value."""
    if not interval.count:
        return "–"
    return f"{interval.mean:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def _note(names: Sequence[str], methods: Sequence[str], metrics: Sequence[str], counts: Mapping) -> str:
    """How many objects stand behind a table, and what is undefined; methods of which the same is true go together."""
    measured = [name for name in names if name in metrics and (counts["with_mask"] or not METRICS[name].needs_mask)]
    notes: dict[str, list[str]] = {}
    for method in methods:
        own = counts[method]
        parts = [f"{own['undefined'][name]} undefined in {name}" for name in measured if own["undefined"][name]]
        parts += [f"{own['missing']} maps missing"] if own["missing"] else []
        parts += [f"{own['zero_maps']} all-zero maps"] if own["zero_maps"] else []
        notes.setdefault(f"{own['objects']} objects, {', '.join(parts) or '0 undefined'}", []).append(method)
    lines = [f"{', '.join(some) if len(notes) > 1 else 'Each method'}: {note}." for note, some in notes.items()]
    if "odi_box" in names:
        lines.append(f"{counts['multi_object']} of {counts['objects']} objects share their image with others.")
    return " ".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rows_of(rows: Sequence[Row], method: str) -> list[Row]:
    return [row for row in rows if row["method"] == method and not row["missing"]]


def _values(rows: Sequence[Row], name: str) -> np.ndarray:
    return np.array([math.nan if row[name] is None else row[name] for row in rows], dtype=np.float64)


def _mean(values: np.ndarray) -> float | None:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else value
