"""ODAM, equation (2): from a trace to one heat map per detection; rival methods on the same gradients.

Shapes: D detections, C channels, (Hl,Wl) level or layer.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from odam_d2.explain import weightings
from odam_d2.explain.gradients import check_layer, detection_gradients, layer_of, region_gradients
from odam_d2.explain.masks.black_box import BlackBoxExplainer
from odam_d2.explain.reversed.head import reversed_maps
from odam_d2.explain.reversed.modules import check_reversible
from odam_d2.explain.targets import COMBINED_PARTS, Target, check_targets, target_output
from odam_d2.structures import SMOOTHING_FRACTION, Grid, HeatMaps, Trace, box_sides_in_cells

METHODS = {
    "odam": {"none": weightings.identity, "gaussian": weightings.gaussian},
    "gradcam": {"none": weightings.global_average, "gaussian": weightings.global_average},
    "gradcam++": {"none": weightings.grad_cam_plus_plus, "gaussian": weightings.grad_cam_plus_plus},
    "hirescam": {"none": weightings.identity, "gaussian": weightings.identity},
    "layercam": {"none": weightings.positive_gradient, "gaussian": weightings.positive_gradient},
    "ssgradcam++": {"none": weightings.spatial_grad_cam_plus_plus, "gaussian": weightings.spatial_grad_cam_plus_plus},
}
SMOOTHINGS = ("none", "gaussian")
PATHS = ("exact", "batched", "auto")


def check_methods(methods: Sequence[str], valid: Collection[str]) -> None:
    """Refuse a method that does not exist.

    Raises:
        ValueError: lists the valid names.
    """
    for method in methods:
        if method not in valid:
            raise ValueError(f"unknown method {method!r}; valid methods are {', '.join(valid)}")


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
        if path not in PATHS:
            raise ValueError(f"unknown path {path!r}; valid paths are {', '.join(PATHS)}")
        check_methods([method], METHODS)
        if smoothing not in SMOOTHINGS:
            raise ValueError(f"unknown smoothing {smoothing!r}; valid values are {', '.join(SMOOTHINGS)}")
        self.layer = layer
        self.weighting = METHODS[method][smoothing]
        self.path = path
        self.memory = int(memory * 2**30)

    def check(self, targets: Sequence[str]) -> None:
        """Refuse unknown targets.

        Raises:
            ValueError: lists the valid ones.
        """
        check_targets(targets)

    def __call__(self, trace: Trace, target: Target = "class_score") -> HeatMaps:
        """One map for each detection of the trace.

        Args:
            trace: what the detector remembers.
            target: a name of :data:`odam_d2.explain.targets.TARGETS` or a function from a trace to (D,) scalars.

        Raises:
            ValueError: unknown target or layer; a map that is not finite.
        """
        return explain_together(trace, target, {"own": self})["own"]

    def batched_grids(self, trace: Trace, output: Tensor) -> list[Grid] | None:
        """Maps by the batched path, or None where :attr:`path` or the trace asks for one detection at a time.

        Args:
            trace: what the detector remembers.
            output: Y, (D,).

        Raises:
            ValueError: ``path="batched"`` is not possible here; the message says why.
        """
        if self.path == "exact" or len(trace) == 0 or not self._can_batch(trace):
            return None
        if trace.rois is not None:
            return [_region_grid(trace, output)]
        return reversed_maps(trace, output, self.path, self.memory)

    def _can_batch(self, trace: Trace) -> bool:
        """Whether the batched path exists for this trace; with ``path="batched"`` an error says why not."""
        layer = "roi_pool" if trace.rois is not None else "fpn"
        try:
            if self.weighting is not weightings.identity:
                raise ValueError("path='batched' computes ODAM without smoothing only; use path='exact' or 'auto'")
            if self.layer != layer:
                raise ValueError(
                    f"path='batched' explains this detector at {layer!r}, not at {self.layer!r}; "
                    f"use features={layer!r}, or path='exact' or 'auto'"
                )
            if trace.rois is None and not trace.subnets:
                raise ValueError("this detector's head is not made of known subnets; use path='exact' or 'auto'")
            for subnet in trace.subnets:
                check_reversible(subnet)
        except ValueError:
            if self.path == "batched":
                raise
            return False
        return True


def explain_together(trace: Trace, target: Target, explainers: Mapping[str, GradientExplainer]) -> dict[str, HeatMaps]:
    """Maps of several explainers; those of one layer that take gradients one at a time share them.

    Args:
        trace: what the detector remembers.
        target: as in :class:`GradientExplainer`.
        explainers: by any name.

    Returns:
        name -> maps, in the order of ``explainers``.

    Raises:
        ValueError: as in :class:`GradientExplainer`.
    """
    if target == "combined":
        parts = [explain_together(trace, part, explainers) for part in COMBINED_PARTS]
        return {name: combine([part[name] for part in parts]) for name in explainers}
    for explainer in explainers.values():
        check_layer(trace, explainer.layer)
    output = target_output(trace, target)
    found = {name: explainer.batched_grids(trace, output) for name, explainer in explainers.items()}
    by_layer: dict[str, list[str]] = defaultdict(list)
    for name, grids in found.items():
        if grids is None:
            by_layer[explainers[name].layer].append(name)
    for layer, names in by_layer.items():
        own = [explainers[name].weighting for name in names]
        found |= zip(names, _one_by_one(trace, output, layer, own))
    return {name: _heat_maps(trace, target, grids) for name, grids in found.items()}


def _one_by_one(trace: Trace, output: Tensor, layer: str, ways: Sequence[weightings.Weighting]) -> list[list[Grid]]:
    """Grids for each weighting, from one backward pass for each detection."""
    rows: dict[str, list[int]] = defaultdict(list)
    maps: dict[str, list[list[Tensor]]] = defaultdict(list)
    for row, (gradient, activation) in enumerate(detection_gradients(trace, output, layer)):
        name = layer_of(trace, row, layer)
        rows[name].append(row)
        sigma = _sigma(trace, row, name, activation)
        weighted = [weighting(gradient.detach(), activation, sigma) * activation for weighting in ways]
        maps[name].append([weights.sum(dim=0).relu() for weights in weighted])
    regions = layer == "roi_pool"
    return [
        [
            Grid(
                maps=torch.stack([own[place] for own in maps[name]]),
                rows=torch.tensor(rows[name], device=trace.boxes.device),
                stride=None if regions else trace.strides[name],
                boxes=trace.rois.boxes[rows[name]] if regions else None,
            )
            for name in rows
        ]
        for place in range(len(ways))
    ]


def _sigma(trace: Trace, row: int, name: str, activation: Tensor) -> Tensor:
    """Standard deviations (y,x) in cells of the Gaussian that a detection's size asks for, (1,2)."""
    sides = box_sides_in_cells(
        trace.boxes[row : row + 1],
        activation.shape[1:],
        trace.strides.get(name),
        trace.rois.boxes[row : row + 1] if trace.rois is not None else None,
    )
    return SMOOTHING_FRACTION * sides


