"""Detectors as black boxes: proposals against the detectors' own detections and a slow second implementation."""

import math

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from helpers import random_input, small_cfg, tiny_fcos, trace_of
from modeling.test_cascade_c4 import detector as other_detector
from odam_d2.explain.masks.black_box import best_proposals, proposal_function
from odam_d2.explain.masks.drise import DRISE, Proposals, drise_heat_maps, find_class_vectors
from odam_d2.structures import Predictions

KINDS = ("fcos", "retinanet", "faster_rcnn")


def detector(kind, *opts):
    """A random network whose scores differ from each other."""
    torch.manual_seed(0)
    model = build_model(small_cfg(kind, opts)).eval()
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) and name.endswith(("cls_score", "ctrness")):
            nn.init.normal_(module.weight, std=0.3)
    if kind == "fcos":
        # FCOS cuts negative distances to 0, and a box without a size is no detection.
        nn.init.constant_(model.head.bbox_pred.bias, 2.0)
    return model


def images(count=2, height=100, width=150):
    return torch.stack([random_input(height, width, seed)["image"] for seed in range(count)])


def iou(a, b):
    shared = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union else 0.0


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_halved_predictions_are_compared_in_full_precision(kind):
    # The second place overlaps the first by 2/3, the third none.
    boxes = torch.tensor([[[0.0, 0.0, 10.0, 10.0]], [[2.0, 0.0, 12.0, 10.0]], [[20.0, 20.0, 30.0, 30.0]]])
    vectors = torch.tensor([[0.9], [0.8], [0.7]])
    halves = [x.to(getattr(torch, kind)) for x in (boxes, vectors, vectors)]
    found = best_proposals(Predictions(*halves, None, (40, 40)))
    assert found.boxes.tolist() == boxes[[0, 2], 0].tolist()


def test_fcos_proposals_equal_a_slow_second_implementation():
    model, batch = tiny_fcos(), images()
    found = proposal_function(model, max_proposals=7, score_threshold=0.1, nms_threshold=0.6)(batch)
    for image, (boxes, vectors, objectness) in zip(batch, found):
        padded = torch.zeros(1, 3, 128, 160)
        padded[0, :, :100, :150] = image / 64
        with torch.no_grad():
            pyramid = [model.backbone(padded)[name] for name in model.head_in_features]
            outputs = model.head(pyramid)
        candidates = []
        for level, (logits, deltas, centerness) in enumerate(zip(*outputs)):
            stride = 8 * 2**level
            for y in range(logits.shape[2]):
                for x in range(logits.shape[3]):
                    vector = [sigmoid(v) for v in logits[0, :, y, x].tolist()]
                    center = sigmoid(centerness[0, 0, y, x].item())
                    left, top, right, bottom = (stride * max(0.0, v) for v in deltas[0, :, y, x].tolist())
                    cx, cy = stride * (x + 0.5), stride * (y + 0.5)
                    box = [cx - left, cy - top, cx + right, cy + bottom]
                    box = [min(max(v, 0.0), limit) for v, limit in zip(box, (150, 100, 150, 100))]
                    candidates.append((math.sqrt(max(vector) * center), box, vector, center))
        kept = []
        for candidate in sorted(candidates, key=lambda c: -c[0]):
            if candidate[0] > 0.1 and all(iou(candidate[1], other[1]) <= 0.6 for other in kept):
                kept.append(candidate)
        assert len(kept) > 7
        kept = kept[:7]
        assert torch.allclose(boxes, torch.tensor([c[1] for c in kept]), atol=1e-3)
        assert torch.allclose(vectors, torch.tensor([c[2] for c in kept]), atol=1e-5)
        assert torch.allclose(objectness, torch.tensor([c[3] for c in kept]), atol=1e-5)


@pytest.mark.parametrize("kind", [*KINDS, "cascade", "c4"])
def test_every_detection_is_found_among_the_proposals_with_its_score(kind):
    if kind in KINDS:
        model, batch = detector(kind, "TEST.DETECTIONS_PER_IMAGE", "20"), random_input(96, 128)
    else:
        model, batch = other_detector(kind), random_input(128, 160)
    with torch.no_grad():
        instances = model([batch])[0]["instances"]
    (found,) = proposal_function(model, 10**4, 0.0, 1.0)(batch["image"][None])
    boxes, vectors, objectness = found
    assert (objectness is not None) == (kind == "fcos")
    checked = 0
    for box, label, score in zip(instances.pred_boxes.tensor, instances.pred_classes, instances.scores):
        same = (boxes - box).abs().amax(dim=1) < 1e-2
        # A region's box is that of its best class; where each class has a box, detections of others have other boxes.
        if kind in ("faster_rcnn", "c4") and not same.any():
            continue
        scores = vectors[same, label]
        if objectness is not None:
            scores = (scores * objectness[same]).sqrt()
        assert (scores - score).abs().min() < 1e-5
        checked += 1
    assert len(instances) >= 6 and checked >= len(instances) / 2


