"""Observations: any place and class can be asked about, in any order, in inference and inside training."""

from copy import deepcopy

import pytest
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from helpers import DEVICES, random_input, tiny_fcos
from modeling.test_nms_in_detectors import KINDS, OTHERS, any_detector
from odam_d2.explain import GradientExplainer, target_output
from odam_d2.modeling import check_explainable
from odam_d2.modeling.dense.observation import DenseObservation
from odam_d2.modeling.features import ImageFeatures, output_strides
from odam_d2.modeling.rcnn.observation import RegionObservation, regions_of

ALL = (*KINDS, *OTHERS)


def some_predictions(observation, count=12, seed=0):
    """Random places and classes; one place twice, with two classes."""
    generator = torch.Generator().manual_seed(seed)
    said = observation.predictions(0)
    places = torch.randint(len(said), (count,), generator=generator)
    classes = torch.randint(said.class_vectors.shape[1], (count,), generator=generator)
    places[:2] = said.class_scores.sum(dim=1).argmax()
    classes[0], classes[1] = 0, 1
    return said, places, classes


@pytest.mark.parametrize("kind", ALL)
def test_any_place_and_class_can_be_traced_and_says_what_the_detector_says_there(kind):
    model = any_detector(kind, "greedy")
    assert check_explainable(model) is model
    observation = model.observe([random_input()], (model.batched_layer,))
    said, places, classes = some_predictions(observation)
    trace = observation.trace(0, places, classes)
    assert torch.equal(trace.places, places) and torch.equal(trace.classes, classes)
    assert torch.allclose(trace.class_vectors, said.class_vectors[places], atol=1e-6)
    assert torch.allclose(trace.scores, said.class_scores[places, classes], atol=1e-6)
    boxes = said.boxes[places, classes] if said.boxes.shape[1] > 1 else said.boxes[places, 0]
    assert torch.allclose(trace.boxes, boxes, rtol=1e-4, atol=1e-2)
    assert (said.objectness is not None) == (kind == "fcos")
    if kind in ("retinanet", "fcos"):
        assert torch.allclose(trace.logits.sigmoid(), trace.class_vectors)
    # Any class of a place, not only the own one.
    assert torch.allclose(
        trace.scores_of(1 - classes.clamp(max=1)), said.class_scores[places, 1 - classes.clamp(max=1)]
    )
    maps = GradientExplainer(layer=model.batched_layer, path="auto")(trace, "class_logit").to_image()
    alone = observation.trace(0, places[1:2], classes[1:2])
    single = GradientExplainer(layer=model.batched_layer)(alone, "class_logit").to_image()
    assert torch.allclose(maps[1], single[0], rtol=1e-3, atol=1e-4 * float(single.max()) + 1e-12)
    # Two classes of one place have maps of their own.
    assert single.max() > 0 and not torch.allclose(maps[0], maps[1], atol=1e-4 * float(maps[:2].max()))


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("name", ["greedy", "odam"])
def test_the_order_of_questions_does_not_matter(kind, name):
    batch, model = random_input(), any_detector(kind, name)

    def ask(observation, order):
        answers = {}
        _, places, classes = some_predictions(any_detector(kind, "greedy").observe([batch], ()))
        questions = {
            "trace": lambda: observation.trace(0, places, classes).logits.detach(),
            "detections": lambda: observation.detections()[0].scores,
            "predictions": lambda: observation.predictions(0).class_scores,
            "kept": lambda: observation.suppression(0).keep,
            "again": lambda: observation.trace(0, places, classes).boxes.detach(),
        }
        for question in order:
            answers[question] = questions[question]()
        return answers

    names = ["trace", "detections", "predictions", "kept", "again"]
    first = ask(model.observe([batch], (model.batched_layer,)), names)
    other = ask(model.observe([batch], (model.batched_layer,)), names[::-1])
    assert all(torch.equal(first[question], other[question]) for question in names)


