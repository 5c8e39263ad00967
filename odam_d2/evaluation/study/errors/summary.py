"""Errors in numbers: how many of each kind and class, and where the energy behind them lies."""

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from odam_d2.evaluation.detections.error_modes import CORRECT, IGNORED, KINDS
from odam_d2.evaluation.study.errors.cases import BEHIND, Case, View
from odam_d2.evaluation.study.errors.energy import BACKGROUND, NEIGHBOUR, NOTHING, OBJECT
from odam_d2.show.words import SIDE_WORDS

SHARES = ("object", "neighbour", "background", "box")
ERROR_COLUMNS = (
    *("error", "kind", "image_id", "annotation_id", "class", "true_class", "score", "iou", "x1", "y1", "x2", "y2"),
    *("sides", "correlation", "reason", "looks_at", *(f"energy_{name}" for name in SHARES), "neighbour_class"),
)
MAP_COLUMNS = (
    *("error", "role", "target", "class", "title", "looks_at", *(f"energy_{name}" for name in SHARES)),
    "neighbour_class",
)
# How people call the maps of a kind that are no side's.
GROUPS = {
    "classification": "wrong classes",
    "both": "wrong classes of boxes that do not fit",
    "duplicate": "duplicates",
    "background": "detections of background",
    "missed": "missed objects",
}
Row = dict[str, Any]


def error_row(number: int, case: Case) -> Row:
    """A case as a row of ``errors.csv``; the energy is that of its first map.

    Args:
        number: of the error, from 0.
        case: the error.
    """
    behind = next((view for view in case.views if view.role == BEHIND), None)
    sides = zip(("x1", "y1", "x2", "y2"), (round(float(side), 2) for side in case.box))
    return {
        "error": number,
        "kind": case.kind,
        "image_id": case.image_id,
        "annotation_id": case.annotation_id,
        "class": case.class_name,
        "true_class": case.true_class,
        "score": round(case.score, 4),
        "iou": round(case.iou, 4),
        **dict(sides),
        "sides": " ".join(f"{side}:{by:+.3f}" for side, by in case.sides),
        "correlation": None if case.correlation is None else round(case.correlation, 4),
        "reason": case.reason,
        **(_energy(behind) if behind else {}),
    }


def map_rows(number: int, case: Case) -> list[Row]:
    """The maps of a case as rows of ``maps.csv``."""
    return [
        {
            "error": number,
            "role": view.role,
            "target": view.target,
            "class": view.class_name,
            "title": view.title,
            **_energy(view),
        }
        for view in case.views
    ]


def _energy(view: View) -> Row:
    shares = {f"energy_{name}": _finite(getattr(view.shares, name)) for name in SHARES}
    return {"looks_at": view.shares.looks_at, **shares, "neighbour_class": view.neighbour_class}


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)


def to_csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Rows as a CSV file with a heading; None is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def summarize_errors(
    errors: Sequence[Row], maps: Sequence[Row], kinds: Mapping[str, int], counts: Mapping[str, int]
) -> dict[str, Any]:
    """Everything in numbers, ``summary.json``.

    Args:
        errors: rows of ``errors.csv``.
        maps: rows of ``maps.csv``.
        kinds: how many detections there are of each kind, correct and ignored ones too, and missed objects.
        counts: of images, objects and masks.

    Returns:
        ``counts``, ``kinds``, ``classes`` (kind -> class -> number) and ``energy``: what the maps behind the errors are
        about -> how many there are, what part of them looks at each, their mean energy, neighbours by class, and of
        sides as ``reference`` the same of the maps beside them, whose sides are right.
    """
    kind_of = {row["error"]: row["kind"] for row in errors}
    groups: dict[str, list[Row]] = {}
    references: dict[str, list[Row]] = {}
    for row in maps:
        if row["role"] == BEHIND:
            groups.setdefault(_group(row, kind_of[row["error"]]), []).append(row)
        elif row["target"] in SIDE_WORDS:
            references.setdefault(_group(row, kind_of[row["error"]]), []).append(row)
    return {
        "counts": dict(counts),
        "kinds": {name: int(kinds.get(name, 0)) for name in (CORRECT, *KINDS, IGNORED)},
        "classes": {
            kind: dict(Counter(row["class"] for row in errors if row["kind"] == kind).most_common()) for kind in KINDS
        },
        "energy": {
            name: _sum_up(groups[name]) | ({"reference": _sum_up(references[name])} if name in references else {})
            for name in sorted(groups, key=_order)
        },
    }


def say_energy(energy: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A sentence a group, such as "41 % of the 22 mislocalised right sides look at a neighbour".

    Args:
        energy: of :func:`summarize_errors`.
    """
    sentences = []
    for name, own in energy.items():
        looks = own["looks_at"]
        near = ", ".join(f"{label} {count}" for label, count in list(own["neighbours"].items())[:3])
        neighbours = f" ({near})" if near else ""
        what = [f"{looks[NEIGHBOUR]:.0%} of the {own['maps']} {name} look at a neighbour{neighbours}"]
        if name != GROUPS["background"]:
            what.append(f"{looks[OBJECT]:.0%} at the object itself")
        what.append(f"{looks[BACKGROUND]:.0%} at the background")
        what += [f"{looks[NOTHING]:.0%} at nothing (all-zero maps)"] if looks[NOTHING] else []
        sentence = ", ".join(what) + "."
        if right := own.get("reference"):
            sentence += f" Where the side is right, {right['looks_at'][NEIGHBOUR]:.0%} of {right['maps']} do."
        sentences.append(sentence.replace("%", " %"))
    return sentences


def _group(row: Row, kind: str) -> str:
    if row["target"] in SIDE_WORDS:
        return f"mislocalised {SIDE_WORDS[row['target']]} sides"
    return GROUPS[kind]


def _order(name: str) -> int:
    sides = [f"mislocalised {word} sides" for word in SIDE_WORDS.values()]
    return [*sides, *GROUPS.values()].index(name)


def _sum_up(rows: Sequence[Row]) -> dict[str, Any]:
    looks = Counter(row["looks_at"] for row in rows)
    seen = [row for row in rows if row["looks_at"] != NOTHING]
    near = Counter(row["neighbour_class"] for row in rows if row["looks_at"] == NEIGHBOUR)
    return {
        "maps": len(rows),
        "looks_at": {name: looks[name] / len(rows) for name in (OBJECT, NEIGHBOUR, BACKGROUND, NOTHING)},
        "mean_energy": {
            name: float(np.mean([row[f"energy_{name}"] for row in seen])) if seen else None for name in SHARES
        },
        "neighbours": dict(near.most_common()),
    }
