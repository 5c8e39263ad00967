"""A picture of how a training went: its losses and the quality of its detections, by iteration."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# What is drawn of an evaluation, in this order, where it was measured.
QUALITIES = ("AP50", "AP", "JI", "MR", "Recall")
# Values of a loss that are averaged: single batches say little.
WINDOW = 10


def draw_training_curves(metrics_file: str | Path, path: str | Path) -> bool:
    """Draw what Detectron2 wrote to ``metrics.json`` while it trained.

    Args:
        metrics_file: its path; one JSON object a line.
        path: of the picture.

    Returns:
        whether there was anything to draw.

    Raises:
        OSError: a file cannot be read or written.
    """
    lines = [json.loads(line) for line in Path(metrics_file).read_text(encoding="utf-8").splitlines() if line.strip()]
    # A run that went on after it was killed has some iterations twice: what came last is what counts.
    by_iteration: dict[int, dict[str, Any]] = {}
    for line in lines:
        by_iteration.setdefault(line["iteration"], {}).update(line)
    rows = [by_iteration[iteration] for iteration in sorted(by_iteration)]
    losses = sorted({name for row in rows for name in row if "loss" in name and name != "total_loss"})
    qualities = [name for name in QUALITIES if any(key.endswith(f"/{name}") for row in rows for key in row)]
    if not losses:
        return False
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2 if qualities else 1, squeeze=False)[0]
    _draw(axes[0], rows, ["total_loss", *losses], WINDOW)
    axes[0].set(xlabel="iteration", ylabel="loss")
    if qualities:
        keys = dict.fromkeys(key for name in qualities for row in rows for key in row if key.endswith(f"/{name}"))
        _draw(axes[1], rows, list(keys), 1)
        axes[1].set(xlabel="iteration", ylabel="%")
    figure.savefig(path, dpi=110, bbox_inches="tight")
    return True


def _draw(axes: Axes, rows: list[dict[str, Any]], names: list[str], window: int) -> None:
    """One line for each name, over the rows that have it."""
    for name in names:
        points = [(row["iteration"], row[name]) for row in rows if name in row]
        if not points:
            continue
        x, y = np.array(points, dtype=np.float64).T
        width = min(window, len(y))
        smooth = np.convolve(y, np.ones(width) / width, mode="valid")
        axes.plot(x[width - 1 :], smooth, marker="o" if window == 1 else "", markersize=3, label=name)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    # Below, where it hides no line.
    axes.legend(fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)
