"""Gradients of one output per detection with respect to a feature layer; the only caller of ``torch.autograd.grad``.

Only what lies between the output and the layer is run backward: the head for ``fpn`` and ``roi_pool``; head, FPN and
the stages above for ``res3`` to ``res5``. The graph and the model's ``.grad`` fields are left as they were.

Shapes: D detections, R regions, C channels, V values an output has at an anchor, (Hl,Wl) level or layer, P side of a
pooled region.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from odam_d2.structures import Trace

# What maps can be differentiated by: nothing; the activations A, with dY/dA a constant (first order); or everything,
# through dY/dA too, which reaches the weights between A and Y (second order).
Graph = Literal["none", "activations", "all"]


def layer_of(trace: Trace, row: int, layer: str) -> str:
    """Name of the feature map that ``layer`` means for a prediction: ``fpn`` is the level it comes from."""
    return trace.levels[row] if layer == "fpn" else layer


def check_layer(trace: Trace, layer: str) -> None:
    """Refuse a layer that the trace does not hold.

    Raises:
        ValueError: lists the valid layers.
    """
    if layer not in trace.layers:
        raise ValueError(f"unknown layer {layer!r}; this trace's layers are {', '.join(trace.layers)}")


def detection_gradients(
    trace: Trace, output: Tensor, layer: str, graph: Graph = "none"
) -> Iterator[tuple[Tensor, Tensor]]:
    """Exact gradients dY_d/dA, one prediction after the other.

    Args:
        trace: what the detector remembers.
        output: Y, (D,), the d-th entry a function of the d-th prediction's outputs alone.
        layer: ``fpn``, ``roi_pool`` or a bottom-up stage that the trace holds.
        graph: what gradients and activations can be differentiated by, see :data:`Graph`.

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
    pairs = _dense_gradients if trace.regions is None else _region_gradients
    for gradient, activation in pairs(trace, output, layer, graph == "all"):
        yield gradient, activation.detach() if graph == "none" else activation


def _dense_gradients(trace: Trace, output: Tensor, layer: str, create_graph: bool) -> Iterator[tuple[Tensor, Tensor]]:
    one = torch.eye(len(trace), dtype=output.dtype, device=output.device)
    for row in range(len(trace)):
        if trace.attends:
            source, image = trace.source(layer_of(trace, row, layer))
            yield _grad([output], source, [one[row]], create_graph)[image], source[image]
            continue
        level, image = trace.source(trace.levels[row])
        gradient = _grad([output], level, [one[row]], create_graph)
        if layer == "fpn":
            yield gradient[image], level[image]
        else:
            # In two steps, because a detection reads one level only: the heads of the others are never run backward.
            stage, image = trace.source(layer)
            yield _grad([level], stage, [gradient], create_graph)[image], stage[image]


def _region_gradients(trace: Trace, output: Tensor, layer: str, create_graph: bool) -> Iterator[tuple[Tensor, Tensor]]:
    every = trace.regions.features
    stages = every[-1:] if layer == "roi_pool" else every
    pooled = region_gradients(trace, output, stages, create_graph)
    for d, row in enumerate(trace.regions.rows.tolist()):
        if layer == "roi_pool":
            yield pooled[-1][d], every[-1][row]
            continue
        only = [torch.zeros_like(features) for features in every]
        only = [own.index_copy(0, trace.regions.rows[d : d + 1], part[d : d + 1]) for own, part in zip(only, pooled)]
        feature, image = trace.source(layer_of(trace, d, layer))
        yield _grad(every, feature, only, create_graph)[image], feature[image]


def region_gradients(
    trace: Trace, output: Tensor, stages: Sequence[Tensor], create_graph: bool = False
) -> list[Tensor]:
    """Gradients dY_d/dA of all detections with respect to their pooled regions, by few backward passes.

    Rows of a box head do not depend on each other, so one backward pass of a sum gives every row's own gradient. It
    takes as many passes as the most-repeated region has detections: one where every region has one class.

    Args:
        trace: of a two-stage detector.
        output: Y, (D,).
        stages: those of ``trace.regions.features`` to differentiate by.
        create_graph: True makes the gradients differentiable.

    Returns:
        for each stage (D,C,P,P).
    """
    rows = trace.regions.rows
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


def attention_gradients(trace: Trace, output: Tensor) -> Iterator[list[Tensor]]:
    """dY_d/dA of every attention matrix of a transformer, one prediction after the other.

    Args:
        trace: with attention.
        output: Y, (D,), the d-th entry a function of the d-th prediction's outputs alone.

    Yields:
        gradients in the shapes of ``trace.attention``: the encoder's, the decoder's, those from queries to cells.

    Raises:
        ValueError: an output without a graph.
    """
    if len(trace) and not output.requires_grad:
        raise ValueError("the output to explain has no autograd graph; trace the detector outside inference_mode")
    sources = [*trace.attention.encoder, *trace.attention.decoder, *trace.attention.cross]
    options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
    for one in output:
        yield list(torch.autograd.grad(one, sources, **options))


def summed_gradients(traces: Sequence[Trace], outputs: Sequence[Tensor], level: str) -> list[tuple[Tensor, Tensor]]:
    """Gradients of one sum over predictions of several images, by one backward pass for all of them.

    The predictions of an image do not depend on the maps of another, so that the gradient of the sum with respect to
    an image's map is that of the image's own part. Batch normalisation in a head that trains is the exception: it
    lets each image's statistics into the others' predictions, and so some of their gradient into its map.

    Args:
        traces: of the images of one forward pass; D = 0 is fine.
        outputs: what is summed of each image, (n,) with graph, functions of predictions that come from ``level``; (0,)
            where an image has none.
        level: name of a feature map that the head reads.

    Returns:
        of each image (gradient, activation A), both (C,Hl,Wl), without graph; the gradient of an image without outputs
        is zero.

    Raises:
        ValueError: outputs without a graph.
    """
    sources = [trace.source(level) for trace in traces]
    # Images may be slices of one map that the head read for all of them.
    distinct = list({id(maps): maps for maps, _ in sources}.values())
    total = torch.cat([own.reshape(-1) for own in outputs]) if len(outputs) else torch.zeros(0)
    if len(total) == 0:
        gradients: Sequence[Tensor] = [torch.zeros_like(maps) for maps in distinct]
    elif not total.requires_grad:
        raise ValueError("the outputs to explain have no autograd graph; observe the detector with layers=('fpn',)")
    else:
        gradients = torch.autograd.grad(
            total.sum(), distinct, retain_graph=True, allow_unused=True, materialize_grads=True
        )
    of_map = {id(maps): gradient.detach() for maps, gradient in zip(distinct, gradients)}
    return [(of_map[id(maps)][image], maps[image].detach()) for maps, image in sources]


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


def loss_gradient(loss: Tensor, values: Tensor) -> Tensor:
    """d(loss)/d(values), after which the graph is gone; no ``.grad`` of a weight behind it is touched.

    Args:
        loss: a scalar.
        values: what it was worked out from.
    """
    (gradient,) = torch.autograd.grad(loss, values)
    return gradient


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
