"""The same detections asked again, and weights that lose what they learned and get it back."""

import pytest
import torch

from explain.masks.test_proposals import KINDS, detector
from helpers import random_input
from odam_d2.evaluation.study.randomization import cascade
from odam_d2.explain import GradientExplainer
from odam_d2.modeling.layer_groups import PREDICTORS, PYRAMID, TOWER


@pytest.mark.parametrize("kind", KINDS)
def test_groups_go_from_the_predictors_down_to_the_stem_and_hold_what_a_detection_depends_on(kind):
    model = detector(kind)
    groups = model.layer_groups()
    names = list(groups)
    assert names[:3] == [PREDICTORS, TOWER, PYRAMID] and names[3].startswith("blocks.") and names[-1] == "conv_stem"
    grouped = [id(p) for parameters in groups.values() for p in parameters]
    expected = [id(p) for name, p in model.named_parameters() if not name.startswith("proposal_generator")]
    assert sorted(grouped) == sorted(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_detection_keeps_its_place_while_the_weights_change(kind):
    model, batch = detector(kind), random_input(100, 150)
    explainer = GradientExplainer("odam")
    observation = model.observe([batch])
    (found,) = observation.detections()
    before = observation.trace_detections(0, found)
    first = explainer(before).maps
    again = model.observe([batch], places_of=observation).trace(0, before.places, before.classes)
    assert torch.allclose(explainer(again).maps, first, atol=1e-6 * float(first.max()))
    with cascade(model) as groups:
        next(groups)
        randomised = model.observe([batch], places_of=observation)
        after = randomised.trace(0, before.places, before.classes)
    assert len(before) == len(after) > 0
    assert torch.equal(before.places, after.places) and torch.equal(before.classes, after.classes)
    assert before.levels == after.levels
    if kind == "faster_rcnn":
        assert torch.equal(before.regions.boxes, after.regions.boxes)
    assert not torch.allclose(before.logits, after.logits)
    with pytest.raises(ValueError, match="places|regions"):
        model.observe([random_input(300, 300)], places_of=detector(other_kind(kind)).observe([batch]))


def other_kind(kind):
    """A detector whose places are others."""
    return {"fcos": "retinanet", "retinanet": "fcos", "faster_rcnn": "fcos"}[kind]


@pytest.mark.parametrize("fails", [False, True])
def test_every_group_is_shuffled_in_turn_and_all_weights_come_back(fails):
    model = detector("fcos")
    learned = {name: value.clone() for name, value in model.state_dict().items()}
    groups = model.layer_groups()
    seen = []
    try:
        with cascade(model, seed=3) as steps:
            for name in steps:
                seen.append(name)
                changed = {n for n, p in model.named_parameters() if not torch.equal(p, learned[n])}
                reached = {id(p) for group in seen for p in groups[group]}
                assert changed and all(id(p) in reached for n, p in model.named_parameters() if n in changed)
                if fails and len(seen) == 2:
                    raise KeyboardInterrupt
            for name, parameter in model.named_parameters():
                # The same values in another order.
                assert torch.equal(parameter.flatten().sort().values, learned[name].flatten().sort().values)
    except KeyboardInterrupt:
        assert fails
    assert seen == list(groups)[: 2 if fails else None]
    assert all(torch.equal(value, learned[name]) for name, value in model.state_dict().items())
