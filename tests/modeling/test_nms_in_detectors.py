"""The NMS family inside the detectors: what comes out is what the functions say of the same candidates."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Instances

from helpers import DEVICES, random_input, small_cfg, tiny_fcos
from odam_d2.explain import GradientExplainer
from odam_d2.nms.family import NMS_NAMES, CandidateNMS
from odam_d2.nms.functions import odam_nms, soft_nms

KINDS = ("fcos", "retinanet", "faster_rcnn")


def detector(kind, name="odam", opts=(), device="cpu"):
    """A random network whose scores differ enough that rounding does not order them."""
    torch.manual_seed(0)
    few = ["MODEL.FCOS.NUM_CLASSES", 3, "MODEL.RETINANET.NUM_CLASSES", 3, "MODEL.ROI_HEADS.NUM_CLASSES", 3]
    few += ["ODAM.NMS.SOFT_SCORE_THRESH", 0.001]
    few += ["MODEL.RPN.PRE_NMS_TOPK_TEST", 100, "MODEL.RPN.POST_NMS_TOPK_TEST", 100, "MODEL.RPN.NMS_THRESH", 0.95]
    few += ["TEST.DETECTIONS_PER_IMAGE", 1000, "ODAM.EMBEDDING.DIM", 8, *opts]
    model = build_model(small_cfg(kind, ["ODAM.NMS.NAME", name, "MODEL.DEVICE", device, *few])).eval()
    if kind == "faster_rcnn":
        torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.5)
    else:
        torch.nn.init.normal_(model.head.cls_score.weight, std=0.5)
        if kind == "fcos":
            # FCOS cuts negative distances to 0, and a box without a size is no detection.
            torch.nn.init.constant_(model.head.bbox_pred.bias, 2.0)
    return model


def holder(model):
    return getattr(model, "roi_heads", model)


def detect(model, *inputs) -> list[Instances]:
    with torch.no_grad():
        return [output["instances"] for output in model(list(inputs))]


def all_candidates(kind, opts=()):
    """The same detector with NMS off, traced."""
    model = detector(kind, "greedy", opts)
    if kind == "faster_rcnn":
        model.roi_heads.box_predictor.test_nms_thresh = 1.0
    else:
        model.test_nms_thresh = 1.0
    return model.trace(random_input(), ("roi_pool" if kind == "faster_rcnn" else "fpn",))


@pytest.mark.parametrize("kind", KINDS)
def test_odam_nms_in_a_detector_is_odam_nms_of_all_its_candidates(kind):
    low = ["ODAM.NMS.CORR_LOW", 0.6, "ODAM.NMS.CORR_HIGH", 0.9]
    instances, trace = all_candidates(kind)
    layer = "roi_pool" if kind == "faster_rcnn" else "fpn"
    maps = GradientExplainer(layer=layer, path="batched")(trace, "class_logit").resample(50)
    threshold = {"fcos": 0.6, "retinanet": 0.5, "faster_rcnn": 0.5}[kind]
    model = detector(kind, "odam", low)
    with holder(model).nms.recording() as record:
        (found,) = detect(model, random_input())
    (suppression,) = record
    assert len(suppression.boxes) == len(instances) > len(found) > 0
    kept = odam_nms(suppression.boxes, suppression.scores, suppression.classes, suppression.maps, threshold, 0.9, 0.6)
    assert torch.equal(suppression.keep, kept)
    assert torch.equal(found.scores, suppression.scores[kept])
    # The maps it compared are those of an explanation of the same candidates.
    mine = suppression.maps[suppression.scores.argsort(descending=True, stable=True)]
    others = maps[instances.scores.argsort(descending=True, stable=True)]
    assert torch.allclose(mine, others, rtol=1e-3, atol=1e-4 * float(others.max()))


@pytest.mark.parametrize("kind", KINDS)
def test_odam_nms_with_its_correlations_switched_off_is_detectron2s_nms(kind):
    (expected,) = detect(detector(kind, "greedy"), random_input())
    (found,) = detect(detector(kind, "odam", ["ODAM.NMS.CORR_HIGH", 1.0, "ODAM.NMS.CORR_LOW", -1.0]), random_input())
    assert len(expected) > 1
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(found.scores, expected.scores) and torch.equal(found.pred_classes, expected.pred_classes)


@pytest.mark.parametrize("kind", KINDS)
def test_kept_detections_carry_the_maps_that_decided(kind):
    (found,) = detect(detector(kind, "odam"), random_input())
    assert found.nms_maps.shape == (len(found), 50, 75) and (found.nms_maps >= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_soft_nms_returns_decayed_scores(kind):
    model = detector(kind, "soft", ["ODAM.NMS.SOFT_SCORE_THRESH", 0.0])
    with holder(model).nms.recording() as record:
        (found,) = detect(model, random_input())
    (candidates,) = record
    threshold = {"fcos": 0.6, "retinanet": 0.5, "faster_rcnn": 0.5}[kind]
    parts = candidates.boxes, candidates.scores, candidates.classes
    keep, scores = soft_nms(*parts, "gaussian", 0.5, threshold, 0.0)
    assert torch.equal(candidates.keep, keep) and torch.equal(found.scores, scores)
    assert (found.scores < candidates.scores[candidates.keep]).any()
    with pytest.raises(ValueError, match="Soft-NMS"):
        _ = candidates.removed


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NMS_NAMES)
def test_tracing_finds_what_the_detector_finds(kind, name):
    model = detector(kind, name)
    (expected,) = detect(model, random_input())
    instances, _ = model.trace(random_input())
    assert len(expected) > 1 and torch.equal(instances.scores, expected.scores)
    assert torch.equal(instances.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert set(instances.get_fields()) == set(expected.get_fields())
    # Those that NMS kept can be explained.
    _, trace = model.trace(random_input(), keep=lambda found: torch.arange(1))
    assert len(GradientExplainer()(trace, "class_logit")) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NMS_NAMES)
def test_two_images_of_different_size_give_what_each_gives(kind, name):
    model = detector(kind, name)
    # Padded to the same size by hand, so that the batch pads neither any further.
    first, second = random_input(64, 96), random_input(64, 96, seed=1)
    for found, one in zip(detect(model, first, second), (first, second)):
        (expected,) = detect(model, one)
        assert len(found) == len(expected)
        assert torch.allclose(found.scores, expected.scores, atol=1e-5)
    assert len(detect(model, random_input(64, 96), random_input(100, 60))) == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NMS_NAMES)
def test_no_candidates_are_no_detections(kind, name):
    model = detector(kind, name)
    if kind == "faster_rcnn":
        model.roi_heads.box_predictor.test_score_thresh = 1.1
    else:
        model.test_score_thresh = 1.1
    (found,) = detect(model, random_input())
    assert len(found) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_removals_are_listed_with_their_reasons(kind):
    model = detector(kind, "odam")
    with holder(model).nms.recording() as record:
        (found,) = detect(model, random_input())
    removed = record[0].removed
    assert len(removed) + len(found) == len(record[0].boxes) and len(removed) > 0
    assert removed.correlation is not None and (removed.correlation <= 1).all()
    with holder(detector(kind, "greedy")).nms.recording() as record:
        pass
    assert record == []


def test_greedy_nms_can_be_recorded_and_changes_nothing():
    model = tiny_fcos(test_nms_thresh=0.3, max_detections_per_image=3)
    (expected,) = detect(model, random_input())
    with model.nms.recording() as record:
        (found,) = detect(model, random_input())
    assert torch.equal(found.scores, expected.scores) and set(found.get_fields()) == set(expected.get_fields())
    assert len(record[0].keep) == len(expected) and len(record[0].removed) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_feature_nms_asks_the_embeddings(kind):
    model = detector(kind, "feature", ["ODAM.NMS.FEATURE_DISTANCE", 1e9])
    (near,) = detect(model, random_input())
    model = detector(kind, "feature", ["ODAM.NMS.FEATURE_DISTANCE", 0.0])
    (far,) = detect(model, random_input())
    assert len(near) < len(far)


def test_feature_nms_without_an_embedding_head_says_what_to_do():
    for kind in KINDS:
        with pytest.raises(ValueError, match="ODAM.EMBEDDING.DIM"):
            detect(detector(kind, "feature", ["ODAM.EMBEDDING.DIM", 0]), random_input())


def test_an_unknown_nms_lists_the_valid_ones():
    with pytest.raises(ValueError, match="greedy, soft, feature, odam"):
        CandidateNMS("gready")


def test_a_head_that_cannot_be_reversed_is_refused_by_name():
    model = detector("fcos")
    model.head.cls_subnet.append(torch.nn.GELU())
    with pytest.raises(ValueError, match="GELU"):
        detect(model, random_input())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("device", DEVICES)
def test_autocast_and_devices(kind, device):
    model = detector(kind, "odam", device=device)
    with torch.autocast(device, dtype=torch.bfloat16):
        (found,) = detect(model, random_input())
    assert len(found) > 0 and torch.isfinite(found.nms_maps).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_is_left_as_it_was(kind):
    model = detector(kind, "odam")
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    detect(model, random_input())
    assert before == {name: p.requires_grad for name, p in model.named_parameters()}
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())
