"""Cascade and C4 heads: outputs, sources and maps against one proposal at a time, and a model left as it was found.

The expected values come from the formulas written out here (box decoding, level of a region, a plain loop over
``torch.autograd.grad``); only the modules that hold weights are the detector's.
"""

import math

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from torch import nn
from torchvision.ops import roi_align

from helpers import random_input, trace_of
from odam_d2.config import add_odam_config
from odam_d2.explain import TARGETS, GradientExplainer, explain, target_output

PROPOSALS, DETECTIONS, CLASSES = 8, 6, 3
KINDS = ("cascade", "c4")
COMMON = {
    "MODEL.DEVICE": "cpu",
    "MODEL.META_ARCHITECTURE": "ODAMRCNN",
    "MODEL.RESNETS.DEPTH": 18,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": PROPOSALS,
    "MODEL.RPN.POST_NMS_TOPK_TEST": PROPOSALS,
    "MODEL.RPN.NMS_THRESH": 0.95,
    "MODEL.ROI_HEADS.NUM_CLASSES": CLASSES,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
    "TEST.DETECTIONS_PER_IMAGE": DETECTIONS,
}
OWN = {
    "cascade": {
        "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
        "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
        "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
        "MODEL.FPN.OUT_CHANNELS": 16,
        # Around the size (112 pixels) at which a region is read from p3 instead of p2.
        "MODEL.ANCHOR_GENERATOR.SIZES": [[144], [112], [128], [128], [160]],
        "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
        "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
        "MODEL.ROI_HEADS.NAME": "ODAMCascadeROIHeads",
        "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
        "MODEL.ROI_BOX_HEAD.NUM_FC": 1,
        "MODEL.ROI_BOX_HEAD.FC_DIM": 16,
        "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 3,
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True,
    },
    "c4": {
        "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
        "MODEL.ANCHOR_GENERATOR.SIZES": [[16, 64, 128]],
        "MODEL.ROI_HEADS.NAME": "ODAMRes5ROIHeads",
        "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 6,
    },
}
# Of the box deltas, for each stage.
WEIGHTS = {"cascade": [(10, 10, 5, 5), (20, 20, 10, 10), (30, 30, 15, 15)], "c4": [(10, 10, 5, 5)]}
SIDES = ("x1", "y1", "x2", "y2")


def detector(kind, options=None):
    """A random detector whose detections differ from each other."""
    torch.manual_seed(0)
    cfg = get_cfg()
    add_odam_config(cfg)
    pairs = {**COMMON, **OWN[kind], **(options or {})}
    cfg.merge_from_list([word for pair in pairs.items() for word in pair])
    model = build_model(cfg).eval()
    with torch.no_grad():
        for name, module in model.named_modules():
            # Without training, activations grow in a ResNet until every score saturates.
            if name.endswith("stem.conv1.norm"):
                module.weight.fill_(1 / 64)
            elif name.endswith(("conv2.norm", "conv3.norm")):
                module.weight.fill_(0.5)
            elif isinstance(module, nn.Linear | nn.Conv2d) and name.endswith(("cls_score", "bbox_pred", "_logits")):
                nn.init.normal_(module.weight, std=3 * module.weight[0].numel() ** -0.5)
    return model


def last_predictor(model):
    predictor = model.roi_heads.box_predictor
    return predictor[-1] if isinstance(predictor, nn.ModuleList) else predictor


def trace_and_proposals(model, batch, layers=("fpn",)):
    """The trace and the proposals it was made from, (R,4)."""
    made = []
    hook = model.proposal_generator.register_forward_hook(lambda module, args, output: made.append(output[0][0]))
    instances, trace = trace_of(model, batch, layers)
    hook.remove()
    assert len(made) == 1
    return instances, trace, made[0].proposal_boxes.tensor


def feature_maps(model, batch):
    """The backbone's outputs and res3 where the backbone has a pyramid, with graph."""
    stages = {}
    if hasattr(model.backbone, "bottom_up"):
        hook = model.backbone.bottom_up.register_forward_hook(lambda module, args, output: stages.update(output))
    features = model.backbone(model.preprocess_image([batch]).tensor)
    if stages:
        hook.remove()
    return {**stages, **features}


def decode(box, deltas, weights):
    """Centre and size, moved and scaled: Faster R-CNN's box parameters. All (4,)."""
    x1, y1, x2, y2 = box
    dx, dy, dw, dh = deltas / torch.tensor(weights, dtype=torch.float32)
    width, height = x2 - x1, y2 - y1
    cx, cy = x1 + width / 2 + dx * width, y1 + height / 2 + dy * height
    limit = math.log(1000 / 16)
    half_w, half_h = width * dw.clamp(max=limit).exp() / 2, height * dh.clamp(max=limit).exp() / 2
    return torch.stack([cx - half_w, cy - half_h, cx + half_w, cy + half_h])


def level_of(kind, region):
    """FPN's rule: a region of 224 x 224 pixels is read from p4, one of half the side from p3."""
    if kind == "c4":
        return "res4", 16
    side = ((region[2] - region[0]) * (region[3] - region[1])).sqrt().item()
    level = min(max(math.floor(4 + math.log2(side / 224 + 1e-8)), 2), 5)
    return f"p{level}", 2**level


