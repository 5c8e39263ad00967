"""ODAM, equation (2): from a trace to one heat map per detection; rival methods on the same gradients.

Shapes: D detections, C channels, (Hl,Wl) level or layer.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from odam_d2.explain import weightings
from odam_d2.explain.gradients import Graph, check_layer, detection_gradients, layer_of, region_gradients
from odam_d2.explain.methods import GRADIENT_METHODS, METHODS, check_methods
from odam_d2.explain.reversed.head import reversed_maps
from odam_d2.explain.reversed.modules import check_reversible
from odam_d2.explain.settings import ExplainSettings
from odam_d2.explain.targets import COMBINED_PARTS, Target, check_targets, name_targets, target_name, target_output
from odam_d2.structures import SMOOTHING_FRACTION, Grid, HeatMaps, Trace, box_sides_in_cells


class Explainer(Protocol):
    """Whatever turns a trace into heat maps.

    Attributes:
        settings: how it explains.
        layer: what a trace must hold for it.
    """

    settings: ExplainSettings
    layer: str

    def check(self, targets: Sequence[Target]) -> None:
        """Refuse targets that it cannot explain."""

    def __call__(self, trace: Trace, target: Target = "class_score") -> HeatMaps:
        """One map for each prediction of the trace."""


class GradientExplainer:
    """Explains detections by gradient-weighted activations: ``explainer(trace, target) -> HeatMaps``.

    H = ReLU(sum_k W_k o A_k), W_k = Phi(dY/dA_k), equation (2) of the paper.

    Args:
        method: a name of :data:`METHODS`; what W is, stands in :mod:`odam_d2.explain.weightings`.
        layer: ``fpn`` (each detection's own level), ``roi_pool`` or a bottom-up stage such as ``res4``.
        smoothing: Phi of ODAM, ``none`` or ``gaussian`` (standard deviation
            :data:`odam_d2.structures.SMOOTHING_FRACTION` of the box side in cells, per axis). Other methods do not
            smooth.
        path: ``exact``: one backward pass for each detection. ``batched``: all detections together, through the pooled
            regions of a two-stage detector (``roi_pool``; exact) or the reversed head of a dense one (``fpn``; exact
            but for GroupNorm, see :mod:`odam_d2.explain.reversed.head`). ``auto``: batched wherever that is possible,
            with small levels of dense detectors run whole and therefore exactly; otherwise exact.
        memory: GiB that the reversed head may take at a time.

    Raises:
        ValueError: an unknown name; the valid ones are listed.
    """

    def __init__(
        self,
        method: str = "odam",
        layer: str = "fpn",
        smoothing: str = "none",
        path: str = "exact",
        memory: float = 1.0,
    ):
        check_methods([method], GRADIENT_METHODS)
        self.settings = ExplainSettings(method, layer, smoothing, path, memory)
        self.layer = layer
        self.weighting = METHODS[method].weighting[smoothing]
        self.path = path
        self.memory = int(memory * 2**30)

    @classmethod
    def from_settings(cls, settings: ExplainSettings) -> "GradientExplainer":
        """The explainer that the settings describe."""
        return cls(settings.method, settings.layer, settings.smoothing, settings.path, settings.memory)

    def __repr__(self) -> str:
        return f"GradientExplainer({', '.join(f'{name}={value}' for name, value in self.settings.describe().items())})"

    def check(self, targets: Sequence[Target]) -> None:
        """Refuse unknown targets.

        Raises:
            ValueError: lists the valid ones.
        """
        check_targets(targets)

    def __call__(self, trace: Trace, target: Target = "class_score", graph: Graph = "none") -> HeatMaps:
        """One map for each prediction of the trace.

        Args:
            trace: what the detector remembers.
            target: see :func:`odam_d2.explain.targets.resolve_target`.
            graph: what the maps can be differentiated by, as a loss on maps needs it: ``none``; ``activations``, with
                the gradients dY/dA as constants; ``all``, features and weights.

        Raises:
            ValueError: unknown target or layer; a map that is not finite.
        """
        return explain_together(trace, target, {"own": self}, graph)["own"]

    def batched_grids(self, trace: Trace, output: Tensor, graph: Graph = "none") -> list[Grid] | None:
        """Maps by the batched path, or None where :attr:`path` or the trace asks for one detection at a time.

        Args:
            trace: what the detector remembers.
            output: Y, (D,).
            graph: as in :meth:`__call__`.

        Raises:
            ValueError: ``path="batched"`` is not possible here; the message says why.
        """
        if self.path == "exact" or len(trace) == 0 or not self._can_batch(trace):
            return None
        if trace.regions is not None:
            return [_region_grid(trace, output, graph)]
        return reversed_maps(trace, output, self.path, self.memory, graph)

    def _can_batch(self, trace: Trace) -> bool:
        """Whether the batched path exists for this trace; with ``path="batched"`` an error says why not."""
        layer = "roi_pool" if trace.regions is not None else "fpn"
        try:
            if trace.attends:
                raise ValueError(
                    "path='batched' is not possible for a transformer: its queries attend to each other, so that one "
                    "backward pass would mix their gradients; use path='exact' or 'auto'"
                )
            if self.weighting is not weightings.identity:
                raise ValueError("path='batched' computes ODAM without smoothing only; use path='exact' or 'auto'")
            if self.layer != layer:
                raise ValueError(
                    f"path='batched' explains this detector at {layer!r}, not at {self.layer!r}; "
                    f"use layer={layer!r}, or path='exact' or 'auto'"
                )
            if trace.regions is None and not trace.subnets:
                raise ValueError("this detector's head is not made of known subnets; use path='exact' or 'auto'")
            for subnet in trace.subnets:
                check_reversible(subnet)
        except ValueError:
            if self.path == "batched":
                raise
            return False
        return True


def explain_together(
    trace: Trace, target: Target, explainers: Mapping[str, Explainer], graph: Graph = "none"
) -> dict[str, HeatMaps]:
    """Maps of several explainers; those of one layer that take gradients of it one at a time share them.

    Args:
        trace: what the detector remembers.
        target: as in :class:`GradientExplainer`.
        explainers: by any name.
        graph: as in :class:`GradientExplainer`; explainers of another kind have none.

    Returns:
        name -> maps, in the order of ``explainers``.

    Raises:
        ValueError: as in :class:`GradientExplainer`.
    """
    for explainer in explainers.values():
        explainer.check([target])
    others = {name: own(trace, target) for name, own in explainers.items() if not isinstance(own, GradientExplainer)}
    if others:
        own = {name: explainer for name, explainer in explainers.items() if name not in others}
        found = (explain_together(trace, target, own, graph) if own else {}) | others
        return {name: found[name] for name in explainers}
    if target == "combined":
        parts = [explain_together(trace, part, explainers, graph) for part in COMBINED_PARTS]
        return {name: combine([part[name] for part in parts]) for name in explainers}
    for explainer in explainers.values():
        check_layer(trace, explainer.layer)
    # The graph is there; the scalars are read from it now, whatever the caller's mode is.
    with torch.enable_grad():
        output = target_output(trace, target)
    found = {name: explainer.batched_grids(trace, output, graph) for name, explainer in explainers.items()}
    by_layer: dict[str, list[str]] = defaultdict(list)
    for name, grids in found.items():
        if grids is None:
            by_layer[explainers[name].layer].append(name)
    for layer, names in by_layer.items():
        own = [explainers[name].weighting for name in names]
        found |= zip(names, _one_by_one(trace, output, layer, own, graph))
    return {name: _heat_maps(trace, target, grids) for name, grids in found.items()}


def _one_by_one(
    trace: Trace, output: Tensor, layer: str, ways: Sequence[weightings.Weighting], graph: Graph = "none"
) -> list[list[Grid]]:
    """Grids for each weighting, from one backward pass for each detection."""
    rows: dict[str, list[int]] = defaultdict(list)
    maps: dict[str, list[list[Tensor]]] = defaultdict(list)
    for row, (gradient, activation) in enumerate(detection_gradients(trace, output, layer, graph)):
        name = layer_of(trace, row, layer)
        rows[name].append(row)
        sigma = _sigma(trace, row, name, activation)
        weighted = [weighting(gradient, activation, sigma) * activation for weighting in ways]
        maps[name].append([weights.sum(dim=0).relu() for weights in weighted])
    regions = layer == "roi_pool"
    return [
        [
            Grid(
                maps=torch.stack([own[place] for own in maps[name]]),
                rows=torch.tensor(rows[name], device=trace.boxes.device),
                stride=None if regions else trace.strides[name],
                boxes=trace.regions.boxes[rows[name]] if regions else None,
            )
            for name in rows
        ]
        for place in range(len(ways))
    ]


def _sigma(trace: Trace, row: int, name: str, activation: Tensor) -> Tensor:
    """Standard deviations (y,x) in cells of the Gaussian that a detection's size asks for, (1,2)."""
    sides = box_sides_in_cells(
        trace.clipped_boxes[row : row + 1],
        activation.shape[1:],
        trace.strides.get(name),
        trace.regions.boxes[row : row + 1] if trace.regions is not None else None,
    )
    return SMOOTHING_FRACTION * sides


def _heat_maps(trace: Trace, target: Target, grids: Sequence[Grid]) -> HeatMaps:
    for grid in grids:
        if not torch.isfinite(grid.maps).all():
            name = target_name(target)
            row = int(grid.rows[~torch.isfinite(grid.maps).flatten(1).all(dim=1)][0])
            raise ValueError(f"the {name} map of detection {row} is not finite; check the weights and the image")
    return HeatMaps(
        grids=tuple(grids),
        boxes=trace.clipped_boxes,
        image_size=trace.image_size,
        padded_size=trace.padded_size,
        output_size=trace.output_size,
        paste=trace.regions.paste if trace.regions is not None else None,
    )


def combine(parts: Sequence[HeatMaps]) -> HeatMaps:
    """H_comb of section 4.1.2: the element-wise maximum of the maps, each scaled to [0,1] first.

    Args:
        parts: maps of the same detections at the same layer.
    """
    scaled = [p.normalize() for p in parts]
    grids = (
        replace(same[0], maps=torch.stack([grid.maps for grid in same]).amax(dim=0))
        for same in zip(*(part.grids for part in scaled))
    )
    return replace(scaled[0], grids=tuple(grids))


def _region_grid(trace: Trace, output: Tensor, graph: Graph) -> Grid:
    """Maps of all predictions of a two-stage detector at their pooled regions."""
    pooled = trace.regions.features[-1]
    (gradient,) = region_gradients(trace, output, [pooled], create_graph=graph == "all")
    activation = pooled.detach() if graph == "none" else pooled
    maps = (gradient * activation[trace.regions.rows]).sum(dim=1).relu()
    return Grid(maps, torch.arange(len(trace), device=maps.device), boxes=trace.regions.boxes)


def explain(trace: Trace, targets: Sequence[Target], explainer: Explainer) -> dict[str, HeatMaps]:
    """Maps of several targets; those that ``combined`` needs are computed once.

    Args:
        trace: what the detector remembers.
        targets: see :func:`odam_d2.explain.targets.resolve_target`.
        explainer: how.

    Returns:
        name of the target -> maps, in the order of ``targets``.

    Raises:
        ValueError: unknown target, or two of one name.
    """
    explainer.check(targets)
    named = name_targets(targets)
    by_parts = "combined" in named and not METHODS[explainer.settings.method].own_combined
    needed = {name: target for name, target in named.items() if target != "combined" or not by_parts}
    if by_parts:
        needed |= {part: part for part in COMBINED_PARTS}
    maps = {name: explainer(trace, target) for name, target in needed.items()}
    if by_parts:
        maps["combined"] = combine([maps[part] for part in COMBINED_PARTS])
    return {name: maps[name] for name in named}
