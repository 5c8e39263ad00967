"""ODAM and its relatives against values worked out by hand, identities and slow second implementations."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from helpers import DEVICES, make_trace
from odam_d2.explain import (
    GRADIENT_METHODS,
    TARGETS,
    GradientExplainer,
    combine,
    explain,
    explain_together,
    target_output,
)
from odam_d2.explain import explainer as explainer_module
from odam_d2.explain.gradients import detection_gradients
from odam_d2.structures import normalize_maps

BOXES = torch.tensor([[0.0, 0.0, 16.0, 16.0], [8.0, 8.0, 32.0, 24.0]])


def linear_trace(device="cpu", image_size=None):
    """Y_d = sum of weight_d * A on a 2-channel 4 x 4 level."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, 2, 4, 4, generator=generator).to(device).requires_grad_()
    weights = torch.randn(2, 2, 4, 4, generator=generator).to(device)
    score = (weights * features).sum(dim=(1, 2, 3))
    sides = {name: factor * score for name, factor in zip(("x1", "y1", "x2", "y2"), (1.0, -1.0, 2.0, -2.0))}
    outputs = {"class_score": score, "class_logit": 3 * score, **sides}
    return make_trace(features, outputs, BOXES.to(device), image_size=image_size), weights


@pytest.mark.parametrize("device", DEVICES)
def test_odam_of_linear_head_is_weight_times_feature(device):
    trace, weights = linear_trace(device)
    expected = (weights * trace.features["p3"].detach()).sum(dim=1).relu()
    maps = GradientExplainer()(trace, "class_score").maps
    assert torch.allclose(maps, expected, atol=1e-6)


def test_odam_worked_by_hand():
    # A = [1, -2; 3, 4], Y = 2 a00 + 1 a01 - 1 a10 + 0.5 a11, so W o A = [2, -2; -3, 2] and ReLU leaves [2, 0; 0, 2].
    features = torch.tensor([[[[1.0, -2.0], [3.0, 4.0]]]], requires_grad=True)
    output = (torch.tensor([[2.0, 1.0], [-1.0, 0.5]]) * features).sum().reshape(1)
    trace = make_trace(features, {"class_score": output}, BOXES[:1])
    assert GradientExplainer()(trace, "class_score").maps.tolist() == [[[2.0, 0.0], [0.0, 2.0]]]
    # Grad-CAM averages the weights: (2 + 1 - 1 + .5) / 4 = .625, times A, rectified.
    assert GradientExplainer("gradcam")(trace, "class_score").maps.tolist() == [[[0.625, 0.0], [1.875, 2.5]]]


def test_grad_cam_plus_plus_worked_by_hand():
    # Two cells, A = [1, 3], g = [2, -1]. Sum A = 4; alpha = g^2 / (2 g^2 + 4 g^3): 4/(8+32) = .1 and 1/(2-4) = -.5.
    # Only positive gradients count: W = .1 * 2 = .2, so the map is [.2, .6].
    features = torch.tensor([[[[1.0, 3.0]]]], requires_grad=True)
    output = (torch.tensor([2.0, -1.0]) * features).sum().reshape(1)
    trace = make_trace(features, {"class_score": output}, BOXES[:1])
    maps = GradientExplainer("gradcam++")(trace, "class_score").maps
    assert torch.allclose(maps, torch.tensor([[[0.2, 0.6]]]))


def test_grad_cam_plus_plus_of_a_zero_gradient_is_zero():
    features = torch.ones(1, 2, 2, 2, requires_grad=True)
    trace = make_trace(features, {"class_score": (0 * features).sum().reshape(1)}, BOXES[:1])
    assert GradientExplainer("gradcam++")(trace, "class_score").maps.abs().sum() == 0


def test_bias_free_relu_head_spreads_its_output_over_the_map():
    # Such a head is positively homogeneous, so by Euler's theorem the sum of dY/dA o A is Y itself: equation (1).
    torch.manual_seed(0)
    head = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1, bias=False)
    )
    features = torch.randn(1, 3, 6, 7, requires_grad=True)
    output = head(features)[0, 0, [0, 2, 5], [0, 3, 6]]
    trace = make_trace(features, {"class_score": output}, torch.zeros(3, 4))
    sums = [(g * a).sum() for g, a in detection_gradients(trace, output, "fpn")]
    assert torch.allclose(torch.stack(sums), output, atol=1e-5)


