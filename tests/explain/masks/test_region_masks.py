"""BBAM of real two-stage detectors: whom it asks, what it leaves alone, what it refuses."""

import pytest
import torch

from helpers import DEVICES, make_trace, random_input, random_photo, small_cfg, tiny_fcos
from modeling.test_nms_in_detectors import any_detector
from odam_d2.explain import (
    BBAM,
    METHODS,
    BBAMExplainer,
    ExplainSettings,
    check_method_targets,
    explain,
    make_explainer,
)
from odam_d2.explain.masks.bbam import enlarge_mask, initial_mask, mask_stride
from odam_d2.predictor import ODAMPredictor

TWO_STAGES = ("faster_rcnn", "cascade", "c4")


def explainer_of(model, steps=2, progress=None, **options):
    return make_explainer(ExplainSettings("bbam", bbam_steps=steps, **options), model, progress)


def trace_of_some(model, places=(3, 7, 3), classes=(0, 2, 1)):
    return model.observe([random_input()]).trace(0, torch.tensor(places).long(), torch.tensor(classes).long())


@pytest.mark.parametrize("kind", TWO_STAGES)
def test_the_unmasked_image_says_what_the_trace_says_and_a_masked_one_does_not(kind):
    model = any_detector(kind, "greedy")
    trace, explainer = trace_of_some(model), explainer_of(model)
    for row in range(3):
        ask = explainer._ask(trace, row)
        answer = ask(trace.pixels)
        assert float(answer.probability.detach()) == pytest.approx(float(trace.scores[row].detach()), rel=1e-4)
        assert torch.allclose(answer.box, trace.boxes[row], atol=1e-2)
        assert ask(trace.pixels * 0).probability != answer.probability


@pytest.mark.parametrize("kind", TWO_STAGES)
def test_each_detection_has_a_mask_of_its_own_grid_and_the_detector_is_left_as_found(kind):
    model = any_detector(kind, "greedy")
    model.train()
    before = {name: (weights.clone(), weights.requires_grad) for name, weights in model.named_parameters()}
    trace, told = trace_of_some(model), []
    maps = explainer_of(model, 2, lambda *now: told.append(now))(trace, "combined")
    assert told == [(done, 6) for done in range(1, 7)]
    assert len(maps) == 3 and maps.output_size == (100, 150) and maps.to_image().shape == (3, 100, 150)
    for row, grid in enumerate(maps.grids):
        stride = mask_stride(trace.boxes[row], (100, 150))
        assert grid.rows.tolist() == [row] and grid.stride == stride
        # Two steps of .02 from the first mask, in which a cell only moves inwards of [0,1].
        first = initial_mask(torch.stack([trace.regions.boxes[row], trace.boxes[row]]), (100, 150), stride)
        assert grid.maps[0].shape == first.shape and 0 < (grid.maps[0] - first).abs().max() <= 0.0401
        # What people see is what the detector saw.
        shown = enlarge_mask(grid.maps[0], (100, 150), stride)
        assert torch.allclose(maps.to_image(rows=[row])[0], shown, atol=1e-5)
    assert model.training and all(weights.grad is None for weights in model.parameters())
    for name, weights in model.named_parameters():
        assert torch.equal(weights, before[name][0]) and weights.requires_grad == before[name][1]


def test_a_lower_loss_than_at_the_beginning():
    model = any_detector("faster_rcnn", "greedy")
    trace = trace_of_some(model, (3,), (0,))
    explainer = explainer_of(model, 30)
    (grid,) = explainer(trace, "combined").grids
    region, pixels = trace.regions.boxes[0], trace.pixels
    ask, outside = explainer._ask(trace, 0), model.pixel_mean

    @torch.no_grad()
    def loss(mask):
        shown = enlarge_mask(mask, (100, 150), grid.stride)
        after = ask(shown * pixels + (1 - shown) * outside)
        return float(explainer.bbam.loss(mask, ask(pixels), after, region, "combined"))

    first = initial_mask(torch.stack([region, trace.boxes[0]]), (100, 150), grid.stride)
    assert loss(grid.maps[0]) < loss(first)


def test_what_is_hidden_can_be_a_blurred_image_instead_of_a_constant():
    model = any_detector("faster_rcnn", "greedy")
    trace = trace_of_some(model, (3,), (0,))
    constant, blurred = (explainer_of(model, 3, bbam_outside=name)(trace).grids[0].maps for name in ("mean", "blurred"))
    assert constant.shape == blurred.shape and not torch.equal(constant, blurred)


