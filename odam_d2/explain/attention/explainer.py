"""Attention of a transformer's queries as heat maps, from a trace.

Shapes: D predictions, Q queries, T cells of the encoder's map, n points.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from odam_d2.explain.attention.flow import weigh
from odam_d2.explain.explainer import combine
from odam_d2.explain.gradients import attention_gradients
from odam_d2.explain.methods import METHODS, check_method_targets
from odam_d2.explain.settings import ExplainSettings
from odam_d2.explain.targets import COMBINED_PARTS, Target, check_targets, target_output
from odam_d2.structures import Attention, Grid, HeatMaps, Trace


class AttentionExplainer:
    """Explains predictions by what their queries attend to: ``explainer(trace, target) -> HeatMaps``.

    Args:
        settings: the method, ``attention``, ``rollout`` or ``game``; the last multiplies attention with the gradient of
            the target, and takes a backward pass for each prediction.
    """

    # What a trace must hold: attention is there whatever the layer.
    layer = "fpn"

    def __init__(self, settings: ExplainSettings):
        self.settings = settings
        self._method = METHODS[settings.method]

    def __repr__(self) -> str:
        return f"AttentionExplainer(method={self.settings.method})"

    def check(self, targets: Sequence[Target]) -> None:
        """Refuse targets that the method does not have.

        Raises:
            ValueError: lists the valid ones.
        """
        check_targets(targets)
        check_method_targets(self.settings.method, targets)

    def __call__(self, trace: Trace, target: Target = "class_score") -> HeatMaps:
        """One map for each prediction of the trace.

        Args:
            trace: of a transformer whose queries attend to every cell.
            target: see :func:`odam_d2.explain.targets.resolve_target`; without gradients ``class_score`` alone.

        Raises:
            ValueError: another target, or a trace without attention.
        """
        self.check([target])
        if target == "combined":
            return combine([self(trace, part) for part in COMBINED_PARTS])
        attention = attention_of(trace, self.settings.method)
        places = trace.places
        if not self._method.by_gradient:
            layers = [[layer.detach()[0].mean(dim=0) for layer in part] for part in _parts(attention)]
            return _heat_maps(trace, attention, self._method.flow(*layers)[places], trace.clipped_boxes)
        with torch.enable_grad():
            output = target_output(trace, target)
        maps = [places.new_zeros((0, attention.cells[0] * attention.cells[1]), dtype=trace.boxes.dtype)]
        for place, gradients in zip(places.tolist(), attention_gradients(trace, output)):
            left = iter(gradients)
            layers = [[weigh(layer.detach()[0], next(left)[0]) for layer in part] for part in _parts(attention)]
            maps.append(self._method.flow(*layers)[place : place + 1])
        return _heat_maps(trace, attention, torch.cat(maps), trace.clipped_boxes)


def location_attention(trace: Trace, points: Tensor, layer: int = -1) -> HeatMaps:
    """What locations of the image attend to in the encoder, the mean over its heads.

    Args:
        trace: of a transformer whose cells attend to each other; it may hold no prediction.
        points: (x,y) in pixels of the image as the user sees it, (n,2).
        layer: which of the encoder's; default the last.

    Returns:
        n maps; their ``boxes`` are the points.

    Raises:
        ValueError: a trace without attention, points of another shape or outside the image, or no such layer.
    """
    attention = attention_of(trace, "attention of a location")
    if points.dim() != 2 or points.shape[1] != 2:
        raise ValueError(f"points must be (x,y) pairs of shape (n,2), not {tuple(points.shape)}")
    height, width = trace.output_size
    limits = points.new_tensor([width, height])
    outside = points[((points < 0) | (points >= limits)).any(dim=1)]
    if len(outside):
        raise ValueError(f"the point {tuple(outside[0].tolist())} lies outside the image of {width} x {height} pixels")
    count = len(attention.encoder)
    if not -count <= layer < count:
        raise ValueError(f"there is no layer {layer} of the encoder; it has {count}, numbered from 0")
    network = points.to(trace.boxes) * trace.boxes.new_tensor(trace.image_size[::-1]) / limits.to(trace.boxes)
    # The last cell may reach out of the map by rounding.
    column, row = (network / attention.stride).long().unbind(1)
    cell = row.clamp(max=attention.cells[0] - 1) * attention.cells[1] + column.clamp(max=attention.cells[1] - 1)
    maps = attention.encoder[layer].detach()[0].mean(dim=0)[cell]
    return _heat_maps(trace, attention, maps, torch.cat([network, network], dim=1))


def attention_of(trace: Trace, what: str) -> Attention:
    """The attention that a trace holds.

    Args:
        trace: what the detector remembers.
        what: who asks, for the message.

    Raises:
        ValueError: it has none; says why.
    """
    if trace.attention is None:
        reason = "looks at a few points of its maps" if trace.attends else "is no transformer"
        raise ValueError(
            f"{what} needs a transformer in which every query attends to every cell, such as DETR and Conditional "
            f"DETR; this detector {reason}"
        )
    return trace.attention


def _parts(attention: Attention) -> tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]:
    return attention.encoder, attention.decoder, attention.cross


def _heat_maps(trace: Trace, attention: Attention, maps: Tensor, boxes: Tensor) -> HeatMaps:
    """Maps (n,T) over the encoder's cells."""
    if not torch.isfinite(maps).all():
        raise ValueError("the attention is not finite; check the weights and the image")
    grid = Grid(maps.unflatten(1, attention.cells), torch.arange(len(maps), device=maps.device), attention.stride)
    return HeatMaps((grid,), boxes, trace.image_size, trace.padded_size, trace.output_size)
