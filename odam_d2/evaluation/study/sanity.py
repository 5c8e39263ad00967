"""Sanity checks of explanations: they must depend on what the detector learned, and on which detection is explained.

Two checks. *Cascading randomisation* (Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018): the detector's
layers lose what they learned one group after the other, from the top down, and after each the map of the same detection
is compared with the original one. *Neighbours*: the maps of two overlapping detections of one class are compared.

Shapes: D detections, P pairs, (gh,gw) coarse grid on which maps are compared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import rankdata

from odam_d2.evaluation.metrics.matching import box_iou
from odam_d2.evaluation.study.randomization import cascade
from odam_d2.explain import Explainer, Target, explain_together
from odam_d2.predictor import ODAMPredictor
from odam_d2.structures import Trace

ORIGINAL = "none"
SIMILARITIES = ("spearman", "cosine")
# A method passes if, with every layer randomised, maps have a mean rank correlation with the original ones below this,
# and if the maps of no two neighbours are the same.
DEPENDS, SAME = 0.5, 0.999


@dataclass(eq=False)
class SanityResult:
    """What the checks found, for one method.

    Args:
        cascade: similarity -> group of layers, from the top -> values, one a detection.
        zero_maps: group of layers -> how many maps became all-zero; they are similar to nothing.
        neighbours: cosine of the maps of each pair of overlapping detections of one class, (P,).
    """

    cascade: dict[str, dict[str, list[float]]] = field(default_factory=lambda: {name: {} for name in SIMILARITIES})
    zero_maps: dict[str, int] = field(default_factory=dict)
    neighbours: list[float] = field(default_factory=list)

    def to_json(self) -> dict:
        """Means and verdicts."""
        means = {
            name: {group: float(np.mean(values)) for group, values in groups.items()}
            for name, groups in self.cascade.items()
        }
        last = list(means["spearman"].values())[-1:]
        return {
            "detections": len(next(iter(self.cascade["spearman"].values()), [])),
            **means,
            "zero_maps": dict(self.zero_maps),
            "depends_on_weights": last[0] < DEPENDS if last else None,
            "pairs": len(self.neighbours),
            "neighbour_cosine": float(np.mean(self.neighbours)) if self.neighbours else None,
            "neighbours_differ": max(self.neighbours) < SAME if self.neighbours else None,
        }


def check_image(
    predictor: ODAMPredictor,
    image_bgr: np.ndarray,
    explainers: Mapping[str, Explainer],
    results: Mapping[str, SanityResult],
    target: Target = "class_score",
    score_threshold: float = 0.3,
    max_detections: int = 5,
    seed: int = 0,
) -> None:
    """Run both checks on one image and add what they find.

    Args:
        predictor: the detector; its weights are put back, also after an exception.
        image_bgr: (h,w,3) uint8.
        explainers: by name, all at one layer.
        results: by the same names; grows.
        target: what is explained.
        score_threshold: of the detections.
        max_detections: so many, the best, go through the cascade; all are neighbours.
        seed: of the randomisation.

    Raises:
        ValueError: a map is not finite.
    """
    layers = tuple({explainer.layer for explainer in explainers.values()})
    observation = predictor.observe([image_bgr], layers)
    (found,) = observation.detections()
    trace = observation.trace_detections(0, found[found.scores > score_threshold])
    if not len(trace):
        return
    original = _coarse_maps(trace, target, explainers)
    pairs = neighbour_pairs(trace.clipped_boxes.cpu().numpy(), trace.classes.cpu().numpy())
    for name, maps in original.items():
        results[name].neighbours += [cosine(maps[i], maps[j]) for i, j in pairs]
    places, classes = trace.places[:max_detections], trace.classes[:max_detections]
    with cascade(predictor.model, seed) as groups:
        for group in groups:
            # The same places and classes, whatever the detector would find by now.
            again = predictor.observe([image_bgr], layers, places_of=observation)
            for name, maps in _coarse_maps(again.trace(0, places, classes), target, explainers).items():
                _compare(results[name], group, original[name], maps)


def neighbour_pairs(boxes: np.ndarray, classes: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of overlapping detections of one class, each once.

    Args:
        boxes: (D,4) XYXY.
        classes: (D,).
    """
    close = (box_iou(boxes, boxes) > 0) & (classes[:, None] == classes)
    return [(int(i), int(j)) for i, j in np.argwhere(np.triu(close, 1))]


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    """Cosine of two maps, (gh,gw) each, in [0,1]; 0 if one is all-zero."""
    norms = np.linalg.norm(first) * np.linalg.norm(second)
    return float((first * second).sum() / norms) if norms > 0 else 0.0


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Rank correlation of two maps where at least one of them is not 0.

    The zeros that two maps share say where the detector cannot look for this detection, such as outside of the pooled
    region. That does not depend on what it learned, and would make any two maps similar. Maps that are not 0 in
    different places are negatively correlated.

    Args:
        first: (gh,gw), non-negative.
        second: (gh,gw), non-negative.

    Returns:
        in [-1,1], equal values sharing their mean rank; 0 if one is flat there, or both are all-zero.
    """
    seen = (first > 0) | (second > 0)
    if not seen.any():
        return 0.0
    ranks = [rankdata(values) for values in (first[seen], second[seen])]
    a, b = (own - own.mean() for own in ranks)
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / norms) if norms > 0 else 0.0


def draw_sanity(path: str, results: dict[str, SanityResult]) -> None:
    """One figure: both similarities down the cascade, and the similarity of neighbours.

    Args:
        path: of the PNG file.
        results: by method, not empty.

    Raises:
        OSError: the file cannot be written.
    """
    found = {name: result.to_json() for name, result in results.items()}
    count = max(own["detections"] for own in found.values())
    figure = Figure(figsize=(15, 5), layout="constrained")
    panels = figure.subplots(1, 3, width_ratios=(3, 3, 2))
    for axes, similarity in zip(panels, SIMILARITIES):
        for (name, values), marker in zip(found.items(), "osD^vP*X"):
            groups = values[similarity]
            axes.plot([ORIGINAL, *groups], [1.0, *groups.values()], marker=marker, markersize=4, label=name)
        axes.set(
            title=f"Similarity with the original map: {similarity}",
            xlabel="randomised from the top down to",
            ylabel=f"mean {similarity} of {count} detections",
        )
        axes.tick_params(axis="x", rotation=60)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.grid(alpha=0.3)
    # Beside the panels, where it hides no line.
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(found))
    values = [own["neighbour_cosine"] or 0.0 for own in found.values()]
    pairs = max(own["pairs"] for own in found.values())
    panels[2].bar(list(found), values, color=[f"C{number}" for number in range(len(found))])
    panels[2].set(title=f"Neighbours of one class: {pairs} pairs", ylabel="mean cosine of their maps", ylim=(0, 1))
    panels[2].tick_params(axis="x", rotation=60)
    figure.savefig(path, dpi=130)


def _coarse_maps(trace: Trace, target: Target, explainers: Mapping[str, Explainer]) -> dict[str, np.ndarray]:
    """Maps (D,gh,gw) by method."""
    found = explain_together(trace, target, explainers)
    return {name: maps.resample().cpu().numpy().astype(np.float64) for name, maps in found.items()}


def _compare(result: SanityResult, group: str, before: np.ndarray, after: Sequence[np.ndarray]) -> None:
    for name, similarity in (("spearman", spearman), ("cosine", cosine)):
        result.cascade[name].setdefault(group, []).extend(similarity(a, b) for a, b in zip(before, after))
    result.zero_maps[group] = result.zero_maps.get(group, 0) + sum(not own.any() for own in after)
