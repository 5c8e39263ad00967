"""The paper's Tables 1, 2 and 3 with intervals and paired differences, to be shown on a page or as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from odam_d2.evaluation.metrics.statistics import Interval, bootstrap_interval
from odam_d2.evaluation.study.record import Row
from odam_d2.evaluation.study.settings import COUNTS, METRICS, SKEWED, TABLES
from odam_d2.evaluation.study.summary import rows_of, values_of

CAPTIONS = {
    1: "Faithfulness: area under the curves of Deletion and Insertion (%) and of visual explanation accuracy",
    2: "Localisation: pointing game (PG) and energy-based pointing game (enPG) in %, compactness in object sizes",
    3: "Object discrimination index in %: energy on other objects in the energy on all objects",
}
NOTHING = "No object was detected well enough to be explained: nothing was measured."


class PaperTable(NamedTuple):
    """One of the paper's tables, or the paired differences that belong to it.

    Attributes:
        title: such as ``Table 1``.
        caption: what it is about.
        headings: of its columns.
        rows: cells, a method a row: mean and 95 % bootstrap interval over objects, or why there is none; or a median.
        note: how many objects stand behind it.
    """

    title: str
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
        summary: from :func:`odam_d2.evaluation.study.summary.summarize`.
        methods: rows of the tables, in order.
        metrics: those that were asked for; the others are "not run".

    Returns:
        the tables; none where no object was explained.
    """
    counts, tables = summary[COUNTS], []
    if not counts["objects"]:
        return []
    for number, caption in CAPTIONS.items():
        columns = _columns(number)
        cells = [[_cell(rows, method, column, metrics, counts) for column in columns] for method in methods]
        lines = [[method, *own] for method, own in zip(methods, cells)]
        headings = ["method", *(column.title for column in columns)]
        note = _note(TABLES[number], methods, metrics, counts)
        tables.append(PaperTable(f"Table {number}", f"{caption}.", headings, lines, note))
        if len(methods) > 1 and any(column.metric in metrics for column in columns):
            tables.append(_paired_table(rows, methods, metrics, counts, number))
    return tables


def _paired_table(
    rows: Sequence[Row], methods: Sequence[str], metrics: Sequence[str], counts: Mapping, number: int
) -> PaperTable:
    """The first method less each other one, object by object: what both share cancels."""
    columns = [column for column in _columns(number) if not column.median]
    lines = [
        [method, *(_difference_cell(rows, methods[0], method, column, metrics, counts) for column in columns)]
        for method in methods[1:]
    ]
    caption = f"{methods[0]} less each other method, on the same objects."
    note = (
        "Means of the differences with their 95 % bootstrap intervals, over the objects for which both methods have "
        f"the number. With ↓, less than 0 is better for {methods[0]}; with ↑, more than 0."
    )
    headings = [f"{methods[0]} less", *(column.title for column in columns)]
    return PaperTable(f"Table {number}, paired", caption, headings, lines, note)


class _Column(NamedTuple):
    """A metric, over the objects in images with others alone, or its median."""

    metric: str
    several: bool = False
    median: bool = False

    @property
    def title(self) -> str:
        title = METRICS[self.metric].title
        if self.several:
            return title.replace(")", ", several objects)")
        return f"{title}, median" if self.median else title


def _columns(number: int) -> list[_Column]:
    columns = []
    for name in TABLES[number]:
        columns += [_Column(name)] + ([_Column(name, median=True)] if name in SKEWED else [])
    return columns + ([_Column(name, several=True) for name in TABLES[number]] if number == 3 else [])


def write_tables(
    tables: Sequence[PaperTable], facts: Mapping[str, Any], title: str = "How good the explanations are"
) -> str:
    """The tables as Markdown.

    Args:
        tables: from :func:`make_tables`.
        facts: what was measured, for the reader.
        title: above them.
    """
    lines = [f"# {title}", "", *(f"- {key}: {value}" for key, value in facts.items()), ""]
    if not tables:
        return "\n".join([*lines, NOTHING, ""])
    for table in tables:
        lines += [f"**{table.title}.** {table.caption}", "", _line(table.headings)]
        lines += [_line(["---"] * len(table.headings)), *map(_line, table.rows), "", table.note, ""]
    return "\n".join(lines)


def _cell(rows: Sequence[Row], method: str, column: _Column, metrics: Sequence[str], counts: Mapping) -> str:
    if why := _absent(column.metric, metrics, counts):
        return why
    values = values_of(_column_rows(rows, method, column), column.metric)
    digits = METRICS[column.metric].digits
    if not column.median:
        return format_interval(bootstrap_interval(values), digits)
    defined = values[~np.isnan(values)]
    return f"{np.median(defined):.{digits}f}" if len(defined) else "–"


def _difference_cell(
    rows: Sequence[Row], first: str, other: str, column: _Column, metrics: Sequence[str], counts: Mapping
) -> str:
    if why := _absent(column.metric, metrics, counts):
        return why
    values = [
        {(row["image_id"], row["annotation_id"]): row[column.metric] for row in _column_rows(rows, method, column)}
        for method in (first, other)
    ]
    both = [key for key, value in values[0].items() if value is not None and values[1].get(key) is not None]
    differences = np.array([values[0][key] - values[1][key] for key in both], dtype=np.float64)
    return format_interval(bootstrap_interval(differences), METRICS[column.metric].digits)


def _absent(metric: str, metrics: Sequence[str], counts: Mapping) -> str | None:
    """Why there is no number, if there is none."""
    if metric not in metrics:
        return "not run"
    return "not available" if METRICS[metric].needs_mask and not counts["with_mask"] else None


def _column_rows(rows: Sequence[Row], method: str, column: _Column) -> list[Row]:
    return [row for row in rows_of(rows, method) if row["other_objects"] > 0 or not column.several]


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