def test_gradients_equal_a_plain_loop_over_autograd():
    torch.manual_seed(1)
    head = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 2, 3, padding=1))
    features = torch.randn(1, 3, 6, 7, requires_grad=True)
    output = head(features)[0].flatten()[[0, 5, 40, 83]].sigmoid()
    trace = make_trace(features, {"class_score": output}, torch.zeros(4, 4))
    found = [g for g, _ in detection_gradients(trace, output, "fpn")]
    for d in range(4):
        fresh = features.detach().clone().requires_grad_()
        head(fresh)[0].flatten()[[0, 5, 40, 83]].sigmoid()[d].backward()
        assert torch.allclose(found[d], fresh.grad[0], atol=1e-7)
    assert all(p.grad is not None for p in head.parameters())  # by the loop above, not by the explainer
    assert features.grad is None


def test_grad_cam_is_odam_with_global_average_smoothing():
    # Phi as an ever wider Gaussian tends to the global average, up to a factor that scaling to [0,1] removes.
    trace, _ = linear_trace()
    wide = make_trace(
        trace.features["p3"],
        {"class_score": target_output(trace, "class_score")},
        torch.tensor([[0.0, 0.0, 1e6, 1e6]] * 2),
        image_size=(10**6, 10**6),
    )
    odam = GradientExplainer("odam", smoothing="gaussian")(wide, "class_score").normalize().maps
    gradcam = GradientExplainer("gradcam")(trace, "class_score").normalize().maps
    assert torch.allclose(odam, gradcam, atol=1e-4)


def test_grad_cam_equals_a_slow_second_implementation():
    trace, weights = linear_trace()
    activation = trace.features["p3"][0].detach()
    for d, found in enumerate(GradientExplainer("gradcam")(trace, "class_score").maps):
        for i in range(4):
            for j in range(4):
                value = sum(weights[d, k].mean() * activation[k, i, j] for k in range(2))
                assert found[i, j].item() == pytest.approx(max(0.0, value.item()), abs=1e-6)


def test_gaussian_smoothing_acts_on_the_gradient_before_the_product():
    # A is hot in one cell only; smoothing the gradient cannot carry heat to cells whose activation is zero.
    features = torch.zeros(1, 1, 5, 5)
    features[0, 0, 2, 2] = 1.0
    features.requires_grad_()
    output = features[0, 0, 2, 2].reshape(1) * 3
    trace = make_trace(features, {"class_score": output}, torch.tensor([[0.0, 0.0, 80.0, 80.0]]), image_size=(80, 80))
    smooth = GradientExplainer(smoothing="gaussian")(trace, "class_score").maps[0]
    # Box of 10 cells, sigma 1 cell: the centre weight is the 2-D kernel's peak.
    peak = (1 / torch.exp(-0.5 * torch.arange(-20.0, 21.0) ** 2).sum()) ** 2
    assert smooth[2, 2].item() == pytest.approx(3 * peak.item(), rel=1e-5)
    assert smooth.sum() == smooth[2, 2]


def test_combined_is_the_maximum_of_the_five_maps_scaled_first():
    trace, _ = linear_trace()
    explainer = GradientExplainer()
    parts = [normalize_maps(explainer(trace, t).maps) for t in ("class_score", "x1", "y1", "x2", "y2")]
    expected = torch.stack(parts).amax(dim=0)
    assert torch.equal(explainer(trace, "combined").maps, expected)
    assert torch.equal(explain(trace, ["combined"], explainer)["combined"].maps, expected)
    assert torch.equal(combine([explainer(trace, "x1")]).maps, parts[1])


def test_explain_gives_every_target_in_the_order_asked_for():
    trace, _ = linear_trace()
    maps = explain(trace, list(reversed(TARGETS)), GradientExplainer())
    assert list(maps) == list(reversed(TARGETS))
    assert torch.allclose(maps["class_logit"].maps, 3 * maps["class_score"].maps, atol=1e-6)