def test_no_detection_has_no_map():
    model = any_detector("faster_rcnn", "greedy")
    maps = explainer_of(model)(trace_of_some(model, (), ()), "combined")
    assert len(maps) == 0 and maps.to_image().shape == (0, 100, 150)


@pytest.mark.parametrize("name", ["soft", "odam"])
def test_the_detectors_nms_has_no_part_in_it(name):
    plain, other = (explainer_of(model)(trace_of_some(model)) for model in map_detectors("faster_rcnn", name))
    for own, theirs in zip(plain.grids, other.grids):
        assert torch.allclose(own.maps, theirs.maps, atol=1e-4)


def map_detectors(kind, name):
    return any_detector(kind, "greedy"), any_detector(kind, name)


@pytest.mark.parametrize("device", DEVICES)
def test_both_heads_together_are_one_optimisation(device):
    """Elsewhere ``combined`` is the maximum of five maps."""
    model = any_detector("faster_rcnn", "greedy").to(device)
    trace, told = trace_of_some(model, (3,), (0,)) if device == "cpu" else None, []
    if trace is None:
        ask = torch.tensor([3], device=device), torch.tensor([0], device=device)
        trace = model.observe([random_input()]).trace(0, *ask)
    explainer = explainer_of(model, 2, lambda *now: told.append(now))
    found = explain(trace, ["combined", "class_score"], explainer)
    assert list(found) == ["combined", "class_score"] and len(told) == 4
    assert torch.equal(found["combined"].maps, explainer(trace, "combined").maps)


# ---- Refusals


def test_a_dense_detector_is_refused_before_it_runs():
    with pytest.raises(ValueError, match="published for two-stage detectors, and ODAMFCOS pools none; use ODAMRCNN"):
        explainer_of(tiny_fcos())
    with pytest.raises(ValueError, match="and Linear pools none"):
        explainer_of(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="bbam asks the detector about masked images; it needs the detector"):
        make_explainer(ExplainSettings("bbam"))


@pytest.mark.parametrize("target", ["class_logit", "class_score[2]", lambda trace: trace.scores])
def test_other_targets_are_refused(target):
    explainer = explainer_of(any_detector("faster_rcnn", "greedy"))
    with pytest.raises(ValueError, match=r"bbam has no target '.*'; its targets are combined, class_score, x1, y1, x2"):
        explainer.check([target])
    check_method_targets("bbam", METHODS["bbam"].targets)


def test_traces_without_regions_or_pixels_are_refused():
    explainer = explainer_of(any_detector("faster_rcnn", "greedy"))
    trace = make_trace(torch.ones(1, 1, 4, 4), {}, torch.tensor([[0.0, 0.0, 9.0, 9.0]]))
    with pytest.raises(ValueError, match="bbam needs the trace's pixels"):
        explainer(trace)
    with pytest.raises(ValueError, match="bbam needs the trace's regions"):
        explainer(tiny_fcos().observe([random_input()]).trace(0, torch.tensor([0]), torch.tensor([0])))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bbam_steps": 0}, "bbam_steps is 0; at least 1"),
        ({"bbam_outside": "black"}, "unknown bbam_outside 'black'; valid values are mean, blurred"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ExplainSettings(**options)


# ---- The predictor


def test_the_config_governs_the_predictor(quick_weights):
    opts = ["ODAM.EXPLAIN.METHOD", "bbam", "ODAM.EXPLAIN.BBAM_STEPS", 2, "ODAM.EXPLAIN.BBAM_OUTSIDE", "blurred"]
    predictor = ODAMPredictor(small_cfg("faster_rcnn", ["MODEL.WEIGHTS", quick_weights("faster_rcnn"), *opts]))
    explanation = predictor.explain(random_photo(75, 133), ["combined", "x1"], instances=[0])
    assert explanation.settings.describe() == {"method": "bbam", "steps": 2, "outside": "blurred"}
    explainer = predictor.make_explainer()
    assert isinstance(explainer, BBAMExplainer) and explainer.bbam == BBAM(2)
    assert explanation.meanings == {
        "combined": "the least that keeps class and box",
        "x1": "the least that keeps the left side",
    }
    for maps in explanation.maps.values():
        assert maps.shape == (1, 75, 133) and maps.min() >= 0 and maps.max() == 1
    assert explanation.show().shape[2] == 3
    with pytest.raises(ValueError, match="bbam runs the whole detector: it has no layers"):
        predictor.explain(random_photo(75, 133), "combined", layer="res4")
