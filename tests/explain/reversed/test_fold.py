"""The folded convolution against values worked out by hand and against a convolution of every patch."""

import pytest
import torch
from torch import nn

from explain.reversed.test_head import conv, group_norm_tower, head_trace, relative_error, whole_maps
from odam_d2.explain import target_output
from odam_d2.explain.reversed import fold
from odam_d2.explain.reversed.fold import FoldedConvolution, covered_cells, is_worth_folding
from odam_d2.explain.reversed.head import reversed_maps
from odam_d2.explain.reversed.places import Places, padded_rows


def at(*cells, size, margin):
    y, x = torch.tensor(cells).unbind(1)
    return Places(y, x, torch.zeros_like(y), size, margin)


def test_one_channel_worked_by_hand():
    # A level of 1 x 3 cells, A = [2, 3, 5], a kernel of 3 x 3 whose middle row is [7, 11, 13], a gradient of 1 at the
    # middle cell. It reaches the cell left of it through tap 0, itself through tap 1 and the right one through tap 2:
    # H = [7 * 2, 11 * 3, 13 * 5]; rows above and below are outside the level, where A is 0.
    weight = torch.zeros(1, 1, 3, 3)
    weight[0, 0, 1] = torch.tensor([7.0, 11.0, 13.0])
    places = at((0, 1), size=(1, 3), margin=1)
    rows = padded_rows(torch.tensor([[[[2.0, 3.0, 5.0]]]]), 1)
    product = FoldedConvolution(weight, rows, covered_cells(places, 3))(torch.ones(1, 1, 1, 1), places)
    assert product.tolist() == [[[0, 0, 0], [14, 33, 65], [0, 0, 0]]]


def test_covered_cells_are_the_union_of_the_patches():
    # A level of 2 x 3 with a margin of 1: rows of 5 cells. Patches of 3 x 3 around (0,0) and (0,1) cover the columns 0
    # to 2 and 1 to 3 of the rows 0 to 2.
    cells = covered_cells(at((0, 0), (0, 1), (0, 1), size=(2, 3), margin=1), 3)
    assert cells.tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13]


def test_it_is_worth_it_where_patches_overlap_and_memory_suffices(monkeypatch):
    monkeypatch.setattr(fold, "WORTH", 0.5)
    weight = torch.zeros(4, 2, 3, 3)
    # Ten patches of 3 x 3 are 90 cells.
    assert is_worth_folding(10, 45, 3, weight, 10**6) and not is_worth_folding(10, 46, 3, weight, 10**6)
    # Nine taps of four channels of four bytes a cell.
    assert is_worth_folding(10, 45, 3, weight, 45 * 144) and not is_worth_folding(10, 45, 3, weight, 45 * 144 - 1)


CROWDED = [(0, y, x, 0, v) for y in (0, 1, 5, 11) for x in (0, 2, 3, 14) for v in (0, 2)]
CROWDED += [(1, y, x, 0, 1) for y in (0, 3, 5) for x in (0, 7)]


@pytest.mark.parametrize("path", ["batched", "auto"])
@pytest.mark.parametrize("norm", ["none", "group"])
def test_maps_are_those_of_a_convolution_of_every_patch(norm, path, monkeypatch):
    torch.manual_seed(0)
    towers = {"none": [conv(4, 6), nn.ReLU(), conv(6, 6), nn.ReLU()], "group": group_norm_tower(2)}
    trace = head_trace(towers[norm], conv(6, 3), CROWDED)
    # Neither level is run whole, where there is nothing to fold.
    monkeypatch.setattr("odam_d2.explain.reversed.head.WHOLE_FLOPS", 0)
    output = target_output(trace, "class_logit").sigmoid()
    built = []
    monkeypatch.setattr(
        "odam_d2.explain.reversed.tower.FoldedConvolution", lambda *parts: built.append(1) or FoldedConvolution(*parts)
    )
    found = {}
    for worth in (0.0, 10.0):
        monkeypatch.setattr(fold, "WORTH", worth)
        found[worth] = whole_maps(trace, reversed_maps(trace, output, path))
        assert len(built) == (0 if worth == 0 else 2 if path == "batched" else 1)
    assert max(m.max() for m in found[0.0]) > 0
    assert relative_error(found[10.0], found[0.0]) < 1e-6


@pytest.mark.parametrize("graph", ["activations", "all"])
def test_it_is_differentiable(graph, monkeypatch):
    torch.manual_seed(0)
    trace = head_trace([conv(4, 6), nn.ReLU()], conv(6, 3), CROWDED)
    output = target_output(trace, "class_logit").sigmoid()
    sources = [trace.features["p3"], *([trace.subnets[0].tower[0].weight] if graph == "all" else [])]
    gradients = []
    for worth in (0.0, 10.0):
        monkeypatch.setattr(fold, "WORTH", worth)
        loss = sum((m**2).sum() for m in whole_maps(trace, reversed_maps(trace, output, "batched", graph=graph)))
        gradients.append(torch.autograd.grad(loss, sources, retain_graph=True))
    for mine, theirs in zip(*gradients):
        assert theirs.abs().max() > 0 and torch.allclose(mine, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))
