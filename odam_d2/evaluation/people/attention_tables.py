"""Table 6 with intervals and paired differences, and the files that a comparison with human attention ends with."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from odam_d2.evaluation.metrics.statistics import bootstrap_interval
from odam_d2.evaluation.people.attention_settings import OBSERVERS, REFERENCES, SIMILARITIES, WINDOWS, AttentionSettings
from odam_d2.evaluation.study.tables import PaperTable, format_interval, write_tables
from odam_d2.files import write_atomically

COLUMNS = (
    *("image_id", "annotation_id", "class", "score", "iou", "fixations", "method", "window"),
    *SIMILARITIES,
    *("zero_map", "missing", "task"),
)
UNKNOWN_TASK = "what people were told to do is not said (--task)"
Row = Mapping[str, Any]


def make_attention_tables(rows: Sequence[Row], settings: AttentionSettings, task: str) -> list[PaperTable]:
    """Table 6 in both windows, each with the paired differences of its first method.

    Args:
        rows: of all objects, methods and windows.
        settings: of the run.
        task: what people were told to do; it stands in every caption.

    Returns:
        the tables; none where no object took part.
    """
    tables = []
    for window, what in WINDOWS.items():
        own = [row for row in rows if row["window"] == window]
        if not own:
            continue
        title = f"Table 6, {window}"
        caption = f"Similarity with human attention over {what}. NOTE: {task or UNKNOWN_TASK}."
        lines = [[name, *_cells(own, name)] for name in settings.rows]
        headings = ["method", *(metric.title for metric in SIMILARITIES.values())]
        tables.append(PaperTable(title, caption, headings, lines, _note(own, settings)))
        first, *others = settings.rows
        lines = [[name, *_differences(own, first, name)] for name in others]
        caption = f"{first} less each other row, on the same objects. NOTE: {task or UNKNOWN_TASK}."
        note = (
            "Means of the differences with their 95 % bootstrap intervals, over the objects for which both have the "
            f"number. With ↓, less than 0 is better for {first}; with ↑, more than 0. Objects are resampled as if they "
            "were independent of each other, which several of one image are not quite."
        )
        tables.append(PaperTable(f"{title}, paired", caption, [f"{first} less", *headings[1:]], lines, note))
    return tables


def summarize_attention(
    rows: Sequence[Row], settings: AttentionSettings, counts: Mapping[str, int], task: str
) -> dict[str, Any]:
    """Means by window, row of the tables and similarity, with counts.

    Args:
        rows: of all objects, methods and windows.
        settings: of the run.
        counts: of the images.
        task: what people were told to do.

    Returns:
        window -> name -> similarity -> mean, None without a value; ``counts``, ``references`` and ``task``.
    """
    means: dict[str, Any] = {
        window: {name: {key: _mean(_values(own, name, key)) for key in SIMILARITIES} for name in settings.rows}
        for window in WINDOWS
        for own in [[row for row in rows if row["window"] == window]]
    }
    first = [row for row in rows if row["method"] == settings.rows[0] and row["window"] == "object"]
    objects = {"objects": len(first), "not_looked_at": sum(not row["fixations"] for row in first)}
    return means | {
        "counts": dict(counts) | objects,
        "references": REFERENCES,
        "task": task or UNKNOWN_TASK,
    }


def write_attention(
    folder: Path,
    rows: Sequence[Row],
    settings: AttentionSettings,
    counts: Mapping[str, int],
    task: str,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Write ``attention.csv``, ``summary.json`` and ``tables.md``.

    Args:
        folder: an existing one.
        rows: of all objects, methods and windows.
        settings: of the run.
        counts: of the images.
        task: what people were told to do.
        facts: about the run, for readers.

    Returns:
        the summary.

    Raises:
        OSError: a file cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "task": task or UNKNOWN_TASK} for row in rows)
    write_atomically(folder / "attention.csv", text.getvalue())
    summary = summarize_attention(rows, settings, counts, task)
    content = summary | {"settings": settings.to_json(), "facts": dict(facts)}
    write_atomically(folder / "summary.json", json.dumps(content, indent=1) + "\n")
    told = {"task": task or UNKNOWN_TASK, **facts, **summary["counts"], **REFERENCES}
    tables = make_attention_tables(rows, settings, task)
    write_atomically(folder / "tables.md", write_tables(tables, told, "Do the maps look where people look?"))
    return summary


def _cells(rows: Sequence[Row], name: str) -> list[str]:
    return [
        format_interval(bootstrap_interval(_values(rows, name, key)), metric.digits)
        for key, metric in SIMILARITIES.items()
    ]


def _differences(rows: Sequence[Row], first: str, other: str) -> list[str]:
    cells = []
    for key, metric in SIMILARITIES.items():
        # Rows of all methods come in the order of the objects.
        differences = _values(rows, first, key) - _values(rows, other, key)
        cells.append(format_interval(bootstrap_interval(differences), metric.digits))
    return cells


def _values(rows: Sequence[Row], name: str, key: str) -> np.ndarray:
    """A number of each object, (n,), NaN where it is undefined."""
    return np.array([math.nan if row[key] is None else row[key] for row in rows if row["method"] == name])


def _mean(values: np.ndarray) -> float | None:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None


def _note(rows: Sequence[Row], settings: AttentionSettings) -> str:
    """How many objects stand behind a table, and what is undefined."""
    first = [row for row in rows if row["method"] == settings.rows[0]]
    parts = [f"{len(first)} objects."]
    in_box = rows[0]["window"] == "object"
    if in_box and (nobody := sum(not row["fixations"] for row in first)):
        parts.append(f"At {nobody} of them nobody looked: they have no number.")
    for name in settings.rows:
        own = [row for row in rows if row["method"] == name]
        some = {
            "maps all zero in the box" if in_box else "all-zero maps": sum(row["zero_map"] for row in own),
            "maps missing": sum(row["missing"] for row in own),
        }
        told = [f"{count} {what}" for what, count in some.items() if count]
        parts += [f"{name}: {', '.join(told)}, which have no number."] if told else []
    agreed = [row["cosine"] is not None for row in rows if row["method"] == OBSERVERS and row["fixations"]]
    if in_box and any(agreed) and not all(agreed):
        parts.append(f"{OBSERVERS}: {agreed.count(False)} boxes at which never both halves of the people looked.")
    return " ".join(parts)