def one_proposal(model, kind, features, proposal, label, size):
    """Run the head on one proposal alone: its outputs for one class, what the last stage pooled and where from."""
    heads, limits = model.roi_heads, torch.tensor([size[1], size[0]] * 2)
    region, probabilities = proposal, []
    for stage, weights in enumerate(WEIGHTS[kind]):
        level, stride = level_of(kind, region)
        side = OWN[kind]["MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION"]
        pooled = roi_align(features[level], [region[None]], side, 1 / stride, sampling_ratio=0, aligned=True)
        if kind == "c4":
            logits, deltas = heads.box_predictor(heads.res5(pooled).mean(dim=(2, 3)))
        else:
            logits, deltas = heads.box_predictor[stage](heads.box_head[stage](pooled))
        own = deltas[0] if kind == "cascade" else deltas[0].view(CLASSES, 4)[label]
        box = decode(region, own, weights)
        probabilities.append(logits[0].softmax(dim=0)[label])
        pooled_from = region
        region = box.detach().clamp(min=0).minimum(limits)
    outputs = {"class_score": sum(probabilities) / len(probabilities), "class_logit": logits[0, label]}
    outputs |= {"x1": -box[0], "y1": -box[1], "x2": box[2], "y2": box[3]}
    return outputs, pooled, pooled_from, level


def assert_comes_from_its_proposals(model, kind, batch, trace, proposals):
    features = feature_maps(model, batch)
    for d, (row, label) in enumerate(zip(trace.places.tolist(), trace.classes.tolist())):
        outputs, _, region, level = one_proposal(model, kind, features, proposals[row], label, trace.image_size)
        assert trace.scores[d].item() == pytest.approx(outputs["class_score"].item(), abs=1e-5)
        for name, output in outputs.items():
            assert target_output(trace, name)[d].item() == pytest.approx(output.item(), abs=2e-3, rel=1e-4), name
        assert torch.allclose(trace.regions.boxes[d], region, atol=1e-3)
        assert trace.levels[d] == level


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_those_of_the_proposal_alone(kind):
    model, batch = detector(kind), random_input(150, 230)
    instances, trace, proposals = trace_and_proposals(model, batch)
    assert len(trace) == len(instances) == DETECTIONS
    assert len(set(trace.places.tolist())) > 1 and len(trace.scores.unique()) > 1
    assert_comes_from_its_proposals(model, kind, batch, trace, proposals)
    if kind == "cascade":
        # A detection belongs to the level that the last stage reads, not the first.
        first = [level_of(kind, proposals[row])[0] for row in trace.places]
        assert first != trace.levels and len(set(trace.levels)) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_equal_the_detections(kind):
    instances, trace = trace_of(detector(kind), random_input(150, 230))
    assert torch.allclose(target_output(trace, "class_score"), instances.scores, atol=1e-5)
    unclipped = torch.stack([target_output(trace, name) for name in SIDES], dim=1) * torch.tensor([-1, -1, 1, 1])
    height, width = trace.image_size
    limits = torch.tensor([width, height] * 2)
    inside = (unclipped >= 0) & (unclipped <= limits)
    assert inside.any() and not inside.all()
    # The image is asked for at its own size, hence the detections are in network pixels.
    found = instances.pred_boxes.tensor
    assert torch.allclose(unclipped[inside], found[inside], atol=1e-3)
    assert torch.allclose(found, trace.clipped_boxes, atol=1e-3)
    # Where a side left the image, the detection has it on the border and the output tells how far it went.
    outside = ~inside
    border = torch.where(unclipped < 0, torch.zeros_like(unclipped), limits.expand_as(unclipped).float())
    assert torch.equal(found[outside], border[outside])


