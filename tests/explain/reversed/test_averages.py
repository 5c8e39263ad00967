"""Averages of GroupNorms that detections share: exact maps, whatever the number of layers and detections."""

import pytest
import torch
from torch import nn

from explain.reversed.test_fold import CROWDED
from explain.reversed.test_head import conv, exact_maps, group_norm_tower, head_trace, relative_error, whole_maps
from helpers import random_input, tiny_fcos, trace_of
from odam_d2.explain import GradientExplainer, target_output
from odam_d2.explain.reversed import head
from odam_d2.explain.reversed.averages import Averages, fold_level, level_products
from odam_d2.explain.reversed.head import plan_level, reversed_maps
from odam_d2.explain.reversed.modules import has_convolutions_below_norms, is_worth_sharing
from odam_d2.explain.reversed.places import Places
from odam_d2.structures import Subnet


def test_two_numbers_a_group_worked_by_hand():
    # One group of two channels on a level of 1 x 2 cells, x' = [[1, -1], [2, -2]], gamma 1 and 3. A gradient of 1 and
    # 10 at the left cell: dy = 1 and 30, S = 31, T = 1 * 1 + 30 * 2 = 61. The basis is 2 and 5 for S, 7 and 0 for T.
    normalised = torch.tensor([[[[1.0, -1.0]], [[2.0, -2.0]]]])
    own = Averages(1, torch.tensor([1.0, 3.0]), normalised, torch.tensor([[2.0, 5.0], [7.0, 0.0]]), margin=1)
    zero = torch.tensor([0])
    added = own(torch.tensor([1.0, 10.0]).view(1, 1, 1, 2), Places(zero, zero, zero, (1, 2), 1))
    assert added.tolist() == [[[31 * 2 + 61 * 7, 31 * 5]]]


def test_a_folded_level_is_a_convolution_and_a_product():
    torch.manual_seed(0)
    weight, features, gradient = torch.randn(6, 4, 3, 3), torch.randn(1, 4, 5, 7), torch.randn(3, 6, 5, 7)
    expected = (nn.functional.conv_transpose2d(gradient, weight, padding=1) * features).sum(dim=1)
    assert torch.allclose(fold_level(gradient, level_products(weight, features)), expected, atol=1e-4)


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_shared_averages_are_exact(layers, monkeypatch):
    trace = head_trace(group_norm_tower(layers), conv(6, 3), CROWDED)
    monkeypatch.setattr(head, "is_worth_sharing", lambda *args: True)
    monkeypatch.setattr(head, "tower_radius", lambda subnet: layers + 1)
    assert plan_level(trace, "p3", "auto", 32) == ("shared" if 12 * 15 > (2 * layers + 3) ** 2 else "whole")
    output = target_output(trace, "class_logit").sigmoid()
    found = whole_maps(trace, reversed_maps(trace, output))
    assert max(m.max() for m in found) > 0
    assert relative_error(found, exact_maps(trace, output)) < 1e-5
    # Taken as constants, the averages are missed.
    constant = whole_maps(trace, reversed_maps(trace, output, "batched"))
    assert layers == 1 or relative_error(constant, exact_maps(trace, output)) > 1e-3


@pytest.mark.parametrize("target", ["class_logit", "class_score", "x1", "combined"])
def test_both_subnets_of_a_detector_share_theirs(target, monkeypatch):
    model = tiny_fcos(norm=lambda channels: nn.GroupNorm(2, channels))
    _, trace = trace_of(model, random_input())
    expected = GradientExplainer()(trace, target)
    plans = []
    monkeypatch.setattr(head, "is_worth_sharing", lambda *args: plans.append(args) or True)
    found = GradientExplainer(path="auto")(trace, target)
    assert plans and torch.allclose(found.maps, expected.maps, rtol=1e-3, atol=1e-5 * float(expected.maps.max()))


@pytest.mark.parametrize("graph", ["activations", "all"])
def test_they_are_differentiable(graph, monkeypatch):
    trace = head_trace(group_norm_tower(3), conv(6, 3), CROWDED)
    output = target_output(trace, "class_logit").sigmoid()
    subnet = trace.subnets[0]
    weights = [m.weight for m in subnet.tower if isinstance(m, nn.Conv2d | nn.GroupNorm)]
    sources = [trace.features["p3"], *(weights if graph == "all" else [])]
    gradients = []
    for worth in (False, True):
        monkeypatch.setattr(head, "is_worth_sharing", lambda *args, worth=worth: worth)
        loss = sum((m**2).sum() for m in whole_maps(trace, reversed_maps(trace, output, graph=graph)))
        gradients.append(torch.autograd.grad(loss, sources, retain_graph=True))
    for mine, theirs in zip(*gradients):
        assert theirs.abs().max() > 0 and torch.allclose(mine, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


def test_many_detections_share_and_few_do_not():
    subnet = Subnet(tuple(group_norm_tower(3, groups=32, inputs=64, width=64)), {}, ())
    # 2 fields of 32 groups pass one layer, 64 + 3 * 4 levels; a patch goes through 9 + 25 + 49 cells; a whole level
    # takes 3: on 1,000 cells n detections cost 76,000 + 83 n or 3,000 n, which is less from 27 on.
    assert not is_worth_sharing(subnet, 1000, 26) and is_worth_sharing(subnet, 1000, 27)
    # On 50 cells patches cost more than half a level: 3,800 + 83 n is never less than 150 n below 57.
    assert not is_worth_sharing(subnet, 50, 56) and is_worth_sharing(subnet, 50, 57)


def test_towers_of_another_order_do_not_share():
    odd = Subnet((nn.GroupNorm(2, 4), conv(4, 6), nn.ReLU()), {}, ())
    assert not has_convolutions_below_norms(odd) and not is_worth_sharing(odd, 1000, 10**6)
    assert has_convolutions_below_norms(Subnet(tuple(group_norm_tower(2)), {}, ()))
    assert has_convolutions_below_norms(Subnet((), {}, ()))
