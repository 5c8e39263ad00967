"""ODAM, equation (2): from a trace to one heat map per detection; Grad-CAM and Grad-CAM++ on the same gradients.

Shapes: D detections, C channels, (Hl,Wl) level or layer.
"""

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from odam_d2.explain import cam
from odam_d2.explain.gradients import check_layer, detection_gradients, layer_of
from odam_d2.explain.targets import COMBINED_PARTS, Target, check_targets, target_output
from odam_d2.structures import SMOOTHING_FRACTION, Grid, HeatMaps, Trace, box_sides_in_cells

METHODS = {
    "odam": {"none": cam.identity, "gaussian": cam.gaussian},
    "gradcam": {"none": cam.global_average, "gaussian": cam.global_average},
    "gradcam++": {"none": cam.grad_cam_plus_plus, "gaussian": cam.grad_cam_plus_plus},
}
SMOOTHINGS = ("none", "gaussian")


class GradientExplainer:
    """Explains detections by gradient-weighted activations: ``explainer(trace, target) -> HeatMaps``.

    H = ReLU(sum_k W_k o A_k), W_k = Phi(dY/dA_k), equation (2) of the paper.

    Args:
        method: ``odam``, ``gradcam`` or ``gradcam++``.
        layer: ``fpn`` (each detection's own level), ``roi_pool`` or a bottom-up stage such as ``res4``.
        smoothing: Phi of ODAM, ``none`` or ``gaussian`` (standard deviation
            :data:`odam_d2.structures.SMOOTHING_FRACTION` of the box side in cells, per axis). Grad-CAM and Grad-CAM++
            average over the whole map instead.

    Raises:
        ValueError: an unknown name; the valid ones are listed.
    """

    def __init__(self, method: str = "odam", layer: str = "fpn", smoothing: str = "none"):
        if method not in METHODS:
            raise ValueError(f"unknown method {method!r}; valid methods are {', '.join(METHODS)}")
        if smoothing not in SMOOTHINGS:
            raise ValueError(f"unknown smoothing {smoothing!r}; valid values are {', '.join(SMOOTHINGS)}")
        self.layer = layer
        self.weighting = METHODS[method][smoothing]

    def __call__(self, trace: Trace, target: Target = "class_score") -> HeatMaps:
        """One map for each detection of the trace.

        Args:
            trace: what the detector remembers.
            target: a name of :data:`odam_d2.explain.targets.TARGETS` or a function from a trace to (D,) scalars.

        Raises:
            ValueError: unknown target or layer; a map that is not finite.
        """
        if target == "combined":
            return combine([self(trace, part) for part in COMBINED_PARTS])
        check_layer(trace, self.layer)
        rows: dict[str, list[int]] = defaultdict(list)
        maps: dict[str, list[Tensor]] = defaultdict(list)
        gradients = detection_gradients(trace, target_output(trace, target), self.layer)
        for row, (gradient, activation) in enumerate(gradients):
            name = layer_of(trace, row, self.layer)
            rows[name].append(row)
            maps[name].append(self._map(trace, row, name, gradient, activation))
            if not torch.isfinite(maps[name][-1]).all():
                raise ValueError(f"the {target} map of detection {row} is not finite; check the weights and the image")
        regions = self.layer == "roi_pool"
        grids = [
            Grid(
                maps=torch.stack(maps[name]),
                rows=torch.tensor(rows[name], device=trace.boxes.device),
                stride=None if regions else trace.strides[name],
                boxes=trace.rois.boxes[rows[name]] if regions else None,
            )
            for name in rows
        ]
        return HeatMaps(
            grids=tuple(grids),
            boxes=trace.boxes,
            image_size=trace.image_size,
            padded_size=trace.padded_size,
            output_size=trace.output_size,
            paste=trace.rois.paste if trace.rois is not None else None,
        )

    def _map(self, trace: Trace, row: int, name: str, gradient: Tensor, activation: Tensor) -> Tensor:
        sides = box_sides_in_cells(
            trace.boxes[row : row + 1],
            activation.shape[1:],
            trace.strides.get(name),
            trace.rois.boxes[row : row + 1] if trace.rois is not None else None,
        )
        weights = self.weighting(gradient.detach(), activation, SMOOTHING_FRACTION * sides)
        return (weights * activation).sum(dim=0).relu()


def combine(parts: Sequence[HeatMaps]) -> HeatMaps:
    """H_comb of section 4.1.2: the element-wise maximum of the maps, each scaled to [0,1] first.

    Args:
        parts: maps of the same detections at the same layer.
    """
    scaled = [p.normalize() for p in parts]
    grids = (
        Grid(torch.stack([g.maps for g in same]).amax(dim=0), same[0].rows, same[0].stride, same[0].boxes)
        for same in zip(*(s.grids for s in scaled))
    )
    first = scaled[0]
    return HeatMaps(tuple(grids), first.boxes, first.image_size, first.padded_size, first.output_size, first.paste)


def explain(trace: Trace, targets: Sequence[str], explainer: GradientExplainer) -> dict[str, HeatMaps]:
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
    check_targets(targets)
    needed = dict.fromkeys(t for t in targets if t != "combined")
    if "combined" in targets:
        needed |= dict.fromkeys(COMBINED_PARTS)
    maps = {target: explainer(trace, target) for target in needed}
    if "combined" in targets:
        maps["combined"] = combine([maps[part] for part in COMBINED_PARTS])
    return {target: maps[target] for target in targets}
