"""The same detections asked again, and weights that lose what they learned and get it back."""

import pytest
import torch

from helpers import random_input
from modeling.test_proposals import KINDS, detector
from odam_d2.explain import GradientExplainer
from odam_d2.modeling.replay import PREDICTORS, PYRAMID, TOWER, cascade, layer_groups, same_detections


@pytest.mark.parametrize("kind", KINDS)
def test_groups_go_from_the_predictors_down_to_the_stem_and_hold_what_a_detection_depends_on(kind):
    model = detector(kind)
    groups = layer_groups(model)
    names = list(groups)
    assert names[:3] == [PREDICTORS, TOWER, PYRAMID] and names[3].startswith("blocks.") and names[-1] == "conv_stem"
    grouped = [id(p) for parameters in groups.values() for p in parameters]
    expected = [id(p) for name, p in model.named_parameters() if not name.startswith("proposal_generator")]
    assert sorted(grouped) == sorted(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_detection_keeps_its_place_while_the_weights_change(kind):
    model, batch = detector(kind), random_input(100, 150)
    explainer = GradientExplainer("odam")
    with same_detections(model):
        _, before = model.trace(batch)
        first = explainer(before).maps
        _, again = model.trace(batch)
        assert torch.allclose(explainer(again).maps, first, atol=1e-6 * float(first.max()))
        with cascade(model) as groups:
            next(groups)
            _, after = model.trace(batch)
    assert len(before) == len(after) > 0
    assert torch.equal(before.boxes, after.boxes) and torch.equal(before.index, after.index)
    assert torch.equal(before.classes, after.classes) and before.levels == after.levels
    assert not torch.allclose(before.outputs["class_logit"], after.outputs["class_logit"])
    # Outside the block the model detects again.
    _, fresh = model.trace(random_input(100, 150, seed=1))
    assert not torch.equal(fresh.boxes, before.boxes)


@pytest.mark.parametrize("fails", [False, True])
def test_every_group_is_shuffled_in_turn_and_all_weights_come_back(fails):
    model = detector("fcos")
    learned = {name: value.clone() for name, value in model.state_dict().items()}
    groups = layer_groups(model)
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