@pytest.mark.parametrize("kind", ALL)
def test_what_cannot_have_been_predicted_is_refused(kind):
    model = any_detector(kind, "greedy")
    observation = model.observe([random_input()], (model.batched_layer,))
    count = len(observation.predictions(0))
    one = torch.tensor([0])
    with pytest.raises(ValueError, match=f"no place {count}.*{count}"):
        observation.trace(0, one + count, one)
    with pytest.raises(ValueError, match="no class 3.*has 3"):
        observation.trace(0, one, one + 3)
    with pytest.raises(ValueError, match="two lists of one length"):
        observation.trace(0, one, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"layers=\(\)"):
        model.observe([random_input()], ()).trace(0, one, one)


def test_what_has_no_observe_is_no_explainable_detector():
    with pytest.raises(ValueError, match="Linear cannot be explained.*ODAMFCOS"):
        check_explainable(nn.Linear(1, 1))


@pytest.mark.parametrize("kind", ALL)
def test_an_observation_that_nobody_explains_records_no_graph(kind):
    model = any_detector(kind, "greedy")
    observation = model.observe([random_input()], ())
    said = observation.predictions(0)
    assert not said.boxes.requires_grad and not said.class_scores.requires_grad
    assert not observation.candidates(0).scores.requires_grad
    with torch.inference_mode():
        assert len(model.observe([random_input()], ()).detections()[0]) > 0


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("path", ["exact", "auto"])
def test_traces_under_autocast_have_finite_maps_near_those_of_full_precision(kind, device, path):
    model, batch = any_detector(kind, "greedy").to(device), random_input()
    layer = model.batched_layer
    explainer = GradientExplainer(layer=layer, path=path)
    plain = model.observe([batch], (layer,))
    _, places, classes = some_predictions(plain, 4)
    places, classes = places.to(device), classes.to(device)
    expected = explainer(plain.trace(0, places, classes), "class_logit").to_image()
    with torch.autocast(device, dtype=torch.bfloat16):
        # Two-stage detectors propose other regions in half precision: the same ones are asked about.
        half = model.observe([batch], (layer,), places_of=plain)
        found = explainer(half.trace(0, places, classes), "class_logit").to_image()
    assert torch.isfinite(found).all() and found.dtype == torch.float32
    cosine = nn.functional.cosine_similarity(found.flatten(1), expected.flatten(1), dim=1)
    assert (cosine[expected.flatten(1).amax(1) > 0] > 0.9).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["fcos", "retinanet"])
def test_boxes_under_autocast_are_decoded_in_full_precision(kind, device):
    model, batch = deepcopy(any_detector(kind, "greedy")).to(device), random_input(240, 400)
    with torch.no_grad():
        model.head.bbox_pred.bias.fill_(0.3)
    with torch.autocast(device, dtype=torch.bfloat16):
        observation = model.observe([batch], ("fpn",))
        plain = model([batch])[0]["instances"].pred_boxes.tensor
    boxes = observation.predictions(0).boxes[:, 0]
    places = torch.arange(0, len(boxes), 7, device=boxes.device)
    traced = observation.trace(0, places, torch.zeros_like(places)).boxes
    found = observation.detections()[0].pred_boxes.tensor
    assert torch.equal(found, plain) and len(found) > 0
    assert torch.equal(traced, boxes[places])
    for own in (boxes, found):
        # In half precision a side beyond 256 is a multiple of 2.
        assert own.dtype == torch.float32 and (own[own > 256] % 2 != 0).any()


# ---- Inside training


def ground_truth(size=(100, 150)):
    found = Instances(size)
    found.gt_boxes = Boxes(torch.tensor([[10.0, 10.0, 60.0, 70.0], [80.0, 30.0, 140.0, 90.0]]))
    found.gt_classes = torch.tensor([1, 2])
    return found


