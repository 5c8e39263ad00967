"""Gradients of one output per detection with respect to a feature layer; the only caller of ``torch.autograd.grad``.

Only what lies between the output and the layer is run backward: the head for ``fpn`` and ``roi_pool``; head, FPN and
the stages above for ``res3`` to ``res5``. The graph and the model's ``.grad`` fields are left as they were.

Shapes: D detections, C channels, (Hl,Wl) level or layer, P side of a pooled region.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from odam_d2.structures import Trace


def layer_of(trace: Trace, row: int, layer: str) -> str:
    """Name of the feature map that ``layer`` means for a detection: ``fpn`` is the level it comes from."""
    return trace.levels[row] if layer == "fpn" else layer


def check_layer(trace: Trace, layer: str) -> None:
    """Refuse a layer that the trace does not hold.

    Raises:
        ValueError: lists the valid layers.
    """
    if layer not in trace.layers:
        raise ValueError(f"unknown feature layer {layer!r}; this detector's layers are {', '.join(trace.layers)}")


def detection_gradients(trace: Trace, output: Tensor, layer: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Exact gradients dY_d/dA, one detection after the other.

    Args:
        trace: what the detector remembers.
        output: Y, (D,), the d-th entry a function of the d-th detection's outputs alone.
        layer: ``fpn``, ``roi_pool`` or a bottom-up stage that the trace holds.

    Yields:
        (gradient, activation A), both (C,Hl,Wl), or (C,P,P) for ``roi_pool``. An output that does not depend on the
        layer has gradient zero.

    Raises:
        ValueError: unknown layer, or an output without a graph.
    """
    check_layer(trace, layer)
    if len(trace) == 0:
        return
    if not output.requires_grad:
        raise ValueError("the output to explain has no autograd graph; trace the detector outside inference_mode")
    if trace.rois is None:
        yield from _dense_gradients(trace, output, layer)
    else:
        yield from _region_gradients(trace, output, layer)


def _dense_gradients(trace: Trace, output: Tensor, layer: str) -> Iterator[tuple[Tensor, Tensor]]:
    one = torch.eye(len(trace), dtype=output.dtype, device=output.device)
    for row in range(len(trace)):
        level = trace.features[trace.levels[row]]
        gradient = _grad([output], level, [one[row]])
        if layer == "fpn":
            yield gradient[0], level[0].detach()
        else:
            # In two steps, because a detection reads one level only: the heads of the others are never run backward.
            stage = trace.features[layer]
            yield _grad([level], stage, [gradient])[0], stage[0].detach()


def _region_gradients(trace: Trace, output: Tensor, layer: str) -> Iterator[tuple[Tensor, Tensor]]:
    # Rows of a box head are independent, so one backward pass of the sum gives every row's own gradient.
    pooled = [_grad([output], features, [torch.ones_like(output)]) for features in trace.rois.features]
    for row in range(len(trace)):
        if layer == "roi_pool":
            yield pooled[-1][row], trace.rois.features[-1][row].detach()
            continue
        only = [torch.zeros_like(g) for g in pooled]
        for mine, every in zip(only, pooled):
            mine[row] = every[row]
        feature = trace.features[layer_of(trace, row, layer)]
        yield _grad(trace.rois.features, feature, only)[0], feature[0].detach()


def _grad(outputs: Sequence[Tensor], source: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """d(sum of weighted outputs)/d(source); zero where they are not connected. Works under ``no_grad`` too."""
    (gradient,) = torch.autograd.grad(
        outputs, source, grad_outputs=weights, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return gradient
