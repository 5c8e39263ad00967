"""Gradients of one output per detection with respect to a feature layer; the only caller of ``torch.autograd.grad``.

Only what lies between the output and the layer is run backward: the head for ``fpn`` and ``roi_pool``; head, FPN and
the stages above for ``res3`` to ``res5``. The graph and the model's ``.grad`` fields are left as they were.

Shapes: D detections, R regions, C channels, V values an output has at an anchor, (Hl,Wl) level or layer, P side of a
pooled region.
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
    stages = trace.rois.features[-1:] if layer == "roi_pool" else trace.rois.features
    pooled = region_gradients(trace, output, stages)
    for d, row in enumerate(trace.rois.rows.tolist()):
        if layer == "roi_pool":
            yield pooled[-1][d], trace.rois.features[-1][row].detach()
            continue
        only = [torch.zeros_like(features) for features in trace.rois.features]
        for mine, every in zip(only, pooled):
            mine[row] = every[d]
        feature = trace.features[layer_of(trace, d, layer)]
        yield _grad(trace.rois.features, feature, only)[0], feature[0].detach()


def region_gradients(
    trace: Trace, output: Tensor, stages: Sequence[Tensor], create_graph: bool = False
) -> list[Tensor]:
    """Gradients dY_d/dA of all detections with respect to their pooled regions, by few backward passes.

    Rows of a box head do not depend on each other, so one backward pass of a sum gives every row's own gradient. It
    takes as many passes as the most-repeated region has detections: one where every region has one class.

    Args:
        trace: of a two-stage detector.
        output: Y, (D,).
        stages: those of ``trace.rois.features`` to differentiate by.
        create_graph: True makes the gradients differentiable.

    Returns:
        for each stage (D,C,P,P).
    """
    rows = trace.rois.rows
    found = [features.new_zeros((len(rows), *features.shape[1:])) for features in stages]
    for chosen in _rounds(rows):
        one = torch.zeros_like(output).index_fill(0, chosen, 1.0)
        for stage, features in enumerate(stages):
            gradient = _grad([output], features, [one], create_graph)[rows[chosen]]
            # One detection a region, the common case, needs no copying.
            found[stage] = gradient if len(chosen) == len(rows) else found[stage].index_copy(0, chosen, gradient)
    return found


def _rounds(rows: Tensor) -> Iterator[Tensor]:
    """Split detections so that no region occurs twice in a part: the first of every region, the second ..."""
    if len(rows) == 0:
        return
    order = rows.argsort(stable=True)
    counts = torch.bincount(rows)
    rank = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows[order]]
    for i in range(int(counts.max())):
        yield order[rank == i].sort().values


def row_gradients(output: Tensor, values: Sequence[Tensor], create_graph: bool = False) -> tuple[Tensor, ...]:
    """dY_d/d(values of detection d) for tensors whose row d influences Y_d alone: one backward pass of the sum.

    Args:
        output: Y, (D,).
        values: each (D,V), with graph.
        create_graph: True makes the result differentiable.

    Returns:
        each (D,V); zero where Y does not depend on the values.
    """
    return torch.autograd.grad(
        output.sum(), values, retain_graph=True, create_graph=create_graph, allow_unused=True, materialize_grads=True
    )


def _grad(outputs: Sequence[Tensor], source: Tensor, weights: Sequence[Tensor], create_graph: bool = False) -> Tensor:
    """d(sum of weighted outputs)/d(source); zero where they are not connected. Works under ``no_grad`` too."""
    (gradient,) = torch.autograd.grad(
        outputs,
        source,
        grad_outputs=weights,
        retain_graph=True,
        create_graph=create_graph,
        allow_unused=True,
        materialize_grads=True,
    )
    return gradient
