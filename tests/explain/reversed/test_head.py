"""Maps from the reversed head against values worked out by hand and against one backward pass for each detection."""

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.layers.batch_norm import CycleBatchNormList
from torch import nn

from helpers import DEVICES
from odam_d2.explain import GradientExplainer, target_output
from odam_d2.explain.reversed import head
from odam_d2.explain.reversed.head import plan_level, reversed_maps
from odam_d2.structures import Subnet, Trace

STRIDES = {"p3": 8, "p4": 16}


def conv(inputs, outputs, side=3, **options):
    return nn.Conv2d(inputs, outputs, side, padding=side // 2, **options)


def head_trace(tower, predictor, places, sizes=((12, 15), (6, 8)), values=None, channels=4, device="cpu", seed=0):
    """A trace of a dense head on random features.

    ``places`` holds (level, y, x, anchor, value) of each detection; Y is that value.
    """
    torch.manual_seed(seed)
    modules = tuple(tower)
    for module in (*modules, predictor):
        module.to(device)
    values = values or predictor.out_channels
    anchors = predictor.out_channels // values
    features, seen, flat = {}, {}, []
    for name, size in zip(STRIDES, sizes):
        features[name] = torch.randn(1, channels, *size).to(device).requires_grad_()
        outputs = [features[name]]
        for module in modules:
            outputs.append(module(outputs[-1]))
        seen[name] = tuple(outputs[1:])
        # Detectron2's order of a dense head's predictions.
        flat.append(predictor(outputs[-1])[0].view(anchors, values, *size).permute(2, 3, 0, 1).reshape(-1, values))
    first = (0, sizes[0][0] * sizes[0][1] * anchors)
    index = [(y * sizes[level][1] + x) * anchors + a for level, y, x, a, _ in places]
    flat_index = [first[place[0]] + i for place, i in zip(places, index)]
    rows = torch.stack([flat[place[0]][i] for place, i in zip(places, index)]) if places else flat[0][:0]
    column = torch.tensor([place[4] for place in places], dtype=torch.int64, device=device)
    boxes = torch.zeros(len(places), 4, device=device)
    padded = (sizes[0][0] * 8, sizes[0][1] * 8)
    return Trace(
        places=torch.tensor(flat_index, dtype=torch.int64, device=device),
        classes=column,
        boxes=boxes,
        logits=rows,
        class_vectors=rows.sigmoid(),
        features=features,
        strides=STRIDES,
        levels=[list(STRIDES)[place[0]] for place in places],
        layers=("fpn",),
        image_size=padded,
        padded_size=padded,
        output_size=padded,
        subnets=(Subnet(modules, seen, ((predictor, rows),)),),
    )


def whole_maps(trace, grids):
    """The maps as they are on their levels, one tensor a detection."""
    maps = {}
    for grid in grids:
        maps |= dict(zip(grid.rows.tolist(), grid.whole().maps))
    return [maps[d] for d in range(len(trace))]


def exact_maps(trace, output):
    """A plain loop over autograd."""
    maps = []
    for d, level in enumerate(trace.levels):
        feature = trace.features[level]
        (gradient,) = torch.autograd.grad(output[d], feature, retain_graph=True)
        maps.append((gradient * feature).sum(dim=1)[0].relu().detach())
    return maps


def relative_error(found, expected):
    return max(float((f - e).norm() / e.norm()) if e.norm() > 0 else float(f.norm()) for f, e in zip(found, expected))


CORNERS_AND_MIDDLE = [
    (0, 0, 0, 0, 0),
    (0, 11, 14, 0, 1),
    (0, 0, 14, 0, 2),
    (0, 6, 7, 0, 0),
    (1, 5, 0, 0, 1),
    (1, 3, 4, 0, 2),
]


def test_one_convolution_worked_by_hand():
    # One channel, one kernel [1..9]: Y at (1,1) of a 3 x 3 level reads every cell once, so the map is kernel o A; at
    # the corner (0,0) the kernel's last 2 x 2 cells meet the level's first.
    predictor = conv(1, 1, bias=False)
    predictor.weight.data = torch.arange(1.0, 10).view(1, 1, 3, 3)
    trace = head_trace([], predictor, [(0, 1, 1, 0, 0), (0, 0, 0, 0, 0)], sizes=((3, 3), (1, 1)), channels=1)
    trace.features["p3"].data = torch.tensor([[[[1.0, 2.0, 0.0], [0.0, -1.0, 1.0], [2.0, 0.0, 1.0]]]])
    (grid,) = reversed_maps(trace, target_output(trace, "class_logit"), path="batched")
    assert grid.origin.tolist() == [[0, 0], [-1, -1]] and grid.maps.shape == (2, 3, 3)
    expected = [[[1, 4, 0], [0, 0, 6], [14, 0, 9]], [[5, 12, 0], [0, 0, 0], [0, 0, 0]]]
    assert grid.whole().maps.tolist() == expected


def test_relu_and_batch_norm_worked_by_hand():
    # 1 x 1 convolutions: z = 2 A, norm z' = 3 z / sqrt(4) = 3 A, ReLU, Y = 5 z'. So dY/dA = 15 where A > 0, else 0.
    first, norm, predictor = conv(1, 1, 1, bias=False), nn.BatchNorm2d(1, eps=1e-12).eval(), conv(1, 1, 1, bias=False)
    first.weight.data.fill_(2.0), predictor.weight.data.fill_(5.0), norm.weight.data.fill_(3.0)
    norm.running_var.fill_(4.0)
    trace = head_trace([first, norm, nn.ReLU()], predictor, [(0, y, 0, 0, 0) for y in range(12)], channels=1)
    (grid,) = reversed_maps(trace, target_output(trace, "class_logit"), path="batched")
    expected = 15 * trace.features["p3"].detach()[0, 0, :, 0].relu()
    assert torch.allclose(grid.maps[:, 0, 0], expected)


def towers():
    frozen = FrozenBatchNorm2d(6)
    frozen.running_var.uniform_(0.5, 2), frozen.weight.uniform_(-1, 2)
    batch = nn.BatchNorm2d(6).eval()
    batch.running_var.uniform_(0.5, 2), nn.init.uniform_(batch.weight, -1, 2)
    cycle = CycleBatchNormList(length=2, num_features=6).eval()
    cycle[0].running_var.uniform_(0.5, 2), cycle[1].running_var.uniform_(2, 4), nn.init.uniform_(cycle.weight, -1, 2)
    first = nn.BatchNorm2d(4).eval()
    first.running_var.uniform_(0.5, 2)
    yield "none", []
    yield "conv_relu", [conv(4, 6), nn.ReLU()]
    yield "no_relu", [conv(4, 6), conv(6, 6), conv(6, 6)]
    yield "kernels_1_5_3", [conv(4, 5, 1), nn.ReLU(), conv(5, 6, 5), nn.ReLU(inplace=True), conv(6, 6)]
    yield "frozen_batch_norm", [conv(4, 6), frozen, nn.ReLU(), conv(6, 6), nn.ReLU()]
    yield "batch_norm", [conv(4, 6), batch, nn.ReLU(), nn.Identity(), conv(6, 6), nn.ReLU()]
    yield "norm_of_each_level", [conv(4, 6), cycle, nn.ReLU(), conv(6, 6), nn.ReLU()]
    yield "relu_before_norm", [conv(4, 6), nn.ReLU(), batch, conv(6, 6), batch]
    yield "norm_first", [first, nn.ReLU(), conv(4, 6), nn.ReLU()]


torch.manual_seed(0)
TOWERS = dict(towers())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("path", ["batched", "auto"])
@pytest.mark.parametrize("name", TOWERS)
def test_heads_without_group_norm_are_exact(name, path, device):
    torch.manual_seed(1)
    predictor = conv(6 if TOWERS[name] else 4, 3)
    trace = head_trace(TOWERS[name], predictor, CORNERS_AND_MIDDLE, device=device)
    output = target_output(trace, "class_logit")
    maps = whole_maps(trace, reversed_maps(trace, output, path))
    assert relative_error(maps, exact_maps(trace, output)) < 1e-5
    assert any(m.sum() > 0 for m in maps)


def test_anchors_and_values_pick_their_own_channels():
    torch.manual_seed(0)
    # Three anchors of four values: channel a * 4 + v.
    places = [(0, 4, 5, a, v) for a in range(3) for v in range(4)]
    trace = head_trace([conv(4, 6), nn.ReLU()], conv(6, 12), places, values=4)
    output = target_output(trace, "class_logit")
    assert relative_error(whole_maps(trace, reversed_maps(trace, output, "batched")), exact_maps(trace, output)) < 1e-5


def test_a_target_of_all_values_is_exact():
    torch.manual_seed(0)
    trace = head_trace([conv(4, 6), nn.ReLU()], conv(6, 3), CORNERS_AND_MIDDLE)
    entropy = -(trace.subnets[0].predictors[0][1].softmax(dim=1) ** 2).sum(dim=1)
    assert (
        relative_error(whole_maps(trace, reversed_maps(trace, entropy, "batched")), exact_maps(trace, entropy)) < 1e-5
    )


def group_norm_tower(layers, groups=3, inputs=4, width=6):
    torch.manual_seed(2)
    tower = []
    for i in range(layers):
        norm = nn.GroupNorm(groups, width)
        nn.init.uniform_(norm.weight, 0.5, 1.5), nn.init.uniform_(norm.bias, -0.5, 0.5)
        tower += [conv(width if i else inputs, width), norm, nn.ReLU()]
    return tower


@pytest.mark.parametrize("device", DEVICES)
def test_small_levels_with_group_norm_are_exact_on_the_automatic_path(device):
    trace = head_trace(group_norm_tower(3), conv(6, 3), CORNERS_AND_MIDDLE, device=device)
    output = target_output(trace, "class_logit")
    assert {plan_level(trace, level, "auto") for level in STRIDES} == {"whole"}
    assert relative_error(whole_maps(trace, reversed_maps(trace, output, "auto")), exact_maps(trace, output)) < 1e-5


@pytest.mark.parametrize("device", DEVICES)
def test_the_correction_makes_a_single_group_norm_exact(device):
    trace = head_trace(group_norm_tower(1), conv(6, 3), CORNERS_AND_MIDDLE, device=device)
    output = target_output(trace, "class_logit")
    assert plan_level(trace, "p3", "batched") == "corrected"
    assert relative_error(whole_maps(trace, reversed_maps(trace, output, "batched")), exact_maps(trace, output)) < 1e-5


class ConstantStatistics(nn.Module):
    """A GroupNorm through whose statistics no gradient flows."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        groups = x.detach().view(self.norm.num_groups, -1)
        mean, std = groups.mean(1), (groups.var(1, unbiased=False) + self.norm.eps).sqrt()
        mean, std = (v.repeat_interleave(x.shape[1] // len(v))[:, None, None] for v in (mean, std))
        return (x - mean) / std * self.norm.weight[:, None, None] + self.norm.bias[:, None, None]


@pytest.mark.parametrize("corrected", [False, True])
def test_group_norms_that_are_not_corrected_have_constant_statistics(corrected, monkeypatch):
    monkeypatch.setattr(head, "CORRECTED_CELLS", 10**6 if corrected else 0)
    tower = group_norm_tower(2)
    constant = [ConstantStatistics(m) if isinstance(m, nn.GroupNorm) else m for m in tower]
    if corrected:  # the first one is then exact
        constant[1] = tower[1]
    predictor = conv(6, 3)
    expected = head_trace(constant, predictor, CORNERS_AND_MIDDLE)
    trace = head_trace(tower, predictor, CORNERS_AND_MIDDLE)
    maps = whole_maps(trace, reversed_maps(trace, target_output(trace, "class_logit"), "batched"))
    assert relative_error(maps, exact_maps(expected, target_output(expected, "class_logit"))) < 1e-5


def test_plan_depends_on_group_norm_and_the_number_of_cells(monkeypatch):
    plain = head_trace([conv(4, 6), nn.ReLU()], conv(6, 3), [], sizes=((6, 6), (5, 5)))
    # Receptive field 5 x 5.
    assert [plan_level(plain, level, "auto") for level in STRIDES] == ["patch", "whole"]
    assert [plan_level(plain, level, "batched") for level in STRIDES] == ["patch", "patch"]
    # One convolution of 4 * 6 * 9 = 216 weights: 432 operations a cell.
    monkeypatch.setattr(head, "WHOLE_FLOPS", 432 * 800)
    for cells, auto, batched in (
        (800, "whole", "corrected"),
        (801, "corrected", "corrected"),
        (4001, "patch", "patch"),
    ):
        trace = head_trace(group_norm_tower(1), conv(6, 3), [], sizes=((1, cells), (1, 1)))
        assert (plan_level(trace, "p3", "auto"), plan_level(trace, "p3", "batched")) == (auto, batched)


@pytest.mark.parametrize(
    "module, word",
    [
        (nn.Dropout(), "none of Conv2d"),
        (nn.Sigmoid(), "none of Conv2d"),
        (nn.Conv2d(6, 6, 3), "padding with zeros"),
        (nn.Conv2d(6, 6, 3, padding=1, groups=2), "groups of 1"),
        (nn.Conv2d(6, 6, 3, padding=1, padding_mode="reflect"), "padding with zeros"),
        (nn.Conv2d(6, 6, (1, 3), padding=(0, 1)), "square kernel"),
        (nn.Conv2d(6, 6, 3, padding=2, dilation=2), "dilation"),
        (nn.BatchNorm2d(6), "training mode"),
        (nn.BatchNorm2d(6, track_running_stats=False), "none of Conv2d"),
        (nn.InstanceNorm2d(6), "none of Conv2d"),
    ],
)
def test_a_head_with_an_unsupported_module_is_refused_by_name(module, word):
    torch.manual_seed(0)
    trace = head_trace([conv(4, 6), nn.ReLU()], conv(6, 3), CORNERS_AND_MIDDLE)
    subnet = trace.subnets[0]
    broken = Subnet((*subnet.tower, module), subnet.seen, subnet.predictors)
    trace = Trace(**{**trace.__dict__, "subnets": (broken,)})
    with pytest.raises(ValueError, match=rf"module 2 of a subnet, {type(module).__name__}\(.*{word}"):
        reversed_maps(trace, target_output(trace, "class_logit"))
    # The automatic path falls back to one pass a detection.
    maps = GradientExplainer(path="auto")(trace, "class_logit").maps
    assert torch.equal(maps, GradientExplainer()(trace, "class_logit").maps)


def test_chunks_do_not_change_the_maps():
    torch.manual_seed(0)
    trace = head_trace([conv(4, 6), nn.ReLU(), conv(6, 6)], conv(6, 3), CORNERS_AND_MIDDLE)
    output = target_output(trace, "class_logit")
    one_at_a_time = whole_maps(trace, reversed_maps(trace, output, memory=1))
    assert relative_error(one_at_a_time, whole_maps(trace, reversed_maps(trace, output))) < 1e-6


def test_no_detection_gives_no_grid():
    trace = head_trace([conv(4, 6), nn.ReLU()], conv(6, 3), [])
    assert reversed_maps(trace, target_output(trace, "class_logit")) == []
    assert GradientExplainer(path="batched")(trace, "class_logit").maps.shape[0] == 0


def test_an_output_that_ignores_the_head_has_empty_maps():
    trace = head_trace([conv(4, 6), nn.ReLU()], conv(6, 3), CORNERS_AND_MIDDLE)
    grids = reversed_maps(trace, 0 * target_output(trace, "class_logit"))
    maps = whole_maps(trace, grids)
    assert len(maps) == len(trace) and all(m.sum() == 0 for m in maps)
    # They can be combined with others.
    others = reversed_maps(trace, target_output(trace, "class_logit"))
    assert [grid.maps.shape for grid in grids] == [grid.maps.shape for grid in others]


@pytest.mark.parametrize("path", ["batched", "auto"])
@pytest.mark.parametrize("norm", [False, True])
def test_maps_are_differentiable_by_weights_and_features(norm, path):
    """The gradient of a loss of the maps equals double backward through autograd's maps, where these are exact."""
    torch.manual_seed(0)
    tower = group_norm_tower(1) if norm else [conv(4, 6), nn.ReLU(), conv(6, 6), nn.ReLU()]
    trace = head_trace(tower, conv(6, 3), CORNERS_AND_MIDDLE)
    output = target_output(trace, "class_logit").sigmoid()
    subnet = trace.subnets[0]
    sources = [trace.features["p3"], tower[0].weight, subnet.predictors[0][0].weight]
    expected = []
    for d, level in enumerate(trace.levels):
        feature = trace.features[level]
        (gradient,) = torch.autograd.grad(output[d], feature, create_graph=True)
        expected.append((gradient * feature).sum(dim=1)[0].relu())
    found = whole_maps(trace, reversed_maps(trace, output, path, graph="all"))
    losses = [sum((m**2).sum() for m in maps) for maps in (found, expected)]
    assert torch.allclose(*losses, rtol=1e-4)
    for mine, theirs in zip(*(torch.autograd.grad(loss, sources, retain_graph=True) for loss in losses)):
        assert theirs.abs().sum() > 0
        assert torch.allclose(mine, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize("path", ["batched", "auto"])
@pytest.mark.parametrize("tower", ["plain", "norm", "norm first"])
def test_with_constant_gradients_maps_are_differentiable_by_the_features_alone(tower, path):
    torch.manual_seed(0)
    modules = {
        "plain": [conv(4, 6), nn.ReLU(), conv(6, 6), nn.ReLU()],
        "norm": group_norm_tower(1),
        "norm first": [nn.GroupNorm(2, 4), conv(4, 6), nn.ReLU()],
    }[tower]
    trace = head_trace(modules, conv(6, 3), CORNERS_AND_MIDDLE)
    output = target_output(trace, "class_logit").sigmoid()
    found = whole_maps(trace, reversed_maps(trace, output, path, graph="activations"))
    generator = torch.Generator().manual_seed(1)
    weights = [torch.rand(m.shape, generator=generator) for m in found]
    loss = sum((m * w).sum() for m, w in zip(found, weights))
    levels = sorted(set(trace.levels))
    mine = torch.autograd.grad(loss, [trace.features[level] for level in levels], retain_graph=True)
    parameters = [p for module in modules for p in module.parameters()]
    parts = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    assert all(part is None for part in parts) and all(p.requires_grad for p in parameters)
    plain = whole_maps(trace, reversed_maps(trace, output, path))
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-7) for a, b in zip(found, plain))
    if tower == "plain" or path == "auto":  # these are exact: what autograd says is the expected value
        expected = dict.fromkeys(levels, 0)
        for d, (level, weight) in enumerate(zip(trace.levels, weights)):
            features = trace.features[level]
            (gradient,) = torch.autograd.grad(output[d], features, retain_graph=True)
            expected[level] = expected[level] + gradient * (weight * ((gradient * features).sum(dim=1)[0] > 0))
        for own, theirs in zip(mine, expected.values()):
            assert theirs.abs().max() > 0
            assert torch.allclose(own, theirs, rtol=1e-3, atol=1e-5 * float(theirs.abs().max()))


def test_maps_are_detached_by_default():
    trace = head_trace([conv(4, 6), nn.ReLU()], conv(6, 3), CORNERS_AND_MIDDLE)
    assert not any(grid.maps.requires_grad for grid in reversed_maps(trace, target_output(trace, "class_logit")))


def test_a_head_that_is_not_made_of_subnets_is_explained_exactly():
    torch.manual_seed(0)
    trace = head_trace([conv(4, 6), nn.ReLU()], conv(6, 3), CORNERS_AND_MIDDLE)
    trace = Trace(**{**trace.__dict__, "subnets": ()})
    with pytest.raises(ValueError, match="not made of known subnets"):
        GradientExplainer(path="batched")(trace, "class_logit")
    automatic = GradientExplainer(path="auto")(trace, "class_logit").maps
    assert torch.equal(automatic, GradientExplainer()(trace, "class_logit").maps)