def _heat_maps(trace: Trace, target: Target, grids: Sequence[Grid]) -> HeatMaps:
    for grid in grids:
        if not torch.isfinite(grid.maps).all():
            row = int(grid.rows[~torch.isfinite(grid.maps).flatten(1).all(dim=1)][0])
            raise ValueError(f"the {target} map of detection {row} is not finite; check the weights and the image")
    return HeatMaps(
        grids=tuple(grids),
        boxes=trace.boxes,
        image_size=trace.image_size,
        padded_size=trace.padded_size,
        output_size=trace.output_size,
        paste=trace.rois.paste if trace.rois is not None else None,
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


def _region_grid(trace: Trace, output: Tensor) -> Grid:
    """Maps of all detections of a two-stage detector at their pooled regions."""
    pooled = trace.rois.features[-1]
    (gradient,) = region_gradients(trace, output, [pooled])
    maps = (gradient * pooled.detach()[trace.rois.rows]).sum(dim=1).relu()
    return Grid(maps, torch.arange(len(trace), device=maps.device), boxes=trace.rois.boxes)


def explain(
    trace: Trace, targets: Sequence[str], explainer: GradientExplainer | BlackBoxExplainer
) -> dict[str, HeatMaps]:
    """Maps of several named targets; those that ``combined`` needs are computed once.

    Args:
        trace: what the detector remembers.
        targets: names of :data:`odam_d2.explain.targets.TARGETS`.
        explainer: how.

    Returns:
        target -> maps, in the order of ``targets``.

    Raises:
        ValueError: unknown target.
    """
    explainer.check(targets)
    needed = dict.fromkeys(t for t in targets if t != "combined")
    if "combined" in targets:
        needed |= dict.fromkeys(COMBINED_PARTS)
    maps = {target: explainer(trace, target) for target in needed}
    if "combined" in targets:
        maps["combined"] = combine([maps[part] for part in COMBINED_PARTS])
    return {target: maps[target] for target in targets}
