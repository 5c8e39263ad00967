"""FCOS and RetinaNet: traced detections, their outputs and gradients, and a model left as it was found."""

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from helpers import DEVICES, AveragePyramid, index_in_level, random_input, small_cfg, tiny_fcos, trace_of, traces_of
from odam_d2.explain import TARGETS, GradientExplainer, explain, target_output
from odam_d2.explain.gradients import detection_gradients


def detections(model, batch):
    with torch.no_grad():
        return [output["instances"] for output in model(batch)]


@pytest.fixture(params=["fcos", "retinanet"])
def model(request):
    if request.param == "fcos":
        return tiny_fcos()
    torch.manual_seed(0)
    return build_model(small_cfg("retinanet")).eval()


def test_traced_detections_are_the_models_own(model):
    batch = [random_input()]
    (expected,) = detections(model, batch)
    instances, trace = trace_of(model, batch[0])
    assert len(expected) > 0
    assert torch.equal(instances.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(instances.scores, expected.scores)
    assert torch.equal(instances.pred_classes, expected.pred_classes)
    assert set(instances.get_fields()) == set(expected.get_fields())
    assert torch.equal(trace.scores, expected.scores)


def test_outputs_with_graph_equal_the_detections(model):
    instances, trace = trace_of(model, random_input())
    assert torch.allclose(target_output(trace, "class_score"), instances.scores, atol=1e-6)
    signed = torch.stack([target_output(trace, n) for n in ("x1", "y1", "x2", "y2")], dim=1)
    sides = signed * torch.tensor([-1, -1, 1, 1])
    height, width = trace.image_size
    clipped = sides.clamp(min=0).minimum(torch.tensor([width, height, width, height]))
    assert torch.allclose(clipped, trace.clipped_boxes, atol=1e-4)


def test_retinanet_score_is_the_sigmoid_of_its_logit():
    torch.manual_seed(0)
    _, trace = trace_of(build_model(small_cfg("retinanet")).eval(), random_input())
    assert torch.allclose(target_output(trace, "class_logit").sigmoid(), trace.scores, atol=1e-6)


def test_fcos_score_is_the_root_of_class_times_centerness():
    model = tiny_fcos()
    captured = {}
    model.head.register_forward_hook(lambda module, args, output: captured.update(output=output))
    _, trace = trace_of(model, random_input())
    logits, _, centerness = captured["output"]
    for d in range(len(trace)):
        level = model.head_in_features.index(trace.levels[d])
        y, x = divmod(index_in_level(trace)[d].item(), logits[level].shape[3])
        c = trace.classes[d].item()
        expected = (logits[level][0, c, y, x].sigmoid() * centerness[level][0, 0, y, x].sigmoid()).sqrt()
        assert trace.scores[d].item() == pytest.approx(expected.item(), abs=1e-6)
        logit = target_output(trace, "class_logit")[d].item()
        assert logit == pytest.approx(logits[level][0, c, y, x].item(), abs=1e-6)


def test_retinanet_index_counts_anchors_fastest():
    torch.manual_seed(0)
    model = build_model(small_cfg("retinanet")).eval()
    captured = {}
    model.head.register_forward_hook(lambda module, args, output: captured.update(output=output))
    _, trace = trace_of(model, random_input())
    logits = captured["output"][0]
    anchors = logits[0].shape[1] // model.num_classes
    for d in range(len(trace)):
        level = model.head_in_features.index(trace.levels[d])
        place, a = divmod(index_in_level(trace)[d].item(), anchors)
        y, x = divmod(place, logits[level].shape[3])
        logit = logits[level][0, a * model.num_classes + trace.classes[d].item(), y, x]
        assert logit.sigmoid().item() == pytest.approx(trace.scores[d].item(), abs=1e-6)


@pytest.mark.parametrize("layer", ["fpn", "res3", "res5"])
def test_gradients_equal_a_backward_pass_of_the_whole_detector(model, layer):
    """One at a time, through the plain detector: no trace, no leaves, no steps."""
    batch = random_input()
    _, trace = trace_of(model, batch, (layer,))
    captured = {}
    hooks = [model.head.register_forward_hook(lambda m, args, output: captured.update(head=output, levels=args[0]))]
    if layer != "fpn":
        hooks.append(model.backbone.bottom_up.register_forward_hook(lambda m, a, output: captured.update(output)))
    images = model.preprocess_image([batch])
    pyramid = model.backbone(images.tensor)
    model.head([pyramid[f] for f in model.head_in_features])
    for hook in hooks:
        hook.remove()
    logits = captured["head"][0]
    anchors = logits[0].shape[1] // model.num_classes
    found = list(detection_gradients(trace, target_output(trace, "class_logit"), layer))
    for d, (gradient, activation) in enumerate(found):
        level = model.head_in_features.index(trace.levels[d])
        place, a = divmod(index_in_level(trace)[d].item(), anchors)
        y, x = divmod(place, logits[level].shape[3])
        logit = logits[level][0, a * model.num_classes + trace.classes[d].item(), y, x]
        source = captured["levels"][level] if layer == "fpn" else captured[layer]
        (expected,) = torch.autograd.grad(logit, source, retain_graph=True, allow_unused=True, materialize_grads=True)
        assert torch.allclose(gradient, expected[0], atol=1e-6)
        assert torch.allclose(activation, source[0].detach(), atol=1e-6)
    assert any(g.abs().sum() > 0 for g, _ in found)


@pytest.mark.parametrize("device", DEVICES)
def test_backbone_runs_once_however_much_is_explained(device):
    model = tiny_fcos().to(device)
    for layers in (("fpn",), ("res3", "res4", "res5", "fpn")):
        model.backbone.bottom_up.calls = 0
        _, trace = trace_of(model, random_input(), layers)
        for layer in layers:
            explain(trace, TARGETS, GradientExplainer(layer=layer))
        assert len(trace) > 1
        assert model.backbone.bottom_up.calls == 1


def state_of(model):
    return (
        [m.training for m in model.modules()],
        [(p.requires_grad, p.grad is None) for p in model.parameters()],
        [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()],
        id(model.backbone.bottom_up),
    )


@pytest.mark.parametrize("layers", [("fpn",), ("res4",)])
def test_model_is_left_as_found(layers):
    model = tiny_fcos().train()
    next(model.parameters()).requires_grad_(False)
    before = state_of(model)
    _, trace = trace_of(model, random_input(), layers)
    explain(trace, ["class_score", "x1"], GradientExplainer(layer=layers[0]))
    assert state_of(model) == before


@pytest.mark.parametrize("layers", [("fpn",), ("res4",)])
@pytest.mark.parametrize("broken", ["head", "backbone.fpn_output3", "anchor_generator"])
def test_model_is_left_as_found_after_an_exception(layers, broken, monkeypatch):
    model = tiny_fcos().train()
    before = state_of(model)

    def fail(*args, **kwargs):
        raise RuntimeError("broken on purpose")

    with monkeypatch.context() as patch:
        patch.setattr(model.get_submodule(broken), "forward", fail)
        with pytest.raises(RuntimeError, match="on purpose"):
            trace_of(model, random_input(), layers)
    assert state_of(model) == before


def test_tracing_works_under_no_grad_and_says_so_under_inference_mode():
    model = tiny_fcos()
    with torch.no_grad():
        _, trace = trace_of(model, random_input())
        assert GradientExplainer()(trace, "class_score").maps.abs().sum() > 0
    with torch.inference_mode(), pytest.raises(ValueError, match="inference_mode"):
        trace_of(model, random_input())


def test_no_detections_give_an_empty_trace(model):
    model.test_score_thresh = 1.0
    instances, trace = trace_of(model, random_input(), ("fpn", "res4"))
    assert len(instances) == len(trace) == 0
    for layer in ("fpn", "res4"):
        maps = explain(trace, TARGETS, GradientExplainer(layer=layer))
        assert {tuple(m.to_image().shape) for m in maps.values()} == {(0, 100, 150)}


def test_images_of_a_batch_are_detected_and_explained_as_one_by_one(model):
    first, second = random_input(seed=1), random_input(seed=2)
    expected = detections(model, [first, second])
    together = traces_of(model, [first, second])
    for batch, own, (instances, trace) in zip((first, second), expected, together):
        # In one forward pass as the detector's own batch, to the last bit.
        assert torch.equal(instances.pred_boxes.tensor, own.pred_boxes.tensor)
        assert torch.equal(instances.scores, own.scores)
        alone, single = trace_of(model, batch)
        assert torch.allclose(alone.pred_boxes.tensor, own.pred_boxes.tensor, atol=1e-3)
        assert torch.equal(single.places, trace.places) and len(trace) > 1
        for row in range(len(trace)):
            mine, other = maps_at(trace, row), maps_at(single, row)
            assert torch.allclose(mine, other, atol=1e-5 * float(other.max()) + 1e-9)
    # Each image has maps of its own.
    assert not torch.allclose(maps_at(together[0][1], 0), maps_at(together[1][1], 0))


def maps_at(trace, row):
    return GradientExplainer()(trace, "class_score").to_image(rows=[row])[0]


def test_a_chosen_detection_has_the_map_it_has_among_all(model):
    _, everything = trace_of(model, random_input())
    maps = GradientExplainer()(everything, "x2").to_image()
    chosen = torch.tensor([2, 0])
    instances, trace = trace_of(model, random_input(), keep=lambda found: chosen)
    assert torch.allclose(GradientExplainer()(trace, "x2").to_image(), maps[chosen], atol=1e-5)
    assert torch.equal(instances.scores, everything.scores[chosen])


class BlobHead(nn.Module):
    """Class logit = brightness of the cell; boxes reach 8 pixels to every side; centerness 1."""

    def forward(self, features):
        logits = [x * 0.1 for x in features]
        return logits, [torch.ones_like(x).expand(-1, 4, -1, -1) for x in features], [x * 0 + 20.0 for x in features]


@pytest.mark.parametrize("place", [(60, 90), (3, 3), (96, 146), (3, 146), (50, 3)])
@pytest.mark.parametrize("zoom", [1, 2])
def test_map_lies_on_the_bright_spot_to_less_than_a_pixel(place, zoom):
    """100 x 150 pixels are padded to 128 x 160; the spot may lie at any border of the image."""
    y, x = place[0] // 8 * 8, place[1] // 8 * 8
    image = torch.zeros(3, 100, 150)
    image[:, y : y + 8, x : x + 8] = 255.0
    model = tiny_fcos(num_classes=1, backbone=AveragePyramid(), head=BlobHead(), head_in_features=["p3"]).eval()
    batch = {"image": image, "height": 100 * zoom, "width": 150 * zoom}
    _, trace = trace_of(model, batch, keep=lambda found: torch.tensor([0]))
    heat = GradientExplainer()(trace, "class_score").to_image()[0]
    assert tuple(heat.shape) == (100 * zoom, 150 * zoom)
    assert torch.allclose(heat.amax(dim=1) / heat.max(), tent(100, y, zoom), atol=1e-4)
    assert torch.allclose(heat.amax(dim=0) / heat.max(), tent(150, x, zoom), atol=1e-4)


def tent(side, start, zoom):
    """Bilinear profile of one hot cell of 8 pixels: a tent, flat towards the border if it is the first."""
    centre = start + 4
    position = (torch.arange(side * zoom) + 0.5) / zoom
    profile = (1 - (position - centre).abs() / 8).clamp(min=0)
    profile = torch.where((position < 4) & (start == 0), torch.ones(()), profile)
    return profile / profile.max()


@pytest.mark.parametrize("names", [("s3", "s4", "s5"), ("stages.1", "stages.2", "stages.3"), ("c", "b", "a")])
def test_layers_are_what_the_backbone_offers_whatever_they_are_called(names):
    expected = GradientExplainer(layer="res4")(trace_of(tiny_fcos(), random_input(), ("res4",))[1], "class_score")
    model = tiny_fcos()
    rename_stages(model, names)
    assert model.layers == [*names, "fpn"]
    _, trace = trace_of(model, random_input(), (names[1],))
    assert set(trace.layers) == {names[1]}
    maps = GradientExplainer(layer=names[1])(trace, "class_score")
    assert torch.equal(maps.maps, expected.maps) and maps.maps.max() > 0


def rename_stages(model, names):
    """The same backbone, by other names for its stages."""
    bottom_up = model.backbone.bottom_up
    old = list(bottom_up._out_features)
    forward = bottom_up.forward
    bottom_up.forward = lambda images: dict(zip(names, forward(images).values()))
    bottom_up._out_features = list(names)
    for field in ("_out_feature_channels", "_out_feature_strides"):
        values = getattr(bottom_up, field)
        setattr(bottom_up, field, {new: values[name] for name, new in zip(old, names)})
    model.backbone.in_features = tuple(names)


def test_unknown_layers_are_refused_with_the_valid_ones():
    with pytest.raises(ValueError, match="'roi_pool'.*res3, res4, res5, fpn"):
        trace_of(tiny_fcos(), random_input(), ("roi_pool",))