@pytest.mark.parametrize("target", ["class_score", "combined"])
def test_methods_explained_together_equal_those_alone_and_share_the_backward_passes(target, monkeypatch):
    stage = torch.rand(1, 2, 4, 4).requires_grad_()
    trace, weights = linear_trace()
    features = 2 * stage
    score = (weights * features).sum(dim=(1, 2, 3))
    outputs = {name: factor * score for name, factor in zip(("class_score", "x1", "y1", "x2", "y2"), (1, 2, -1, 3, 1))}
    trace = replace(
        make_trace(features, outputs, BOXES),
        features={"p3": features, "res3": stage},
        strides={"p3": 8, "res3": 8},
        layers=("fpn", "res3"),
    )
    explainers = {method: GradientExplainer(method) for method in GRADIENT_METHODS}
    explainers |= {"smooth": GradientExplainer("odam", smoothing="gaussian"), "auto": GradientExplainer(path="auto")}
    explainers |= {"stage": GradientExplainer("odam", "res3")}
    alone = {name: explainer(trace, target) for name, explainer in explainers.items()}
    layers = []
    monkeypatch.setattr(
        explainer_module, "detection_gradients", lambda *args: layers.append(args[2]) or detection_gradients(*args)
    )
    together = explain_together(trace, target, explainers)
    assert list(together) == list(explainers)
    assert all(torch.equal(together[name].maps, alone[name].maps) for name in explainers)
    assert layers == ["fpn", "res3"] * (5 if target == "combined" else 1)
    if target == "class_score":
        expected = (2 * weights * stage.detach()).sum(dim=1).relu()
        assert torch.allclose(together["stage"].maps, expected, atol=1e-6)


def test_detections_explained_together_equal_those_explained_alone():
    trace, _ = linear_trace()
    together = GradientExplainer()(trace, "class_score").maps
    for d in range(2):
        outputs = {"class_score": target_output(trace, "class_score")[d : d + 1]}
        alone = make_trace(trace.features["p3"], outputs, trace.boxes[d : d + 1])
        assert torch.equal(GradientExplainer()(alone, "class_score").maps[0], together[d])


def test_a_target_may_be_a_function_of_the_trace():
    trace, _ = linear_trace()
    named = GradientExplainer()(trace, "x2").maps
    assert torch.equal(GradientExplainer()(trace, lambda t: target_output(t, "x2")).maps, named)
    with pytest.raises(ValueError, match="2 predictions"):
        GradientExplainer()(trace, lambda t: target_output(t, "x2").sum())


@pytest.mark.parametrize("method", GRADIENT_METHODS)
@pytest.mark.parametrize("target", TARGETS)
def test_no_detections_give_no_maps(method, target):
    features = torch.zeros(1, 1, 4, 4, requires_grad=True)
    outputs = {t: features.flatten()[:0] for t in TARGETS if t != "combined"}
    maps = GradientExplainer(method)(make_trace(features, outputs, torch.zeros(0, 4)), target)
    assert len(maps) == 0 and tuple(maps.to_image().shape) == (0, 32, 32)


def test_unknown_names_are_refused_with_the_valid_ones():
    trace, _ = linear_trace()
    with pytest.raises(ValueError, match="'score'.*class_score, class_logit, x1"):
        explain(trace, ["score"], GradientExplainer())
    with pytest.raises(ValueError, match="'score'.*class_score"):
        GradientExplainer()(trace, "score")
    with pytest.raises(ValueError, match="'cam'.*odam, gradcam, gradcam"):
        GradientExplainer("cam")
    with pytest.raises(ValueError, match="'mean'.*none, gaussian"):
        GradientExplainer(smoothing="mean")
    with pytest.raises(ValueError, match="'res9'.*fpn"):
        GradientExplainer(layer="res9")(trace, "class_score")


def test_nan_and_missing_graph_are_errors_that_say_so():
    features = torch.ones(1, 1, 2, 2, requires_grad=True)
    trace = make_trace(features, {"class_score": (features.sum() * float("nan")).reshape(1)}, BOXES[:1])
    with pytest.raises(ValueError, match="detection 0 is not finite"):
        GradientExplainer()(trace, "class_score")
    trace = make_trace(features, {"class_score": torch.ones(1)}, BOXES[:1])
    with pytest.raises(ValueError, match="no autograd graph"):
        GradientExplainer()(trace, "class_score")
