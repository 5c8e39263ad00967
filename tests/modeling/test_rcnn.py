"""Faster R-CNN: traced detections, region gradients, and region maps in the image."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from helpers import random_input, small_cfg, trace_of, traces_of
from odam_d2.explain import TARGETS, GradientExplainer, explain, target_output
from odam_d2.explain.gradients import detection_gradients
from odam_d2.modeling import check_explainable


def rcnn(*opts):
    torch.manual_seed(0)
    return build_model(small_cfg("faster_rcnn", opts)).eval()


def test_traced_detections_are_the_models_own():
    model, batch = rcnn(), random_input()
    with torch.no_grad():
        expected = model([batch])[0]["instances"]
    instances, trace = trace_of(model, batch)
    assert len(expected) > 0
    for field in ("scores", "pred_classes"):
        assert torch.equal(instances.get(field), expected.get(field))
    assert torch.equal(instances.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert set(instances.get_fields()) == set(expected.get_fields())
    assert torch.allclose(target_output(trace, "class_score"), trace.scores, atol=1e-6)


@pytest.mark.parametrize("agnostic", ["True", "False"])
def test_outputs_with_graph_equal_the_detections(agnostic):
    _, trace = trace_of(rcnn("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", agnostic), random_input())
    signed = torch.stack([target_output(trace, n) for n in ("x1", "y1", "x2", "y2")], dim=1)
    sides = signed * torch.tensor([-1, -1, 1, 1])
    height, width = trace.image_size
    clipped = sides.clamp(min=0).minimum(torch.tensor([width, height, width, height]))
    assert torch.allclose(clipped, trace.clipped_boxes, atol=1e-3)


@pytest.mark.parametrize("head", [("NUM_FC", "1"), ("NUM_CONV", "1", "MODEL.ROI_BOX_HEAD.NORM", "GN")])
@pytest.mark.parametrize("layer", ["fpn", "roi_pool", "res4"])
@pytest.mark.parametrize("target", ["class_score", "x2"])
def test_gradients_equal_those_of_one_region_alone(head, layer, target):
    model = rcnn(f"MODEL.ROI_BOX_HEAD.{head[0]}", *head[1:], "MODEL.ROI_BOX_HEAD.CONV_DIM", "32")
    batch = random_input()
    _, trace = trace_of(model, batch, (layer,))
    found = list(detection_gradients(trace, target_output(trace, target), layer))
    assert len(found) == len(trace) > 1
    stages = {}
    hook = model.backbone.bottom_up.register_forward_hook(lambda m, args, output: stages.update(output))
    features = model.backbone(model.preprocess_image([batch]).tensor)
    hook.remove()
    heads = model.roi_heads
    for d, (gradient, _) in enumerate(found):
        pooled = heads.box_pooler([features[f] for f in heads.box_in_features], [Boxes(trace.regions.boxes[d : d + 1])])
        logits, deltas = heads.box_predictor(heads.box_head(pooled))
        c = trace.classes[d]
        if target == "class_score":
            output = logits.softmax(dim=1)[0, c]
        else:
            transform = heads.box_predictor.box2box_transform
            output = transform.apply_deltas(deltas, trace.regions.boxes[d : d + 1])[0, 4 * c + 2]
        source = {"fpn": features[trace.levels[d]], "roi_pool": pooled, "res4": stages["res4"]}[layer]
        (expected,) = torch.autograd.grad(output, source, retain_graph=True, allow_unused=True, materialize_grads=True)
        assert torch.allclose(gradient, expected[0], atol=1e-5 * expected.abs().max().item() + 1e-9)
    assert any(g.abs().sum() > 0 for g, _ in found)


def test_region_maps_lie_inside_their_regions():
    _, trace = trace_of(rcnn(), random_input(), ("roi_pool",))
    maps = GradientExplainer(layer="roi_pool")(trace, "class_score").to_image()
    ys, xs = torch.arange(100) + 0.5, torch.arange(150) + 0.5
    for d, (x1, y1, x2, y2) in enumerate(trace.regions.boxes.tolist()):
        # Bilinear pasting reaches half a region cell beyond the region's edge.
        dx, dy = (x2 - x1) / 14 + 1, (y2 - y1) / 14 + 1
        inside = ((ys > y1 - dy) & (ys < y2 + dy))[:, None] & ((xs > x1 - dx) & (xs < x2 + dx))[None]
        assert maps[d][~inside].abs().sum() == 0
    assert maps.sum() > 0


def test_region_map_is_put_back_at_its_box():
    # One hot cell, column 5 and row 1 of 7 x 7, in a region 70 x 140 pixels at (20, 10): centred at (75, 40).
    from odam_d2.modeling.features import paste_regions
    from odam_d2.structures import Grid, HeatMaps

    maps = torch.zeros(1, 7, 7)
    maps[0, 1, 5] = 1.0
    box = torch.tensor([[20.0, 10.0, 90.0, 150.0]])
    for zoom in (1, 2):
        heat = HeatMaps(
            (Grid(maps, torch.tensor([0]), boxes=box),), box, (160, 100), (160, 128), (160, 100), paste_regions
        )
        image = heat.to_image((160 * zoom, 100 * zoom))[0]
        total = image.sum()
        y = (image.sum(dim=1) * (torch.arange(160 * zoom) + 0.5)).sum() / total / zoom
        x = (image.sum(dim=0) * (torch.arange(100 * zoom) + 0.5)).sum() / total / zoom
        assert x.item() == pytest.approx(75, abs=0.2)
        assert y.item() == pytest.approx(40, abs=0.2)


def test_the_map_of_an_empty_region_is_zero_and_others_stay():
    from odam_d2.modeling.features import paste_regions

    maps = torch.rand(3, 7, 7, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[20.0, 10.0, 20.0, 50.0], [20.0, 10.0, 60.0, 50.0], [0.0, 30.0, 40.0, 30.0]])
    found = paste_regions(maps, boxes, 60, 80)
    assert not found[0].any() and not found[2].any() and found[1].sum() > 0
    assert torch.equal(found[1:2], paste_regions(maps[1:2], boxes[1:2], 60, 80))


def test_backbone_runs_once_however_much_is_explained():
    model = rcnn()
    calls = []
    model.backbone.bottom_up.register_forward_hook(lambda *args: calls.append(1))
    _, trace = trace_of(model, random_input(), ("res4", "fpn", "roi_pool"))
    for layer in ("res4", "fpn", "roi_pool"):
        explain(trace, TARGETS, GradientExplainer(layer=layer))
    assert len(trace) > 1 and len(calls) == 1


def test_no_detections_give_an_empty_trace():
    model = rcnn("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "1.0")
    instances, trace = trace_of(model, random_input(), ("fpn", "roi_pool", "res4"))
    assert len(instances) == len(trace) == 0
    for layer in ("fpn", "roi_pool", "res4"):
        maps = explain(trace, TARGETS, GradientExplainer(layer=layer))
        assert {tuple(m.to_image().shape) for m in maps.values()} == {(0, 100, 150)}


def test_no_proposals_at_all_give_an_empty_trace():
    model = rcnn("MODEL.RPN.POST_NMS_TOPK_TEST", "0")
    instances, trace = trace_of(model, random_input(), ("fpn", "roi_pool"))
    assert len(instances) == len(trace) == 0


def test_heads_that_cannot_be_traced_are_named():
    model = rcnn("MODEL.ROI_HEADS.NAME", "StandardROIHeads")
    for ask in (lambda: trace_of(model, random_input()), lambda: check_explainable(model)):
        with pytest.raises(ValueError, match="StandardROIHeads.*ODAMROIHeads"):
            ask()


def test_regions_that_come_with_the_image_are_its_places():
    model, batch = rcnn(), random_input()
    features = model.backbone(model.preprocess_image([batch]).tensor)
    regions = Instances((100, 150))
    regions.proposal_boxes = Boxes(torch.tensor([[5.0, 5.0, 60.0, 70.0], [50.0, 20.0, 140.0, 95.0]]))
    regions.objectness_logits = torch.zeros(2)
    model.proposal_generator = None
    with pytest.raises(ValueError, match="no first stage: give every image its 'proposals'"):
        model.observe([batch])
    batch["proposals"] = regions
    with torch.no_grad():
        expected = model([batch])[0]["instances"]
    observation = model.observe([batch])
    (found,) = observation.detections()
    assert len(expected) > 0 and torch.equal(found.scores, expected.scores)
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(observation.regions(0)[:, 0], regions.proposal_boxes.tensor)
    pooled = model.roi_heads.box_pooler(
        [features[f] for f in model.roi_heads.box_in_features], [regions.proposal_boxes]
    )
    trace = observation.trace(0, torch.tensor([1, 0]), torch.tensor([0, 0]))
    assert torch.allclose(trace.regions.features[-1][trace.regions.rows], pooled[[1, 0]], atol=1e-5)


CANDIDATES = ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", "MODEL.ROI_HEADS.NMS_THRESH_TEST", "1.0")
HEADS = {
    "fc": ("MODEL.ROI_BOX_HEAD.NUM_FC", "2"),
    "conv_and_group_norm": ("MODEL.ROI_BOX_HEAD.NUM_CONV", "2", "MODEL.ROI_BOX_HEAD.NORM", "GN"),
    "conv_and_frozen_norm": ("MODEL.ROI_BOX_HEAD.NUM_CONV", "1", "MODEL.ROI_BOX_HEAD.NORM", "FrozenBN"),
    "cascade": ("MODEL.ROI_HEADS.NAME", "ODAMCascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True"),
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("target", ["class_score", "class_logit", "x1", "y2"])
def test_batched_region_maps_equal_one_backward_pass_for_each_detection(head, target):
    model = rcnn(*CANDIDATES, "TEST.DETECTIONS_PER_IMAGE", "30", "MODEL.ROI_BOX_HEAD.CONV_DIM", "32", *HEADS[head])
    for batch in (random_input(), random_input(64, 90)):
        _, trace = trace_of(model, batch, ("roi_pool",))
        rows, pooled, output = trace.regions.rows, trace.regions.features[-1], target_output(trace, target)
        # Several classes of one region are among them.
        assert len(rows.unique()) < len(rows) == 30
        maps = GradientExplainer(layer="roi_pool", path="batched")(trace, target)
        (grid,) = maps.grids
        for d in range(len(trace)):
            (gradient,) = torch.autograd.grad(output[d], pooled, retain_graph=True)
            expected = (gradient[rows[d]] * pooled[rows[d]]).sum(dim=0).relu()
            assert (grid.maps[d] - expected).norm() <= 1e-5 * expected.norm() + 1e-12
        assert torch.allclose(maps.to_image(), GradientExplainer(layer="roi_pool")(trace, target).to_image(), atol=1e-6)


def test_as_many_backward_passes_as_the_most_repeated_region_has_classes(monkeypatch):
    from odam_d2.explain import gradients

    model = rcnn(*CANDIDATES, "TEST.DETECTIONS_PER_IMAGE", "30")
    _, trace = trace_of(model, random_input(), ("roi_pool",))
    calls, grad = [], torch.autograd.grad
    monkeypatch.setattr(
        gradients.torch.autograd, "grad", lambda *args, **options: calls.append(1) or grad(*args, **options)
    )
    GradientExplainer(layer="roi_pool", path="batched")(trace, "class_score")
    assert len(calls) == trace.regions.rows.bincount().max() > 1


def test_batched_path_of_a_two_stage_detector_is_its_regions():
    _, trace = trace_of(rcnn(), random_input(), ("fpn", "roi_pool"))
    with pytest.raises(ValueError, match="layer='roi_pool'"):
        GradientExplainer(path="batched")(trace, "class_score")
    automatic = GradientExplainer(path="auto")(trace, "class_score").maps
    assert torch.equal(automatic, GradientExplainer()(trace, "class_score").maps)


@pytest.mark.parametrize("layer", ["fpn", "roi_pool", "res4"])
def test_two_images_of_different_size_in_a_batch(layer):
    model, large, small = rcnn(), random_input(100, 150), random_input(64, 90, seed=1)
    traced = traces_of(model, [large, small], (layer,))
    assert [trace.image_size for _, trace in traced] == [(100, 150), (64, 90)]
    instances, alone = trace_of(model, large, (layer,))
    assert torch.allclose(traced[0][0].scores, instances.scores, atol=1e-6)
    for trace in (traced[0][1], traced[1][1]):
        exact = GradientExplainer(layer=layer)(trace, "class_score")
        assert exact.maps.sum() > 0
        automatic = GradientExplainer(layer=layer, path="auto")(trace, "class_score")
        assert torch.allclose(automatic.to_image(), exact.to_image(), atol=1e-6)
    maps = [GradientExplainer(layer=layer)(trace, "x2").to_image() for trace in (traced[0][1], alone)]
    assert torch.allclose(*maps, atol=1e-5 * float(maps[1].max()) + 1e-9)
