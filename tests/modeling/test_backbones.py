"""timm networks as backbones, a transformer among them: explained like any other, at the FPN and at its own stages."""

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from helpers import index_in_level, random_input, small_cfg, trace_of, traces_of
from odam_d2.config import load_config
from odam_d2.explain import GradientExplainer
from odam_d2.modeling import TimmBackbone

PVT = "explain/fcos_pvt_v2_b0_FPN_1x.yaml"


@pytest.fixture(scope="module")
def pvt():
    """The config as it is, but that it always detects something."""
    cfg = load_config(
        PVT,
        [
            *("MODEL.FCOS.SCORE_THRESH_TEST", 0.0, "MODEL.FCOS.TOPK_CANDIDATES_TEST", 2),
            *("MODEL.FCOS.NMS_THRESH_TEST", 1.0, "MODEL.DEVICE", "cpu"),
        ],
    )
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    for predictor in (model.head.cls_score, model.head.bbox_pred):
        nn.init.normal_(predictor.weight, std=0.05)
    # FCOS cuts negative distances to 0, and a box without a size is no detection.
    nn.init.constant_(model.head.bbox_pred.bias, 2.0)
    return model


def test_the_stages_of_a_transformer_have_names_channels_and_strides(pvt):
    bottom_up = pvt.backbone.bottom_up
    shapes = {name: (shape.channels, shape.stride) for name, shape in bottom_up.output_shape().items()}
    assert shapes == {"res3": (64, 8), "res4": (160, 16), "res5": (256, 32)}
    assert pvt.layers == ["res3", "res4", "res5", "fpn"]
    assert not any(isinstance(module, nn.BatchNorm2d) for module in bottom_up.modules())
    # From the output down: what a sanity check randomises one after the other.
    names = list(pvt.layer_groups())
    assert names[:3] == ["predictors", "head tower", "FPN"]
    assert names[3:] == ["stages_3", "stages_2", "stages_1", "stages_0", "patch_embed"]


@pytest.mark.parametrize("layer", ["fpn", "res3", "res4", "res5"])
@pytest.mark.parametrize("size", [(100, 150), (33, 95)])
def test_a_map_equals_a_backward_pass_of_the_whole_detector(layer, size, pvt):
    """Sides that no stride divides: 100 x 150 pixels are padded to 128 x 160, and 33 x 95 to 64 x 96."""
    batch = random_input(*size)
    _, trace = trace_of(pvt, batch, (layer,))
    padded = tuple(-(-side // 32) * 32 for side in size)
    assert trace.image_size == size and trace.padded_size == padded and len(trace) > 3
    maps = GradientExplainer(layer=layer)(trace, "class_logit")
    captured = {}
    hooks = [pvt.head.register_forward_hook(lambda module, args, output: captured.update(head=output, levels=args[0]))]
    hooks.append(pvt.backbone.bottom_up.register_forward_hook(lambda module, args, output: captured.update(output)))
    pyramid = pvt.backbone(pvt.preprocess_image([batch]).tensor)
    pvt.head([pyramid[name] for name in pvt.head_in_features])
    for hook in hooks:
        hook.remove()
    seen = {}
    for grid in maps.grids:
        seen |= {row: (heat, grid.stride) for row, heat in zip(grid.rows.tolist(), grid.maps)}
    for row in range(len(trace)):
        level = pvt.head_in_features.index(trace.levels[row])
        logits = captured["head"][0][level]
        y, x = divmod(int(index_in_level(trace)[row]), logits.shape[3])
        source = captured["levels"][level] if layer == "fpn" else captured[layer]
        (gradient,) = torch.autograd.grad(logits[0, trace.classes[row], y, x], source, retain_graph=True)
        expected = (gradient * source).sum(dim=1).relu()[0].detach()
        heat, stride = seen[row]
        assert heat.shape == (-(-padded[0] // stride), -(-padded[1] // stride))
        assert torch.allclose(heat, expected, atol=1e-4 * float(expected.max()))
    # A map of one cell may be zero.
    assert sum(bool(heat.any()) for heat, _ in seen.values()) > len(trace) // 2
    assert maps.to_image().shape == (len(trace), *size)


def test_images_of_a_batch_are_explained_as_alone_where_their_padding_is_the_same(pvt):
    first, second = random_input(100, 150, seed=1), random_input(97, 130, seed=2)
    for batch, (found, trace) in zip((first, second), traces_of(pvt, [first, second], ("res4",))):
        alone, single = trace_of(pvt, batch, ("res4",))
        assert torch.allclose(found.scores, alone.scores, atol=1e-5) and torch.equal(trace.places, single.places)
        one, other = (GradientExplainer(layer="res4")(each, "x1").to_image() for each in (trace, single))
        assert torch.allclose(one, other, atol=1e-4 * float(other.max()))


@pytest.mark.parametrize("kind", ["retinanet", "faster_rcnn"])
def test_other_detectors_take_it_by_its_name_alone(kind):
    torch.manual_seed(0)
    model = build_model(small_cfg(kind, ["MODEL.TIMM.NAME", "pvt_v2_b0"])).eval()
    for layer in ("fpn", "res4"):
        _, trace = trace_of(model, random_input(75, 133), (layer,))
        maps = GradientExplainer(layer=layer)(trace, "class_logit").to_image()
        assert len(trace) > 0 and maps.shape[1:] == (75, 133) and maps.max() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["MODEL.TIMM.NAME", "pvt_v2_b9"],
            "MODEL.TIMM.NAME 'pvt_v2_b9' is not a timm model; similar names: .*pvt_v2_b0",
        ),
        (["MODEL.TIMM.NAME", "pvt_v2_b0", "MODEL.FPN.IN_FEATURES", "['res1']"], "timm's pvt_v2_b0 has no stage .*res1"),
        (["MODEL.TIMM.TOP_BLOCK", "p8"], "MODEL.TIMM.TOP_BLOCK is 'p8'; valid values are p6p7, p6, none"),
    ],
)
def test_what_timm_does_not_have_is_said(options, message):
    with pytest.raises(ValueError, match=message):
        build_model(small_cfg("fcos", options))


def test_nanodets_backbone_is_a_timm_network_whose_stages_double_what_they_compute():
    network = TimmBackbone("nanodet_g", ["res2", "res3", "res4", "res5"])
    shapes = {name: (shape.channels, shape.stride) for name, shape in network.output_shape().items()}
    assert shapes == {"res2": (64, 4), "res3": (128, 8), "res4": (256, 16), "res5": (512, 32)}
    image = torch.randn(2, 3, 64, 96)
    stages = network(image)
    assert {name: tuple(x.shape) for name, x in stages.items()} == {
        "res2": (2, 64, 16, 24),
        "res3": (2, 128, 8, 12),
        "res4": (2, 256, 4, 6),
        "res5": (2, 512, 2, 3),
    }
    # By hand, with PyTorch's functions alone: the second half of a stage went past its blocks.
    weights = dict(network.network.named_parameters())

    def convolve(x, name, stride=1):
        found = nn.functional.conv2d(x, weights[f"{name}.0.weight"], weights[f"{name}.0.bias"], stride, padding=1)
        return nn.functional.leaky_relu(found, 0.1)

    past = convolve(stages["res3"], "stage4.conv1", stride=2)
    inside = past
    for block in (0, 1):
        first = convolve(inside, f"stage4.blocks.{block}.conv1")
        inside = torch.cat([convolve(first, f"stage4.blocks.{block}.conv2"), first], dim=1)
    expected = torch.cat([convolve(inside, "stage4.conv2"), past], dim=1)
    assert torch.allclose(stages["res4"], expected, atol=1e-6)
