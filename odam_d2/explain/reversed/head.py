"""Maps of many detections of a dense head at once: its backward pass on the receptive field of each alone.

A detection's output reads one location of the last convolution, so its gradient begins as one kernel and grows by a
kernel's radius with every convolution: 3, 5, 7, 9, 11 cells for a head of five. All detections of a level go through
the tower together, as one batch of patches; what autograd would compute on the rest of the level is zero.

A GroupNorm makes the gradient global, by two averages over the level. There are four ways to run a level:

* ``patch``: the statistics count as constants, gradient times gamma / sigma; the larger the level, the
  smaller the error.
* ``corrected``: the same, but exact for the first GroupNorm of each tower, where patches are largest and the averages
  least negligible. What they add to a map is linear in two numbers a group: one convolution serves all detections.
* ``shared``: exact. The same for every GroupNorm: what averages add further down passes through the layers below once
  for all detections, as two fields a group. It pays for as many detections as some thirty whole levels cost.
* ``whole``: exact, on whole levels instead of patches; for small levels and few detections.

Shapes: n detections of one level, C channels, G groups, A anchors per location, V values an output has at an anchor,
(Hl,Wl) level, k side and r radius of a patch.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from odam_d2.explain.gradients import Graph, row_gradients
from odam_d2.explain.reversed.modules import (
    check_reversible,
    constant_subnet,
    has_convolutions_below_norms,
    is_worth_sharing,
    tower_radius,
)
from odam_d2.explain.reversed.places import Places
from odam_d2.explain.reversed.tower import ReversedTower
from odam_d2.structures import Grid, Subnet, Trace, full_precision

# Where there is a GroupNorm: a level is run whole if a map then takes at most so many multiplications and additions
# (about 6 ms on two CPU cores; 13 x 19 cells of four convolutions of 256 channels, 32 x 46 of three of 96) ...
WHOLE_FLOPS = 1.25e9
# ... and otherwise corrected up to so many cells. On larger levels constant statistics have a cosine above 0.9999.
CORRECTED_CELLS = 4000
# A batch of more detections than this is not faster, only larger.
MAX_CHUNK = 128
# Arrays as large as a patch with all its channels that are alive together while it goes through a convolution.
_LIVE_ARRAYS = 5

# A subnet with the gradients of the outputs at the rows of each of its predictors, (D,V).
Seeded = tuple[Subnet, list[tuple[nn.Conv2d, Tensor]]]


def reversed_maps(
    trace: Trace, output: Tensor, path: str = "auto", memory: int = 2**30, graph: Graph = "none"
) -> list[Grid]:
    """ODAM maps of all detections, H = ReLU(sum_k dY/dA_k o A_k), equation (2) without smoothing.

    Args:
        trace: of a dense detector.
        output: Y, (D,), the d-th entry a function of the head's outputs at the d-th detection's anchor alone.
        path: ``batched`` or ``auto``, see :func:`plan_level`.
        memory: bytes that patches and their copies may take at a time, however many detections there are. What the
            detections of a level share comes on top: copies of the feature map, two or three a convolution.
        graph: what the maps can be differentiated by: ``none``; ``activations``, the features alone; ``all``, the
            head's weights and the features. A graph holds all patches, whatever ``memory`` says.

    Returns:
        one grid for each level with detections.

    Raises:
        ValueError: a head that cannot be reversed; the module is named.
    """
    for subnet in trace.subnets:
        check_reversible(subnet)
    values = [v for subnet in trace.subnets for _, v in subnet.predictors]
    seeds = iter(row_gradients(output, values, create_graph=graph == "all"))
    subnets = trace.subnets if graph == "all" else [constant_subnet(subnet) for subnet in trace.subnets]
    with torch.set_grad_enabled(graph != "none"):
        seeded = []
        for subnet in subnets:
            pairs = [(conv, next(seeds)) for conv, _ in subnet.predictors]
            # One that Y does not depend on, as a class logit on the boxes, need not be run.
            pairs = [(conv, seed) for conv, seed in pairs if seed.any()]
            if pairs:
                seeded.append((subnet, pairs))
        return [
            _level_maps(trace, level, rows, seeded, plan_level(trace, level, path, len(rows)), memory, graph)
            for level, rows in _rows_by_level(trace)
        ]


def plan_level(trace: Trace, level: str, path: str, count: int = 1) -> str:
    """How to run a level backward: ``patch``, ``corrected``, ``shared`` or ``whole``.

    Args:
        trace: of a dense detector.
        level: name of the level.
        path: ``batched``: patches on every level, corrected up to :data:`CORRECTED_CELLS`. ``auto``: exact on small
            levels, up to :data:`WHOLE_FLOPS` where there is a GroupNorm, else whole up to as many cells as a patch has.
        count: of detections on the level: many share what makes them exact.
    """
    cells = trace.features[level].shape[-2] * trace.features[level].shape[-1]
    if path == "auto" and cells <= (2 * _radius(trace) + 1) ** 2:
        return "whole"
    if not any(isinstance(module, nn.GroupNorm) for subnet in trace.subnets for module in subnet.tower):
        return "patch"
    weights = max(sum(m.weight.numel() for m in s.tower if isinstance(m, nn.Conv2d)) for s in trace.subnets)
    if path == "auto" and 2 * cells * weights <= WHOLE_FLOPS:
        worth = all(is_worth_sharing(subnet, cells, count) for subnet in trace.subnets)
        return "shared" if worth else "whole"
    regular = all(has_convolutions_below_norms(subnet) for subnet in trace.subnets)
    return "corrected" if cells <= CORRECTED_CELLS and regular else "patch"


def _radius(trace: Trace) -> int:
    """Of a detection's receptive field, in cells; the widest subnet's."""
    return max(tower_radius(subnet) for subnet in trace.subnets)


def _rows_by_level(trace: Trace) -> Iterator[tuple[str, Tensor]]:
    names = list(trace.subnets[0].seen)
    number = torch.tensor([names.index(level) for level in trace.levels], device=trace.boxes.device)
    for i, name in enumerate(names):
        rows = (number == i).nonzero()[:, 0]
        if len(rows):
            yield name, rows


def _level_maps(
    trace: Trace, level: str, rows: Tensor, seeded: Sequence[Seeded], plan: str, memory: int, graph: Graph
) -> Grid:
    features, radius, stride = trace.features[level], _radius(trace), trace.strides[level]
    size = tuple(features.shape[-2:])
    conv, values = trace.subnets[0].predictors[0]
    anchors = conv.out_channels // values.shape[1]
    # Places are numbered over all levels, fine to coarse, anchors fastest.
    seen = list(trace.subnets[0].seen)
    before = sum(trace.features[name][0, 0].numel() for name in seen[: seen.index(level)]) * anchors
    index = trace.places[rows] - before
    cell = index // anchors
    y, x, anchor = cell // size[1], cell % size[1], index % anchors

    towers = [ReversedTower(subnet, level, features, radius, plan, graph == "all") for subnet, _ in seeded]
    for tower in towers:
        tower.fold(Places(y, x, anchor, size, radius), memory)
    side = 2 * radius + 1
    cells = size[0] * size[1] if plan == "whole" else side * side
    channels = max((tower.channels for tower in towers), default=1)
    # 4 bytes a number: patches are float32 also under autocast.
    chunk = max(1, min(MAX_CHUNK, memory // (_LIVE_ARRAYS * 4 * cells * channels)))
    maps = []
    for part in torch.arange(len(rows), device=rows.device).split(chunk):
        places = Places(y[part], x[part], anchor[part], size, radius)
        # The subnets' gradients add up at the features, and a map is linear in the gradient before it is rectified.
        total = full_precision(features).new_zeros((len(part), *((side, side) if plan == "patch" else size)))
        for tower, (_, pairs) in zip(towers, seeded):
            total = total + tower.products(places, [(conv, seed[rows[part]]) for conv, seed in pairs])
        maps.append(total.relu())
    if plan != "patch":
        return Grid(torch.cat(maps), rows, stride)
    return Grid(torch.cat(maps), rows, stride, origin=torch.stack([y, x], dim=1) - radius, level_size=size)
