"""Mean curves of Deletion, Insertion and visual explanation accuracy, and a picture like the paper's Figure 10.

Shapes: k points of a curve.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from odam_d2.evaluation.metrics.specification import THRESHOLDS
from odam_d2.evaluation.study.record import Row

# Key of a row -> title, label of x, label of y. A score is in % of the start score, but for the authors' Insertion.
CURVES = {
    "deletion_curve": ("Deletion: lower is better", "deleted pixels, % of the box's area", "score, %"),
    "insertion_curve": ("Insertion: higher is better", "inserted pixels, % of the box's area", "score, %"),
    "vea_curve": (
        "Visual explanation accuracy: higher is better",
        "threshold T on the scaled map",
        "IoU with the mask",
    ),
}
# Of a panel, in inches.
PANEL = (4.6, 3.6)
STYLES = ("-", "--", "-.", ":")


def mean_curves(rows: Sequence[Row], methods: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    """The mean over the objects that have a curve.

    Args:
        rows: with the keys of :data:`CURVES`, each (k,) numbers, or None where undefined or not measured.
        methods: names, in order.

    Returns:
        name of a curve that was measured -> ``x`` and, by method, the mean, (k,) numbers.
    """
    means: dict[str, dict[str, list[float]]] = {}
    for name in CURVES:
        by_method = {}
        for method in methods:
            curves = [row[name] for row in rows if row["method"] == method and row.get(name) is not None]
            if curves:
                by_method[method] = np.mean(curves, axis=0).tolist()
        if by_method:
            count = len(next(iter(by_method.values())))
            x = list(THRESHOLDS) if name == "vea_curve" else np.linspace(0, 100, count).tolist()
            means[name] = {"x": x} | by_method
    return means


def draw_curves(path: Path, curves: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Draw what was measured, a panel a curve.

    Args:
        path: of the PNG file.
        curves: from :func:`mean_curves`, not empty.

    Raises:
        OSError: the file cannot be written.
    """
    figure = Figure(figsize=(PANEL[0] * len(curves), PANEL[1]), layout="constrained")
    # A method looks the same in all panels, also where one of them lacks another method.
    names = list(dict.fromkeys(method for points in curves.values() for method in points if method != "x"))
    lines = {}
    for axes, (name, points) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items()):
        for number, method in enumerate(names):
            if method in points:
                style = {"color": f"C{number}", "linestyle": STYLES[number % len(STYLES)]}
                (lines[method],) = axes.plot(points["x"], points[method], **style)
        title, x_label, y_label = CURVES[name]
        axes.set(title=title, xlabel=x_label, ylabel=y_label, ylim=(0, None), xlim=(points["x"][0], points["x"][-1]))
        axes.title.set_fontsize(11)
        axes.grid(alpha=0.3)
    # Beside the panels, where it hides no line.
    figure.legend(
        [lines[name] for name in names], names, loc="outside lower center", ncols=min(len(names), 3 * len(curves))
    )
    figure.savefig(path, dpi=150)
