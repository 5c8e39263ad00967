"""HiResCAM, LayerCAM and SSGrad-CAM++ against values worked out by hand, identities and slow second implementations."""

import pytest
import torch

from helpers import DEVICES, make_trace, random_input, tiny_fcos, trace_of
from odam_d2.explain import GRADIENT_METHODS, TARGETS, GradientExplainer

# Two channels of 2 x 2 cells, and the gradient of a linear output.
ACTIVATION = torch.tensor([[[1.0, -2.0], [3.0, 4.0]], [[1.0, 1.0], [-1.0, 2.0]]])
GRADIENT = torch.tensor([[[2.0, 1.0], [-1.0, 0.5]], [[-1.0, 3.0], [-2.0, -1.0]]])


def linear_maps(method, activation, gradient, **options):
    """Maps of Y = sum of gradient * A, one detection."""
    features = activation[None].clone().requires_grad_()
    trace = make_trace(
        features, {"class_score": (gradient * features).sum().reshape(1)}, torch.zeros(1, 4, device=activation.device)
    )
    return GradientExplainer(method, **options)(trace, "class_score").maps


def random_pair(seed=0, device="cpu"):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(3, 4, 5, generator=generator).to(device) for _ in range(2))


def test_hirescam_worked_by_hand():
    # g1 o A1 = [2, -2; -3, 2], g2 o A2 = [-1, 3; 2, -2]; the sum [1, 1; -1, 0] is rectified.
    assert linear_maps("hirescam", ACTIVATION, GRADIENT).tolist() == [[[1.0, 1.0], [0.0, 0.0]]]


def test_layercam_worked_by_hand():
    # ReLU(g1) o A1 = [2, -2; 0, 2], ReLU(g2) o A2 = [0, 3; 0, 0].
    assert linear_maps("layercam", ACTIVATION, GRADIENT).tolist() == [[[2.0, 1.0], [0.0, 2.0]]]


def test_ssgradcam_plus_plus_worked_by_hand():
    # A = [1, 3], g = [2, -1] have the Grad-CAM++ weight .2 (see test_odam.py); the space map |g| / max |g| is [1, .5].
    # So H = [.2 * 1 * 1, .2 * .5 * 3]. The second channel has no gradient and takes no part.
    activation = torch.tensor([[[1.0, 3.0]], [[5.0, 7.0]]])
    gradient = torch.tensor([[[2.0, -1.0]], [[0.0, 0.0]]])
    assert torch.allclose(linear_maps("ssgradcam++", activation, gradient), torch.tensor([[[0.2, 0.3]]]))


@pytest.mark.parametrize("device", DEVICES)
def test_hirescam_at_one_feature_map_is_odam_without_smoothing(device):
    pair = list(random_pair(device=device))
    assert torch.equal(linear_maps("hirescam", *pair), linear_maps("odam", *pair))
    # It is never smoothed, whatever ODAM does.
    assert torch.equal(linear_maps("hirescam", *pair, smoothing="gaussian"), linear_maps("odam", *pair))


@pytest.mark.parametrize("path", ["batched", "auto"])
def test_hirescam_takes_the_batched_paths_of_odam(path):
    _, trace = trace_of(tiny_fcos(), random_input())
    assert len(trace) > 0
    odam, hirescam = (GradientExplainer(m, path=path)(trace, "class_logit").maps for m in ("odam", "hirescam"))
    assert torch.equal(odam, hirescam)


def test_layercam_of_a_positive_gradient_is_hirescam():
    activation, gradient = random_pair()
    assert torch.equal(
        linear_maps("layercam", activation, gradient.abs()), linear_maps("hirescam", activation, gradient.abs())
    )


def test_ssgradcam_plus_plus_of_an_even_gradient_is_grad_cam_plus_plus():
    activation, gradient = random_pair(1)
    even = gradient.abs().mean(dim=(1, 2), keepdim=True).expand_as(gradient)
    found = linear_maps("ssgradcam++", activation, even)
    assert found.max() > 0
    assert torch.allclose(found, linear_maps("gradcam++", activation, even))


@pytest.mark.parametrize("seed", range(3))
def test_layercam_and_ssgradcam_plus_plus_equal_slow_second_implementations(seed):
    activation, gradient = random_pair(seed)
    layercam, spatial = (linear_maps(m, activation, gradient)[0] for m in ("layercam", "ssgradcam++"))
    weights, peaks = [], []
    for a, g in zip(activation.double().tolist(), gradient.double().tolist()):
        cells, total = [x for row in g for x in row], sum(x for row in a for x in row)
        weights.append(sum(max(x, 0.0) * x**2 / (2 * x**2 + total * x**3) for x in cells))
        peaks.append(max(abs(x) for x in cells))
    for i in range(4):
        for j in range(5):
            values = [(float(activation[k, i, j]), float(gradient[k, i, j])) for k in range(3)]
            expected = max(0.0, sum(max(g, 0.0) * a for a, g in values))
            assert layercam[i, j].item() == pytest.approx(expected, abs=1e-5)
            expected = max(0.0, sum(w * abs(g) / p * a for w, p, (a, g) in zip(weights, peaks, values)))
            assert spatial[i, j].item() == pytest.approx(expected, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("method", ["hirescam", "layercam", "ssgradcam++"])
def test_new_methods_of_a_zero_gradient_or_of_nothing_give_zeros_or_nothing(method):
    assert not linear_maps(method, ACTIVATION, torch.zeros_like(GRADIENT)).any()
    features = torch.zeros(1, 1, 4, 4, requires_grad=True)
    outputs = {target: features.flatten()[:0] for target in TARGETS if target != "combined"}
    trace = make_trace(features, outputs, torch.zeros(0, 4))
    assert tuple(GradientExplainer(method)(trace, "combined").to_image().shape) == (0, 32, 32)


def test_an_unknown_method_is_refused_with_all_valid_ones():
    with pytest.raises(ValueError) as error:
        GradientExplainer("hires")
    assert "'hires'" in str(error.value)
    for method in GRADIENT_METHODS:
        assert method in str(error.value)
