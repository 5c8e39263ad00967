"""Gradients down to the pixels, and regions that are given: what BBAM asks of a detector."""

import pytest
import torch

from helpers import random_input, tiny_fcos
from modeling.test_nms_in_detectors import any_detector

REGIONS = torch.tensor([[[10.0, 12.0, 60.0, 70.0]], [[20.0, 5.0, 140.0, 90.0]]])


def given(kind):
    """(R,S,4): every stage pools the same."""
    return REGIONS.expand(2, 3 if kind == "cascade" else 1, 4)


@pytest.mark.parametrize("kind", ["faster_rcnn", "cascade", "c4"])
def test_a_gradient_reaches_the_pixels_and_is_the_outputs(kind):
    """In double precision, along a random direction: (Y(I + e D) - Y(I - e D)) / 2e."""
    model = any_detector(kind, "greedy").double()
    image = random_input()["image"].double()
    direction = torch.rand(image.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    places, classes = torch.tensor([0, 1]), torch.tensor([1, 0])

    def outputs(image):
        trace = model.observe([{"image": image}], places_of=[given(kind)]).trace(0, places, classes)
        # Boxes are decoded in single precision, too little for small steps.
        return torch.cat([trace.scores, trace.logits.flatten()]), trace.boxes

    image.requires_grad_()
    said, boxes = outputs(image)
    weights = torch.linspace(1, 2, len(said), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((weights * said).sum(), image, retain_graph=True)
    assert torch.autograd.grad(boxes.sum(), image)[0].any()
    with torch.no_grad():
        # So small that hardly any rectified unit changes its side.
        step = 1e-6
        change = outputs(image + step * direction)[0] - outputs(image - step * direction)[0]
    expected = float((weights * change).sum() / (2 * step))
    assert expected != 0 and float((gradient * direction).sum()) == pytest.approx(expected, rel=1e-4)


def test_a_dense_detectors_gradient_reaches_the_pixels_too():
    model, image = tiny_fcos(), random_input()["image"].requires_grad_()
    trace = model.observe([{"image": image}]).trace(0, torch.tensor([100]), torch.tensor([1]))
    (gradient,) = torch.autograd.grad(trace.scores.sum(), image)
    assert gradient.shape == image.shape and gradient.any()


@pytest.mark.parametrize("layer", ["fpn", "res4"])
def test_without_such_an_image_the_graph_ends_at_the_features(layer):
    model = any_detector("faster_rcnn", "greedy")
    plain, pixels = random_input(), random_input()
    pixels["image"] = pixels["image"].requires_grad_()
    asked = torch.tensor([0]), torch.tensor([0])
    traces = [model.observe([one], (layer,), [given("")]).trace(0, *asked) for one in (plain, pixels)]
    assert torch.allclose(traces[0].scores, traces[1].scores, atol=1e-6)
    (gradient,) = torch.autograd.grad(traces[1].scores.sum(), pixels["image"])
    assert gradient.any() and plain["image"].grad is None and not plain["image"].requires_grad
    # Nobody explains: nothing is recorded, whatever the image.
    assert not model.observe([pixels], ()).predictions(0).boxes.requires_grad


@pytest.mark.parametrize("kind", ["faster_rcnn", "cascade"])
def test_given_regions_are_the_places(kind):
    model = any_detector(kind, "greedy")
    plain = model.observe([random_input()])
    first = plain.trace(0, torch.tensor([4, 2]), torch.tensor([0, 1]))
    again = model.observe([random_input()], places_of=[first.regions.stage_boxes])
    assert len(again.predictions(0)) == 2 and torch.equal(again.regions(0), first.regions.stage_boxes)
    second = again.trace(0, torch.tensor([0, 1]), torch.tensor([0, 1]))
    assert torch.allclose(second.scores, first.scores) and torch.allclose(second.boxes, first.boxes, atol=1e-3)
    assert torch.equal(first.regions.boxes, first.regions.stage_boxes[:, -1])


@pytest.mark.parametrize(
    ("regions", "words"),
    [
        ([], r"\[\] were given for 1 images; each needs \(regions,1,4\)"),
        ([REGIONS, REGIONS], r"\[\(2, 1, 4\), \(2, 1, 4\)\] were given for 1 images"),
        ([REGIONS[:, 0]], r"\[\(2, 4\)\] were given"),
        ([REGIONS.expand(2, 3, 4)], r"\[\(2, 3, 4\)\] were given"),
    ],
)
def test_regions_that_do_not_fit_are_refused(regions, words):
    with pytest.raises(ValueError, match=words):
        any_detector("faster_rcnn", "greedy").observe([random_input()], places_of=regions)


def test_a_dense_detector_has_no_regions():
    with pytest.raises(ValueError, match="a dense detector predicts at locations and has no regions"):
        tiny_fcos().observe([random_input()], places_of=[REGIONS])
