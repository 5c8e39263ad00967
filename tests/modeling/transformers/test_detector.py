"""Transformer detectors with Detectron2's inputs and outputs; detections are the library's own."""

import copy

import pytest
import torch
from detectron2.modeling import build_model

from helpers import random_input, small_cfg
from odam_d2.modeling import check_explainable
from transformer_networks import KINDS, SELECTING, tiny_detr, tiny_network

transformers = pytest.importorskip("transformers", reason="the extra 'transformers' is not installed")

PROCESSORS = {
    "detr": "DetrImageProcessor",
    "conditional_detr": "ConditionalDetrImageProcessor",
    "deformable_detr": "DeformableDetrImageProcessor",
    "rt_detr": "RTDetrImageProcessor",
    "rt_detr_v2": "RTDetrImageProcessor",
    "d_fine": "RTDetrImageProcessor",
}


def library_detections(detector, batch, threshold):
    """What the library makes of a batch: normalised, padded and masked by hand."""
    sizes = [tuple(one["image"].shape[1:]) for one in batch]
    multiple = 1 if detector.family.masks else 32
    padded = [-(-max(side) // multiple) * multiple for side in zip(*sizes)]
    pixels, mask = torch.zeros(len(batch), 3, *padded), torch.zeros(len(batch), *padded, dtype=torch.long)
    for i, (one, (height, width)) in enumerate(zip(batch, sizes)):
        pixels[i, :, :height, :width] = (one["image"] - detector.pixel_mean) / detector.pixel_std
        mask[i, :height, :width] = 1
    with torch.no_grad():
        output = detector.network(pixel_values=pixels, pixel_mask=mask)
    kind = detector.network.config.model_type
    processor = getattr(transformers, PROCESSORS[kind])()
    # Boxes are parts of the padded image where padding is not masked out.
    targets = torch.tensor(sizes if detector.family.masks else [padded] * len(batch))
    return processor.post_process_object_detection(output, threshold=threshold, target_sizes=targets), sizes


@pytest.mark.parametrize("kind", KINDS)
def test_detections_are_those_of_the_librarys_post_processing(kind):
    detector = tiny_detr(kind, test_score_thresh=0.05)
    batch = [random_input(100, 150, seed=1), random_input(96, 97, seed=2)]
    expected, sizes = library_detections(detector, batch, 0.05)
    with torch.no_grad():
        found = [one["instances"] for one in detector(batch)]
    traced = detector.observe(batch, ("fpn",)).detections()
    assert sum(map(len, found)) > 0
    for own, other, theirs, (height, width) in zip(found, traced, expected, sizes):
        order = theirs["scores"].argsort(descending=True, stable=True)
        boxes = theirs["boxes"][order].clamp(min=0).minimum(torch.tensor([width, height, width, height]))
        kept = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        assert own.image_size == (height, width) and set(own.get_fields()) == {"pred_boxes", "scores", "pred_classes"}
        assert torch.equal(own.pred_classes, theirs["labels"][order][kept])
        for instances in (own, other):
            assert torch.allclose(instances.scores, theirs["scores"][order][kept], atol=1e-5)
            assert torch.allclose(instances.pred_boxes.tensor, boxes[kept], atol=1e-2)


def test_an_image_of_another_size_has_its_boxes_in_its_own_pixels():
    detector = tiny_detr("detr")
    small = random_input(96, 128)
    (one,) = detector([small])
    (two,) = detector([small | {"height": 192, "width": 384}])
    scale = torch.tensor([3.0, 2.0, 3.0, 2.0])
    assert torch.allclose(two["instances"].pred_boxes.tensor, one["instances"].pred_boxes.tensor * scale, atol=1e-3)


def test_at_most_so_many_and_above_the_threshold_or_none():
    detector = tiny_detr("conditional_detr", max_detections_per_image=4)
    assert len(detector([random_input()])[0]["instances"]) == 4
    none = tiny_detr("conditional_detr", test_score_thresh=1.0)
    observation = none.observe([random_input()])
    (found,) = observation.detections()
    trace = observation.trace_detections(0, found)
    assert len(found) == len(trace) == 0 and trace.boxes.shape == (0, 4)


def test_a_softmax_leaves_no_object_out_and_a_sigmoid_has_none():
    for kind, columns in (("detr", 4), ("conditional_detr", 3)):
        detector = tiny_detr(kind)
        said = detector.observe([random_input()], ()).predictions(0)
        assert said.class_vectors.shape == (7, 3) and said.objectness is None
        with torch.no_grad():
            output = detector.network(pixel_values=(random_input()["image"] - detector.pixel_mean)[None])
        assert output.logits.shape[-1] == columns
        assert (said.class_vectors.sum(dim=1) < 1).all() == (kind == "detr")


def state_of(model):
    return (
        [module.training for module in model.modules()],
        [(p.requires_grad, p.grad is None) for p in model.parameters()],
        [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()],
    )


@pytest.mark.parametrize("kind", ["detr", "rt_detr"])
@pytest.mark.parametrize("layers", [(), ("fpn",), ("res4", "fpn")])
def test_a_detector_is_left_as_found_also_after_an_exception(kind, layers, monkeypatch):
    detector = tiny_detr(kind).train()
    next(detector.parameters()).requires_grad_(False)
    before = state_of(detector)
    detector.observe([random_input()], layers).detections()
    assert state_of(detector) == before and torch.is_grad_enabled()

    def fail(*args, **kwargs):
        raise RuntimeError("broken on purpose")

    with monkeypatch.context() as patch:
        patch.setattr(detector.network.model.decoder, "forward", fail)
        with pytest.raises(RuntimeError, match="on purpose"):
            detector.observe([random_input()], layers)
    assert state_of(detector) == before and torch.is_grad_enabled()
    # A backbone that fails has switched autograd off, and it comes on again.
    with monkeypatch.context() as patch:
        patch.setattr(detector.network.model.backbone.model, "forward", fail)
        with pytest.raises(RuntimeError, match="on purpose"):
            detector.observe([random_input()], layers)
    assert state_of(detector) == before and torch.is_grad_enabled()


@pytest.mark.parametrize("kind", SELECTING)
def test_places_are_the_same_locations_whatever_the_weights_are(kind):
    batch = [random_input(96, 128, seed=1), random_input(96, 96, seed=2)]
    first = tiny_detr(kind)
    observed = first.observe(batch, ())
    same = first.observe(batch, ("fpn",), places_of=observed)
    for image in range(2):
        assert observed.selected(image).shape == (1, 7)
        assert torch.equal(same.selected(image), observed.selected(image))
        # Chosen anew or given, they make the same queries in the same order.
        assert torch.allclose(same.predictions(image).boxes, observed.predictions(image).boxes, atol=1e-3)
        assert torch.allclose(same.predictions(image).class_scores, observed.predictions(image).class_scores, atol=1e-5)
    second = tiny_detr(kind, seed=1)
    own = second.observe(batch, ())
    fixed = second.observe(batch, (), places_of=observed)
    assert not torch.equal(own.selected(0), observed.selected(0))
    assert torch.equal(fixed.selected(0), observed.selected(0))
    assert not torch.allclose(fixed.predictions(0).boxes, own.predictions(0).boxes, atol=1.0)


def test_learned_queries_are_the_same_places_anyway():
    batch = [random_input()]
    detector = tiny_detr("detr")
    observed = detector.observe(batch, ())
    assert observed.selected(0) is None
    again = detector.observe(batch, (), places_of=observed)
    assert torch.equal(again.predictions(0).boxes, observed.predictions(0).boxes)


@pytest.mark.parametrize("layer", ["fpn", "res4"])
def test_a_gradient_reaches_the_pixels_of_an_image_that_requires_one(layer):
    detector, plain, pixels = tiny_detr("detr"), random_input(), random_input()
    pixels["image"] = pixels["image"].requires_grad_()
    asked = torch.tensor([0]), torch.tensor([1])
    traces = [detector.observe([one], (layer,)).trace(0, *asked) for one in (plain, pixels)]
    assert torch.allclose(traces[0].scores, traces[1].scores, atol=1e-6)
    (gradient,) = torch.autograd.grad(traces[1].scores.sum(), pixels["image"])
    assert gradient.any() and not plain["image"].requires_grad


def test_cocos_unused_numbers_are_no_classes():
    """Published DETRs number COCO's categories as their files do, 1 to 90 with gaps; Detectron2 leaves the gaps out."""
    names = {0: "N/A", 1: "person", 2: "N/A", 3: "car"}
    network = tiny_network("detr", num_labels=4, id2label=names, label2id={v: k for k, v in names.items()})
    detector = tiny_detr("detr", network=network)
    assert detector.num_classes == 2 and detector.class_names == ["person", "car"]
    said = detector.observe([random_input()], ()).predictions(0)
    with torch.no_grad():
        pixels = (random_input()["image"] - detector.pixel_mean) / detector.pixel_std
        logits = network(pixel_values=pixels[None]).logits[0]
    assert torch.allclose(said.class_vectors, logits.softmax(-1)[:, [1, 3]], atol=1e-6)


def test_it_is_an_explainable_detector_and_its_layers_make_up_the_whole_network():
    for kind in KINDS:
        detector = tiny_detr(kind)
        assert check_explainable(detector) is detector
        groups = detector.layer_groups()
        grouped = [id(p) for parameters in groups.values() for p in parameters]
        assert sorted(grouped) == sorted(id(p) for p in detector.parameters()), kind
        names = list(groups)
        assert names[0] == "predictors" and names[-1] == "backbone.0"
        assert (
            names.index("decoder.1") < names.index("decoder.0") < names.index("encoder.0") < names.index("backbone.4")
        )


def test_stages_are_frozen_as_detectron2_says():
    """Left to itself, the library freezes this backbone as a whole."""
    for at, frozen in ((0, set()), (1, {"embedder"}), (2, {"embedder", "stages.0"})):
        model = build_model(small_cfg("detr", ["MODEL.BACKBONE.FREEZE_AT", at]))
        still = {n for n, p in model.network.model.backbone.named_parameters() if not p.requires_grad}
        assert {part for part in ("embedder", "stages.0", "stages.1") if any(part in n for n in still)} == frozen


def test_what_cannot_be_asked_is_said():
    detector = tiny_detr("rt_detr")
    with pytest.raises(ValueError, match="unknown layer 'p3'.*res3.*projection5.*encoder5, fpn"):
        detector.observe([random_input()], ("p3",))
    # 32 x 32 pixels: 16 + 4 + 1 locations.
    large = tiny_detr("rt_detr", network=tiny_network("rt_detr", num_queries=22))
    with pytest.raises(ValueError, match="32 x 32 pixels has 21 locations.*22 queries.*MIN_SIZE_TEST"):
        large.observe([random_input(20, 30)])
    observation = detector.observe([random_input()])
    with pytest.raises(ValueError, match="no place 7; this detector has 7"):
        observation.trace(0, torch.tensor([7]), torch.tensor([0]))
    from helpers import tiny_fcos

    with pytest.raises(ValueError, match="places are queries"):
        detector.observe([random_input()], (), places_of=tiny_fcos().observe([random_input()], ()))
    broken = copy.deepcopy(detector)
    torch.nn.init.constant_(broken.network.model.decoder.class_embed[-1].bias, float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        broken([random_input()])