def observe_training_batch(model, inputs):
    """An observation of a training batch, from what the detector has at hand there, and its positives by image."""
    images = model.preprocess_image(inputs)
    features = model.backbone(images.tensor)
    own = ImageFeatures.of_batch(features, output_strides(model.backbone))
    objects = [ground_truth().to(model.device) for _ in inputs]
    if hasattr(model, "roi_heads"):
        with EventStorage():
            proposals, _ = model.proposal_generator(images, features, objects)
            sampled = model.roi_heads.label_and_sample_proposals(proposals, objects)
        regions = regions_of(sampled)
        observation = RegionObservation(model.roi_heads, (model.batched_layer,), images, own, regions, evaluation=False)
        labels = [p.gt_classes for p in sampled]
    else:
        pyramid = [features[name] for name in model.head_in_features]
        with model.recording_towers() as seen:
            predictions = model.head(pyramid)
        observation = DenseObservation(model, ("fpn",), images, own, predictions, seen, evaluation=False)
        labels, _ = model.label_anchors(model.anchor_generator(pyramid), objects)
    positives = [((label >= 0) & (label < model.num_classes)).nonzero()[:8, 0] for label in labels]
    return observation, [(rows, label[rows]) for rows, label in zip(positives, labels)], features


def training_detector(kind):
    if kind.startswith("fcos"):
        norm = (lambda channels: nn.GroupNorm(2, channels)) if kind == "fcos_gn" else ""
        return tiny_fcos(norm=norm).train().double()
    model = any_detector(kind, "greedy").train()
    # The NMS of the first stage wants boxes and scores of one type, and makes boxes in single precision.
    return model.double() if kind == "retinanet" else model


@pytest.mark.parametrize("kind", ["fcos", "fcos_gn", "retinanet", "faster_rcnn", "cascade", "c4"])
@pytest.mark.parametrize("path, graph", [("auto", "all"), ("exact", "all"), ("auto", "activations")])
def test_a_loss_on_maps_of_a_training_batchs_positives_reaches_backbone_and_head(kind, path, graph):
    torch.manual_seed(0)
    model = training_detector(kind)
    inputs = [{"image": random_input(seed=seed)["image"].to(model.pixel_mean)} for seed in range(2)]
    observation, positives, features = observe_training_batch(model, inputs)
    explainer = GradientExplainer(layer=model.batched_layer, path=path)
    loss, expected = 0.0, 0.0
    for image, (places, classes) in enumerate(positives):
        assert len(places) > 0
        trace = observation.trace(image, places, classes)
        grids = explainer(trace, "class_logit", graph=graph).grids
        loss = loss + sum((grid.whole().maps ** 2).sum() for grid in grids)
        expected = expected + plain_loss(trace, features, image, graph)
    assert model.training and loss.requires_grad and loss.item() > 0
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found, wanted = (
        torch.autograd.grad(total, list(parameters.values()), retain_graph=True, allow_unused=True)
        for total in (loss, expected)
    )
    reached = set()
    for name, mine, theirs in zip(parameters, found, wanted):
        if theirs is None or theirs.abs().max() == 0:
            continue
        reached.add(name.split(".")[0])
        assert torch.allclose(mine, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max())), name
    head = {"roi_heads" if hasattr(model, "roi_heads") else "head"}
    # With gradients as constants a loss on maps reaches what makes the features.
    assert reached >= {"backbone"} | (head if graph == "all" else set())


def plain_loss(trace, features, image, graph):
    """The sum of squares of the same maps, by double backward through the detector's own graph."""
    output, total = target_output(trace, "class_logit"), 0.0
    for row in range(len(trace)):
        if trace.regions is None:
            source, own = features[trace.levels[row]], image
        else:
            source, own = trace.regions.features[-1], int(trace.regions.rows[row])
        (gradient,) = torch.autograd.grad(output[row], source, create_graph=True)
        if graph == "activations":
            gradient = gradient.detach()
        total = total + ((gradient[own] * source[own]).sum(dim=0).relu() ** 2).sum()
    return total
