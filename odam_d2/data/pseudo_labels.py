"""Training on boxes that another detector has drawn: those it was unsure of are neither object nor background."""

from collections.abc import Sequence
from typing import Any


def mark_uncertain(dicts: Sequence[dict[str, Any]], min_score: float) -> list[dict[str, Any]]:
    """Turn annotations whose ``score`` is below a threshold into regions to ignore (``iscrowd`` = 1).

    With ``ODAM.INPUT.IGNORE_REGIONS`` nothing is learned from such a region; without it, as from all crowds, that
    there is no object.

    Args:
        dicts: Detectron2's dataset dicts; they are not changed.
        min_score: from 0 to 1. An annotation without ``score`` was made by a person and stays what it is.

    Returns:
        dicts in the same order.
    """

    def marked(annotation: dict[str, Any]) -> dict[str, Any]:
        return {**annotation, "iscrowd": 1} if annotation.get("score", 1.0) < min_score else annotation

    return [{**one, "annotations": [marked(a) for a in one.get("annotations", [])]} for one in dicts]
