"""Batched maps of a whole FCOS: equal to exact ones, for images of different size, on patches, and what is refused."""

import pytest
import torch

from helpers import DEVICES, random_input, tiny_fcos, trace_of, traces_of
from odam_d2.explain import GradientExplainer
from odam_d2.structures import HeatMaps


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("target", ["class_logit", "class_score", "x1", "y1", "x2", "y2", "combined"])
def test_batched_maps_of_fcos_equal_exact_ones_for_images_of_different_size(target, device):
    model = tiny_fcos().to(device)
    for height, width in ((100, 150), (64, 90)):
        _, trace = trace_of(model, random_input(height, width))
        exact, batched, auto = (GradientExplainer(path=path)(trace, target) for path in ("exact", "batched", "auto"))
        assert exact.maps.sum() > 0
        for maps in (batched, auto):
            assert torch.allclose(maps.maps, exact.maps, rtol=1e-4, atol=1e-5 * float(exact.maps.max()))
            assert torch.allclose(maps.to_image(), exact.to_image(), rtol=1e-4, atol=1e-5 * float(exact.maps.max()))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layer", ["fpn", "res4"])
def test_two_images_of_different_size_in_a_batch(layer, device):
    model = tiny_fcos().to(device)
    large, small = random_input(100, 150), random_input(64, 90, seed=1)
    traced = traces_of(model, [large, small], (layer,))
    assert [trace.image_size for _, trace in traced] == [(100, 150), (64, 90)]
    assert {trace.padded_size for _, trace in traced} == {(128, 160)}
    for instances, trace in traced:
        exact = GradientExplainer(layer=layer)(trace, "class_score")
        assert len(instances) == len(trace) > 0 and exact.maps.sum() > 0
        if layer == "fpn":
            for path in ("batched", "auto"):
                found = GradientExplainer(path=path)(trace, "class_score").maps
                assert torch.allclose(found, exact.maps, rtol=1e-4, atol=1e-5 * float(exact.maps.max()))
    # Padding is no other for the large image when it is alone.
    instances, alone = trace_of(model, large, (layer,))
    assert torch.allclose(traced[0][0].scores, instances.scores, atol=1e-6)
    maps = [GradientExplainer(layer=layer)(trace, "x2").to_image() for trace in (traced[0][1], alone)]
    assert torch.allclose(*maps, atol=1e-5 * float(maps[1].max()) + 1e-9)


def test_patches_resample_like_whole_levels():
    model = tiny_fcos()
    _, trace = trace_of(model, random_input())
    maps = GradientExplainer(path="batched")(trace, "class_logit")
    assert any(grid.origin is not None for grid in maps.grids)
    whole = HeatMaps(
        tuple(grid.whole() for grid in maps.grids), maps.boxes, *(maps.image_size, maps.padded_size, maps.output_size)
    )
    assert torch.allclose(maps.resample(50), whole.resample(50), atol=1e-6)
    assert maps.resample(50).shape == (len(trace), 50, 75)
    assert torch.allclose(maps.smooth().maps, whole.smooth().maps, atol=1e-6)
    assert torch.allclose(maps.normalize().maps, whole.normalize().maps, atol=1e-6)


def test_batched_path_says_what_it_cannot_do():
    _, trace = trace_of(tiny_fcos(), random_input())
    with pytest.raises(ValueError, match="without smoothing"):
        GradientExplainer("gradcam", path="batched")(trace, "class_logit")
    with pytest.raises(ValueError, match="unknown path 'fast'; valid paths are exact, batched, auto"):
        GradientExplainer(path="fast")
    automatic = GradientExplainer("gradcam", path="auto")(trace, "class_logit").maps
    assert torch.equal(automatic, GradientExplainer("gradcam")(trace, "class_logit").maps)