def test_without_nms_every_location_can_be_had_the_best_first():
    # Three anchors at each of 32 x 48, 16 x 24, 8 x 12, 4 x 6 and 2 x 3 locations.
    model = detector("retinanet")
    (found,) = proposal_function(model, 10**6, 0.0, 1.0)(images(1, 256, 384))
    assert len(found[0]) == 3 * (32 * 48 + 16 * 24 + 8 * 12 + 4 * 6 + 2 * 3)
    assert (found[1].amax(dim=1).diff() <= 0).all()
    (few,) = proposal_function(model, 10, 0.0, 1.0)(images(1, 256, 384))
    assert torch.equal(few[0], found[0][:10])


@pytest.mark.parametrize("kind", KINDS)
def test_proposals_are_sorted_clipped_few_and_apart(kind):
    found = proposal_function(detector(kind), max_proposals=6, score_threshold=0.001)(images())
    assert len(found) == 2
    for boxes, vectors, objectness in found:
        assert 2 <= len(boxes) <= 6 and vectors.shape == (len(boxes), 80)
        scores = vectors.amax(dim=1) if objectness is None else (vectors.amax(dim=1) * objectness).sqrt()
        assert (scores.diff() <= 1e-6).all() and scores.min() > 0.001
        assert boxes.min() >= 0 and boxes[:, 2].max() <= 150 and boxes[:, 3].max() <= 100
        pairs = [(i, j) for i in range(len(boxes)) for j in range(i)]
        assert all(iou(boxes[i].tolist(), boxes[j].tolist()) <= 0.5 + 1e-5 for i, j in pairs)


def test_a_regions_class_vector_is_its_softmax_without_the_background():
    (_, vectors, _), _ = proposal_function(detector("faster_rcnn"))(images())
    totals = vectors.sum(dim=1)
    assert (totals < 1).all() and (totals > 0.5).all()


@pytest.mark.parametrize("agnostic", ["True", "False"])
def test_class_agnostic_boxes_work_too(agnostic):
    model = detector("faster_rcnn", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", agnostic)
    (boxes, vectors, _), _ = proposal_function(model)(images())
    assert len(boxes) == len(vectors) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_of_a_batch_has_the_proposals_it_has_alone(kind):
    detect, batch = proposal_function(detector(kind)), images(3)
    for image, together in zip(batch, detect(batch)):
        (alone,) = detect(image[None])
        for one, other in zip(alone, together):
            assert one is None or torch.allclose(one, other, atol=1e-3)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_model_is_left_as_found(kind, fails):
    model = detector(kind).train()
    model.backbone.eval()
    modes = [module.training for module in model.modules()]
    values = {name: value.clone() for name, value in model.state_dict().items()}
    batch = images()
    if fails:
        with pytest.raises(ValueError, match="not finite"):
            # A proposal generator drops what is not finite; here the boxes' own head is ill.
            for parameter in getattr(model, "head", getattr(model, "roi_heads", None)).parameters():
                parameter.data.fill_(float("nan"))
            proposal_function(model)(batch)
    else:
        found = proposal_function(model)(batch)
        assert not any(part.requires_grad for one in found for part in one if part is not None)
        assert all(torch.equal(value, values[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())


def test_models_of_another_make_are_refused():
    with pytest.raises(ValueError, match="Linear cannot be asked"):
        proposal_function(nn.Linear(1, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_drise_explains_a_detectors_own_detections(kind):
    model = detector(kind)
    batch = random_input(64, 96)
    _, trace = trace_of(model, batch)
    every = proposal_function(model, 10**4, 0.0, 1.0)(batch["image"][None])[0]
    vectors = find_class_vectors(Proposals(*every), trace.boxes, trace.classes)
    maps = DRISE(12, (4, 4), batch=4)(proposal_function(model), batch["image"], trace.boxes, vectors)
    assert len(maps) == len(trace) > 0
    assert (maps.flatten(1).amax(dim=1) > 0).all()
    assert tuple(drise_heat_maps(maps, trace.boxes, trace.output_size).to_image().shape) == (len(trace), 64, 96)
