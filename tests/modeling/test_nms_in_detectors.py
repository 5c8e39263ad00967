"""The NMS family inside the detectors: what comes out is what the functions say of the same candidates."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Instances

from helpers import DEVICES, random_input, small_cfg, tiny_fcos, trace_of
from modeling.test_cascade_c4 import detector as two_stage_detector
from odam_d2.explain import ExplainSettings, GradientExplainer
from odam_d2.nms import ODAMNMS, GreedyNMS, SoftNMS, odam_nms, soft_nms
from odam_d2.nms.family import NMS_NAMES

KINDS = ("fcos", "retinanet", "faster_rcnn")
# With the thresholds of the configs: IoU of greedy NMS.
THRESHOLDS = {"fcos": 0.6, "retinanet": 0.5, "faster_rcnn": 0.5, "cascade": 0.5, "c4": 0.5}
OTHERS = ("cascade", "c4")


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


def any_detector(kind, name="odam", opts=()):
    """One of all five, with scores that differ."""
    if kind in KINDS:
        return detector(kind, name, opts)
    options = {"ODAM.NMS.NAME": name, "ODAM.NMS.SOFT_SCORE_THRESH": 0.001, "TEST.DETECTIONS_PER_IMAGE": 1000}
    options |= {"MODEL.RPN.PRE_NMS_TOPK_TEST": 40, "MODEL.RPN.POST_NMS_TOPK_TEST": 40}
    return two_stage_detector(kind, options | dict(zip(opts[::2], opts[1::2])))


def detect(model, *inputs) -> list[Instances]:
    with torch.no_grad():
        return [output["instances"] for output in model(list(inputs))]


def suppress(model, *inputs):
    """The detections of the images and what NMS did with their candidates."""
    observation = model.observe(inputs, model.nms.layers)
    return observation.detections(), [observation.suppression(i) for i in range(len(inputs))]


def all_candidates(kind, opts=()):
    """The same detector with NMS off, traced."""
    model = any_detector(kind, "greedy", opts)
    if kind in ("faster_rcnn", "cascade", "c4"):
        model.roi_heads.box_stages()[-1][1].test_nms_thresh = 1.0
    else:
        model.test_nms_thresh = 1.0
    return trace_of(model, random_input(), (model.batched_layer,))


@pytest.mark.parametrize("kind", [*KINDS, *OTHERS])
def test_odam_nms_in_a_detector_is_odam_nms_of_all_its_candidates(kind):
    low = ["ODAM.NMS.CORR_LOW", 0.6, "ODAM.NMS.CORR_HIGH", 0.9]
    instances, trace = all_candidates(kind)
    layer = "fpn" if kind in ("fcos", "retinanet") else "roi_pool"
    maps = GradientExplainer(layer=layer, path="exact")(trace, "class_logit").resample(50)
    model = any_detector(kind, "odam", low)
    (found,) = detect(model, random_input())
    _, (suppression,) = suppress(model, random_input())
    assert len(suppression.boxes) == len(instances) > len(found) > 0
    parts = suppression.boxes, suppression.scores, suppression.classes
    kept = odam_nms(*parts, suppression.maps, THRESHOLDS[kind], 0.9, 0.6)
    assert torch.equal(suppression.keep, kept)
    assert torch.equal(found.scores, suppression.scores[kept])
    # The maps it compared are those of an explanation of the same candidates, one backward pass for each.
    mine = suppression.maps[suppression.scores.argsort(descending=True, stable=True)]
    others = maps[instances.scores.argsort(descending=True, stable=True)]
    assert torch.allclose(mine, others, rtol=1e-3, atol=1e-4 * float(others.max()))


@pytest.mark.parametrize("kind", [*KINDS, *OTHERS])
def test_odam_nms_keeps_others_than_greedy_nms(kind):
    """Candidates that overlap a better one are spared, or others removed, because of their maps."""
    # Maps of random networks are alike: thresholds at which some are not.
    high = ["ODAM.NMS.CORR_LOW", 0.95, "ODAM.NMS.CORR_HIGH", 0.98]
    greedy, odam = any_detector(kind, "greedy"), any_detector(kind, "odam", high)
    _, (plain,) = suppress(greedy, random_input())
    _, (done,) = suppress(odam, random_input())
    assert torch.equal(plain.boxes, done.boxes) and torch.equal(plain.scores, done.scores)
    assert set(plain.keep.tolist()) != set(done.keep.tolist())
    options = THRESHOLDS[kind], odam.nms.corr_high, odam.nms.corr_low
    assert torch.equal(done.keep, odam_nms(done.boxes, done.scores, done.classes, done.maps, *options))


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


@pytest.mark.parametrize("kind", [*KINDS, *OTHERS])
def test_soft_nms_returns_decayed_scores(kind):
    model = any_detector(kind, "soft", ["ODAM.NMS.SOFT_SCORE_THRESH", 0.0])
    (found,) = detect(model, random_input())
    _, (candidates,) = suppress(model, random_input())
    threshold = THRESHOLDS[kind]
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
    instances, _ = trace_of(model, random_input())
    assert len(expected) > 1 and torch.equal(instances.scores, expected.scores)
    assert torch.equal(instances.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert set(instances.get_fields()) == set(expected.get_fields())
    # Those that NMS kept can be explained.
    _, trace = trace_of(model, random_input(), keep=lambda found: torch.arange(1))
    assert len(GradientExplainer()(trace, "class_logit")) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NMS_NAMES)
def test_two_images_of_a_batch_give_what_each_gives(kind, name):
    model = detector(kind, name)
    # Of one size, so that the batch pads neither any further.
    first, second = random_input(64, 96), random_input(64, 96, seed=1)
    for found, one in zip(detect(model, first, second), (first, second)):
        (expected,) = detect(model, one)
        assert len(found) == len(expected)
        assert torch.allclose(found.scores, expected.scores, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NMS_NAMES)
def test_images_of_different_size_keep_their_own_candidates(kind, name):
    """The larger is padded no further by the smaller, whose boxes must lie in its own frame."""
    model = detector(kind, name)
    large, small = random_input(100, 150), random_input(64, 90, seed=1)
    of_large, of_small = detect(model, large, small)
    (alone,) = detect(model, large)
    assert len(of_large) == len(alone) and torch.allclose(of_large.scores, alone.scores, atol=1e-5)
    assert len(of_small) > 0 and of_small.image_size == (64, 90)
    assert of_small.pred_boxes.tensor[:, 2].max() <= 90 and of_small.pred_boxes.tensor[:, 3].max() <= 64
    _, (_, done) = suppress(model, large, small)
    assert done.image_size == (64, 90) and len(done.keep) >= len(of_small)
    if name == "odam":
        # Maps of the smaller image lie on a grid of its own proportions: 50 cells along 64 pixels.
        assert of_small.nms_maps.shape[1:] == (50, 70) and of_large.nms_maps.shape[1:] == (50, 75)


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
    (found,), (done,) = suppress(model, random_input())
    removed = done.removed
    assert len(removed) + len(found) == len(done.boxes) and len(removed) > 0
    assert removed.correlation is not None and (removed.correlation <= 1).all()
    # Each was removed for one of the two reasons of Algorithm 1.
    close = removed.iou >= THRESHOLDS[kind]
    assert (removed.correlation[close] > 0.2).all() and (removed.correlation[~close] > 0.8).all()


# Cascade and C4 have no place for an embedding head, which FeatureNMS needs.
@pytest.mark.parametrize(
    "kind, name",
    [(kind, name) for kind in (*KINDS, *OTHERS) for name in NMS_NAMES if kind in KINDS or name != "feature"],
)
def test_asking_what_nms_did_changes_nothing(kind, name):
    model = any_detector(kind, name)
    (expected,) = detect(model, random_input())
    (found,), (done,) = suppress(model, random_input())
    (again,) = detect(model, random_input())
    for one in (found, again):
        assert torch.equal(one.scores, expected.scores)
        assert torch.equal(one.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert set(again.get_fields()) == set(expected.get_fields()) == set(found.get_fields()) - {"place"}
    assert len(done.keep) == len(expected) > 0


def test_removals_of_greedy_nms_can_be_asked_for():
    model = tiny_fcos(test_nms_thresh=0.3, max_detections_per_image=3)
    (found,), (done,) = suppress(model, random_input())
    assert len(done.keep) == len(found) == 3 and len(done.removed) > 0
    assert (done.removed.iou > 0.3).all()


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
        detector("fcos", "gready")


def test_what_a_config_says_about_nms_is_what_the_detector_holds():
    assert detector("fcos", "greedy").nms == GreedyNMS()
    soft = detector("retinanet", "soft", ["ODAM.NMS.SOFT_METHOD", "linear", "ODAM.NMS.SOFT_SIGMA", 0.3]).nms
    assert soft == SoftNMS("linear", 0.3, 0.001)
    options = [
        "ODAM.NMS.CORR_HIGH",
        0.7,
        "ODAM.NMS.SHORT_EDGE",
        30,
        "ODAM.EXPLAIN.MEMORY",
        0.5,
        "ODAM.NMS.TARGET",
        "x1",
    ]
    odam = detector("faster_rcnn", "odam", options).nms
    settings = ExplainSettings(layer="roi_pool", path="auto", memory=0.5)
    assert odam == ODAMNMS(settings, "x1", corr_high=0.7, short_edge=30)
    assert detector("fcos", "odam").nms.explain == ExplainSettings(layer="fpn", path="auto")


@pytest.mark.parametrize("kind", ["fcos", "faster_rcnn"])
def test_the_config_governs_the_maps_that_nms_compares(kind):
    # Smoothing is ODAM-NMS's too; its method, layer and path are its own.
    keys = {"SMOOTHING": "gaussian", "METHOD": "gradcam", "LAYER": "res4", "PATH": "batched"}
    options = [word for key, value in keys.items() for word in (f"ODAM.EXPLAIN.{key}", value)]
    model, usual = detector(kind, "odam", options), detector(kind, "odam")
    layer = model.batched_layer
    assert model.nms.explain == ExplainSettings("odam", layer, "gaussian", "auto")
    observation = model.observe([random_input()], (layer,))
    done, trace = observation.suppression(0), observation.candidates(0).trace()
    smooth = GradientExplainer("odam", layer, "gaussian")(trace, "class_logit").resample(50)
    assert torch.allclose(done.maps, smooth, rtol=1e-4, atol=1e-6)
    _, (plain,) = suppress(usual, random_input())
    assert torch.equal(plain.boxes, done.boxes) and not torch.allclose(plain.maps, done.maps)


def test_a_head_that_cannot_be_reversed_is_refused_by_name_or_run_forward():
    model = detector("fcos", "odam", ["ODAM.NMS.PATH", "batched"])
    model.head.cls_subnet.append(torch.nn.GELU())
    with pytest.raises(ValueError, match="GELU"):
        detect(model, random_input())
    # The automatic path makes one backward pass for each candidate instead.
    model = detector("fcos", "odam", ["MODEL.FCOS.TOPK_CANDIDATES_TEST", 5])
    model.head.cls_subnet.append(torch.nn.GELU())
    (found,) = detect(model, random_input())
    assert len(found) > 0 and found.nms_maps.amax() > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("device", DEVICES)
def test_autocast_and_devices(kind, device):
    model = detector(kind, "odam", device=device)
    with torch.autocast(device, dtype=torch.bfloat16):
        (found,) = detect(model, random_input())
    assert len(found) > 0 and torch.isfinite(found.nms_maps).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NMS_NAMES)
def test_every_nms_compares_what_autocast_halves(kind, name):
    model = detector(kind, name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, later = (model.observe([random_input()], model.nms.layers or ("fpn",)) for _ in range(2))
        done, candidates = inside.suppression(0), inside.candidates(0)
    # Asked elsewhere, the detector runs again as it ran when it was observed.
    assert torch.equal(later.suppression(0).keep, done.keep)
    (detections,) = later.detections()
    assert len(detections) == len(inside.detections()[0]) > 0
    assert 0 < len(done.keep) <= len(candidates)
    assert torch.isfinite(done.kept_scores).all() and (done.kept_scores.float().diff() <= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_is_left_as_it_was(kind):
    model = detector(kind, "odam")
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    detect(model, random_input())
    assert before == {name: p.requires_grad for name, p in model.named_parameters()}
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())