# Between the stages of a cascade Detectron2 itself refuses deltas that are not finite.
@pytest.mark.parametrize(
    "kind, stage, part",
    [
        ("cascade", 0, "logits"),
        ("cascade", 2, "logits"),
        ("cascade", 2, "deltas"),
        ("c4", 0, "logits"),
        ("c4", 0, "deltas"),
    ],
)
def test_sources_are_right_where_predictions_are_not_finite(monkeypatch, kind, stage, part):
    model, batch, broken = detector(kind), random_input(150, 230), [0, 3]
    predictor = model.roi_heads.box_predictor
    predictor = predictor[stage] if kind == "cascade" else predictor
    healthy, calls = predictor.forward, []

    def ill(x):
        predictions = [p.clone() for p in healthy(x)]
        if len(x) == PROPOSALS:
            predictions[["logits", "deltas"].index(part)][broken] = math.nan
            calls.append(len(x))
        return tuple(predictions)

    with monkeypatch.context() as patch:
        patch.setattr(predictor, "forward", ill)
        with torch.no_grad():
            expected = model([batch])[0]["instances"]
        instances, trace, proposals = trace_and_proposals(model, batch)
    assert len(calls) == 2 and len(proposals) == PROPOSALS
    assert torch.equal(instances.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(instances.scores, expected.scores)
    rows = trace.places.tolist()
    assert len(rows) == DETECTIONS and not set(rows) & set(broken)
    # Rows numbered after the broken ones were dropped would be other proposals.
    assert all(row > min(broken) for row in rows)
    assert_comes_from_its_proposals(model, kind, batch, trace, proposals)


@pytest.mark.parametrize("target", ["class_score", "class_logit", "x1", "y2"])
@pytest.mark.parametrize(
    "kind, layer", [("cascade", "fpn"), ("cascade", "roi_pool"), ("cascade", "res3"), ("c4", "fpn"), ("c4", "roi_pool")]
)
def test_maps_equal_a_loop_over_single_proposals(kind, layer, target):
    model, batch = detector(kind), random_input(150, 230)
    _, trace, proposals = trace_and_proposals(model, batch, (layer,))
    heat_maps = GradientExplainer(layer=layer)(trace, target)
    found = {row: m for grid in heat_maps.grids for row, m in zip(grid.rows.tolist(), grid.maps)}
    assert sorted(found) == list(range(DETECTIONS))
    features = feature_maps(model, batch)
    positive = 0
    for d, (row, label) in enumerate(zip(trace.places.tolist(), trace.classes.tolist())):
        outputs, pooled, _, level = one_proposal(model, kind, features, proposals[row], label, trace.image_size)
        source = {"fpn": features[level], "roi_pool": pooled}.get(layer, features.get(layer))
        (gradient,) = torch.autograd.grad(outputs[target], source, retain_graph=True)
        expected = (gradient * source).sum(dim=1)[0].clamp(min=0).detach()
        assert torch.allclose(found[d], expected, atol=1e-4 * expected.max().item() + 1e-9)
        positive += expected.max().item() > 0
    assert positive > 1


def test_c4_has_one_layer_under_two_names():
    _, trace = trace_of(detector("c4"), random_input(), ("res4", "fpn"))
    maps = [GradientExplainer(layer=layer)(trace, "class_score").to_image() for layer in ("res4", "fpn")]
    assert torch.equal(*maps) and maps[0].max() > 0


def state(model):
    """What a caller could notice: modules, flags, hooks, gradients, and whether a tensor was written to."""
    modules = [
        (name, id(m), m.training, len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
        for name, m in model.named_modules()
    ]
    parameters = [(name, id(p), p.requires_grad, id(p.grad), p._version) for name, p in model.named_parameters()]
    return modules, parameters, [(name, id(b), b._version) for name, b in model.named_buffers()]


def used_detector(kind):
    """Amid training: mixed modes, some weights frozen, one with a gradient, batch norm that counts its batches."""
    model = detector(kind, {"MODEL.RESNETS.NORM": "BN"}).train()
    model.proposal_generator.eval()
    weight = last_predictor(model).cls_score.weight
    weight.grad = torch.ones_like(weight)
    flags = {p.requires_grad for p in model.parameters()}
    assert flags == {True, False} and any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    return model


LAYERS = {"cascade": ("res3", "fpn", "roi_pool"), "c4": ("res4", "fpn", "roi_pool")}


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_is_left_as_found(kind):
    model = used_detector(kind)
    before = state(model)
    with torch.no_grad():
        _, trace = trace_of(model, random_input(), LAYERS[kind])
        assert state(model) == before and not torch.is_grad_enabled()
        for layer in LAYERS[kind]:
            explain(trace, TARGETS, GradientExplainer(layer=layer))
        assert state(model) == before and not torch.is_grad_enabled()


@pytest.mark.parametrize(
    "kind, where, call",
    [("cascade", "pyramid", 1), *((kind, "head", call) for kind in KINDS for call in (1, 2))],
)
def test_the_model_is_left_as_found_after_an_exception(monkeypatch, kind, where, call):
    model = used_detector(kind)
    before = state(model)
    module = model.backbone.fpn_output2 if where == "pyramid" else last_predictor(model)
    healthy, calls = module.forward, []

    def fails(x):
        calls.append(len(x))
        if len(calls) == call:
            raise RuntimeError("the test broke this module")
        return healthy(x)

    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(module, "forward", fails)
        with pytest.raises(RuntimeError, match="the test broke this module"):
            trace_of(model, random_input(), LAYERS[kind])
        assert not torch.is_grad_enabled()
    # The first call of the head detects, the second makes the outputs with graph.
    assert len(calls) == call
    assert state(model) == before
    _, trace = trace_of(model, random_input(), LAYERS[kind])
    assert len(trace) > 0


@pytest.mark.parametrize(
    "key, value", [("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 1.0), ("MODEL.RPN.POST_NMS_TOPK_TEST", 0)]
)
@pytest.mark.parametrize("kind", KINDS)
def test_no_detections_give_an_empty_trace(kind, key, value):
    instances, trace = trace_of(detector(kind, {key: value}), random_input(), LAYERS[kind])
    assert len(instances) == len(trace) == 0
    for layer in LAYERS[kind]:
        maps = explain(trace, TARGETS, GradientExplainer(layer=layer))
        assert {tuple(m.to_image().shape) for m in maps.values()} == {(0, 100, 150)}
