"""Figure 14: do people trust those maps more that look where people look?

Shapes: n objects.
"""

import csv
import math
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import linregress

from odam_d2.evaluation.people.trust.analysis import ranks_by_method
from odam_d2.evaluation.people.trust.answers import Answers
from odam_d2.evaluation.people.trust.studies import Study

# Columns of attention.csv -> what people read.
SIMILARITIES = {
    "cosine": "cosine similarity",
    "correlation": "correlation",
    "otd": "optimal transport distance",
    "jsd": "Jensen-Shannon divergence",
}
# A line through two points always fits.
LEAST = 3
ObjectId = tuple[str, str]


class Trend(NamedTuple):
    """A regression line of similarity on trust.

    Attributes:
        slope: by how much the similarity changes where the average rank is one worse; NaN where there is no line.
        intercept: at rank 0.
        r: Pearson's correlation.
        p: two-sided, that the slope is 0.
        count: of objects.
    """

    slope: float
    intercept: float
    r: float
    p: float
    count: int


def mean_ranks(study: Study, answers: Answers, method: str) -> dict[ObjectId, float]:
    """The average rank of a method's map of each object, 1 for the best.

    Args:
        study: of the kind ``rank``.
        answers: of its participants.
        method: one of the study's.
    """
    asked = [question for question in study.questions if question.id in answers]
    own = ranks_by_method(study, answers)[:, study.methods.index(method)]
    by_object: dict[ObjectId, list[int]] = defaultdict(list)
    for question, rank in zip(asked, own.tolist()):
        item = study.items[question.item]
        by_object[item.image_id, item.annotation_id].append(rank)
    return {key: float(np.mean(ranks)) for key, ranks in by_object.items()}


def read_similarities(path: Path, method: str, window: str) -> tuple[dict[str, dict[ObjectId, float]], str]:
    """A method's similarities with human attention, from ``attention.csv`` of ``odam attention``.

    Args:
        path: of the file.
        method: whose.
        window: ``image`` or ``object``.

    Returns:
        similarity -> object -> its value, where it has one; and what people were told to do.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not that file, or has no rows of the method.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; odam attention writes it")
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = {"image_id", "annotation_id", "method", "window", "task", *SIMILARITIES} - set(
            reader.fieldnames or ()
        )
        if missing:
            raise ValueError(
                f"{path} lacks the column {min(missing)}; name the attention.csv that odam attention wrote"
            )
        rows = [row for row in reader if row["method"] == method and row["window"] == window]
    if not rows:
        raise ValueError(f"{path} has no row of the method {method} in the window {window}; name another with --method")
    found: dict[str, dict[ObjectId, float]] = {name: {} for name in SIMILARITIES}
    for row in rows:
        for name, values in found.items():
            if row[name]:
                values[row["image_id"], row["annotation_id"]] = float(row[name])
    return found, rows[0]["task"]


def fit_trend(ranks: dict[ObjectId, float], similarity: dict[ObjectId, float]) -> Trend:
    """The regression line of a similarity on the average rank, over the objects that have both.

    Args:
        ranks: object -> average rank.
        similarity: object -> value.
    """
    both = [key for key in ranks if key in similarity]
    x, y = (np.array([values[key] for key in both], dtype=np.float64) for values in (ranks, similarity))
    if len(both) < LEAST or np.ptp(x) == 0:
        return Trend(math.nan, math.nan, math.nan, math.nan, len(both))
    line = linregress(x, y)
    return Trend(float(line.slope), float(line.intercept), float(line.rvalue), float(line.pvalue), len(both))


def draw_trends(
    path: Path, ranks: dict[ObjectId, float], similarities: dict[str, dict[ObjectId, float]], note: str
) -> dict[str, Trend]:
    """Draw Figure 14: an object a point, the line in red where there is one.

    Args:
        path: of the PNG file.
        ranks: object -> average rank.
        similarities: of :func:`read_similarities`.
        note: what people were told to do; stands under the figure.

    Returns:
        similarity -> its line.

    Raises:
        ValueError: fewer than three objects have both.
        OSError: the file cannot be written.
    """
    trends = {name: fit_trend(ranks, own) for name, own in similarities.items()}
    most = max(trend.count for trend in trends.values())
    if most < LEAST:
        raise ValueError(
            f"{most} objects have both a rank and a similarity with human attention; at least {LEAST} are needed: ask "
            "about the objects of odam attention"
        )
    figure = Figure(figsize=(15, 4.2), layout="constrained")
    for axes, (name, own) in zip(figure.subplots(1, len(similarities)), similarities.items()):
        both = [key for key in ranks if key in own]
        x = np.array([ranks[key] for key in both])
        axes.plot(x, [own[key] for key in both], "o", markersize=4, alpha=0.6)
        trend = trends[name]
        title = f"{SIMILARITIES[name]}, {trend.count} objects"
        if not math.isnan(trend.slope):
            ends = np.array([x.min(), x.max()])
            axes.plot(ends, trend.intercept + trend.slope * ends, color="red")
            title += f"\nr = {trend.r:.2f}, p = {trend.p:.2g}"
        axes.set(title=title, xlabel="average rank (1 is best)", ylabel=SIMILARITIES[name])
        axes.grid(alpha=0.3)
    figure.supxlabel(note, fontsize=8)
    figure.savefig(path, dpi=130)
    return trends
