"""What can be explained: any class of a prediction, any function of a trace, and how each is named."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from helpers import index_in_level, make_trace, random_input, small_cfg, tiny_fcos, traces_of
from odam_d2.explain import (
    GRADIENT_METHODS,
    GradientExplainer,
    check_method_targets,
    check_targets,
    explain,
    name_targets,
    resolve_target,
    target_name,
    target_output,
)
from odam_d2.explain.targets import ClassTarget

NAMES = ["cat", "dog", "traffic light"]
# Two cells, and for each of two predictions what the three classes make of them.
FEATURE = torch.tensor([[[[2.0, -1.0]]]])
WEIGHTS = torch.tensor([[[1.0, 1.0], [0.0, -3.0], [0.5, 0.0]], [[-1.0, 0.0], [4.0, 1.0], [0.0, -0.5]]])


def class_trace(classes=(0, 2)):
    """Logits are linear: of prediction d and class k the sum of WEIGHTS[d,k] * FEATURE; probabilities their sigmoid.

    They are [[1, 3, 1], [-2, 7, .5]].
    """
    features = FEATURE.clone().requires_grad_()
    logits = (WEIGHTS * features[0, 0, 0]).sum(dim=2)
    trace = make_trace(features, {}, torch.tensor([[0.0, 0.0, 8.0, 8.0], [8.0, 0.0, 16.0, 8.0]]))
    return replace(trace, classes=torch.tensor(classes), logits=logits, class_vectors=logits.sigmoid())


# ---- classes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        # Weight times feature, negative parts cut off: (1 * 2, 1 * -1) and (-1 * 2, 0 * -1).
        ("class_logit[0]", [[[2.0, 0.0]], [[0.0, 0.0]]]),
        # (0 * 2, -3 * -1) and (4 * 2, 1 * -1).
        ("class_logit[1]", [[[0.0, 3.0]], [[8.0, 0.0]]]),
        # (.5 * 2, 0 * -1) and (0 * 2, -.5 * -1).
        ("class_logit[2]", [[[1.0, 0.0]], [[0.0, 0.5]]]),
    ],
)
def test_the_map_of_a_class_is_its_own_weight_times_the_feature(target, expected):
    assert GradientExplainer()(class_trace(), target).maps.tolist() == expected


def test_the_output_of_a_class_is_that_of_every_prediction():
    trace = class_trace()
    assert target_output(trace, "class_logit[1]").tolist() == [3.0, 7.0]
    # 1 / (1 + e^-3) and 1 / (1 + e^-7).
    assert target_output(trace, "class_score[1]").tolist() == pytest.approx([0.952574, 0.999089], abs=1e-6)
    assert target_output(trace, "class_logit").tolist() == [1.0, 0.5]


def test_the_map_of_a_score_is_that_of_the_logit_times_the_sigmoids_slope():
    # Logits of class 2 are 1 and .5: p (1 - p) is .196612 and .235004.
    maps = GradientExplainer()(class_trace(), "class_score[2]").maps
    assert maps.flatten().tolist() == pytest.approx([0.196612, 0, 0, 0.235004 * 0.5], abs=1e-6)


@pytest.mark.parametrize("output", ["class_score", "class_logit"])
@pytest.mark.parametrize("method", GRADIENT_METHODS)
def test_a_predictions_own_class_asked_by_number_is_the_plain_target(method, output):
    trace, explainer = class_trace(classes=(2, 1)), GradientExplainer(method)
    plain = explainer(trace, output).maps
    assert torch.equal(explainer(trace, f"{output}[2]").maps[0], plain[0])
    assert torch.equal(explainer(trace, f"{output}[1]").maps[1], plain[1])


def test_a_class_that_the_detector_lacks_is_refused_when_it_is_asked_for():
    with pytest.raises(ValueError, match=r"class_score\[3\] asks for class 3, but this detector has 3 classes"):
        target_output(class_trace(), "class_score[3]")


# ---- the same on detectors, from their heads' raw outputs ---------------------------------------------------------


def raw_dense(model, batched_input):
    """Every output of the head, level by level, each (A*V,Hl,Wl); places are numbered (y * Wl + x) * A + a."""
    with torch.no_grad():
        features = model.backbone(model.preprocess_image([batched_input]).tensor)
        return [[level[0] for level in out] for out in model.head([features[n] for n in model.head_in_features])]


def at_place(levels, level, index, values):
    """The V values that an output has at a place of a level."""
    raw = levels[level]
    rows = raw.view(raw.shape[0] // values, values, *raw.shape[1:]).permute(2, 3, 0, 1).reshape(-1, values)
    return rows[index]


def test_fcos_scores_a_class_by_the_root_of_its_probability_times_centerness():
    model, given = tiny_fcos(), random_input()
    ((_, trace),) = traces_of(model, [given])
    logits, _, centerness = raw_dense(model, given)
    places = [(int(name[1:]) - 3, index) for name, index in zip(trace.levels, index_in_level(trace).tolist())]
    assert len({level for level, _ in places}) > 1
    for label in range(3):
        at = [at_place(logits, *place, 3)[label] for place in places]
        center = [at_place(centerness, *place, 1)[0] for place in places]
        expected = torch.stack([torch.sqrt(a.sigmoid() * c.sigmoid()) for a, c in zip(at, center)])
        assert torch.allclose(target_output(trace, f"class_score[{label}]"), expected, atol=1e-6)
        assert torch.allclose(target_output(trace, f"class_logit[{label}]"), torch.stack(at), atol=1e-6)


def built(kind):
    from detectron2.modeling import build_model

    torch.manual_seed(0)
    return build_model(small_cfg(kind)).eval()


def test_retinanet_scores_a_class_by_its_sigmoid():
    model, given = built("retinanet"), random_input()
    ((_, trace),) = traces_of(model, [given])
    logits, _ = raw_dense(model, given)
    assert len(trace) == 5
    for label in (0, 16):
        places = zip(trace.levels, index_in_level(trace).tolist())
        expected = torch.stack([at_place(logits, int(name[1:]) - 3, index, 80)[label] for name, index in places])
        assert torch.allclose(target_output(trace, f"class_logit[{label}]"), expected, atol=1e-6)
        assert torch.allclose(target_output(trace, f"class_score[{label}]"), expected.sigmoid(), atol=1e-6)


def test_faster_rcnn_scores_a_class_by_its_softmax_with_background():
    model = built("faster_rcnn")
    ((_, trace),) = traces_of(model, [random_input()])
    heads = model.roi_heads
    with torch.no_grad():
        raw, _ = heads.box_predictor(heads.box_head(trace.regions.features[-1]))
    assert raw.shape[1] == 81 and len(trace) == 5
    raw = raw[trace.regions.rows]
    for label in (0, 16):
        assert torch.allclose(target_output(trace, f"class_logit[{label}]"), raw[:, label], atol=1e-6)
        assert torch.allclose(target_output(trace, f"class_score[{label}]"), raw.softmax(dim=1)[:, label], atol=1e-6)


# ---- names -------------------------------------------------------------------------------------------------------


def test_a_class_is_found_by_name_or_number_and_then_known_by_its_name():
    dog = ClassTarget("class_score", 1, "dog")
    assert resolve_target("class_score[dog]", NAMES) == resolve_target("class_score[1]", NAMES) == dog
    assert str(dog) == target_name(dog) == "class_score[dog]"
    assert resolve_target("class_logit[traffic light]", NAMES) == ClassTarget("class_logit", 2, "traffic light")
    # Without names a number is all there is; a class called by a number is that class.
    assert resolve_target("class_score[7]") == ClassTarget("class_score", 7, "7")
    assert resolve_target("class_score[7]", ["8", "7"]).index == 1


@pytest.mark.parametrize(
    ("target", "names", "message"),
    [
        ("class_score[dgo]", NAMES, r"'class_score\[dgo\]' names no class.*the closest of its 3 classes are dog$"),
        ("class_score[zzz]", NAMES, "its 3 classes are cat, dog, traffic light$"),
        ("class_score[zzz]", list("abcdefg"), r"its 7 classes are a, b, c, d, e, \.\.\.$"),
        ("class_score[3]", NAMES, r"'class_score\[3\]' names no class"),
        ("class_score[²]", NAMES, "names no class"),
        ("class_logit[dog]", (), "without class names, give its number$"),
        ("class_score[]", NAMES, r"unknown target 'class_score\[\]'"),
        ("x1[dog]", NAMES, r"unknown target 'x1\[dog\]'.*class_score\[class\] and class_logit\[class\] for any class"),
        (
            "score",
            NAMES,
            "unknown target 'score'; valid targets are class_score, class_logit, x1, y1, x2, y2, combined",
        ),
        (7, NAMES, "unknown target 7; valid targets"),
    ],
)
def test_an_unknown_target_or_class_is_refused_in_one_sentence(target, names, message):
    with pytest.raises(ValueError, match=message) as refused:
        resolve_target(target, names)
    assert "\n" not in str(refused.value)


def test_before_the_classes_are_known_any_class_may_be_named():
    check_targets(["class_score[anything]", "x1", lambda trace: trace.scores])
    with pytest.raises(ValueError, match="unknown target 'anything'"):
        check_targets(["class_score[dog]", "anything"])


# ---- functions ---------------------------------------------------------------------------------------------------


def twice_the_logit(trace):
    return 2 * trace.logits.gather(1, trace.classes[:, None])[:, 0]


def test_a_function_is_a_target_with_its_own_name():
    maps = explain(class_trace(), [twice_the_logit, "class_logit"], GradientExplainer())
    assert list(maps) == ["twice_the_logit", "class_logit"]
    assert torch.equal(maps["twice_the_logit"].maps, 2 * maps["class_logit"].maps)
    assert target_name(partial(twice_the_logit)) == "partial"


@pytest.mark.parametrize(
    ("function", "found"),
    [(lambda trace: trace.scores.sum(), r"\(\)"), (lambda trace: trace.logits, r"\(2, 3\)"), (lambda trace: 1, "int")],
)
def test_a_function_must_give_one_scalar_a_prediction(function, found):
    with pytest.raises(ValueError, match=f"the target <lambda> returned {found} for 2 predictions"):
        target_output(class_trace(), function)


class NotHashable:
    """A target that is compared by value."""

    def __eq__(self, other):
        return isinstance(other, NotHashable)

    def __call__(self, trace):
        return trace.scores


def named(name):
    def function(trace):
        return 3 * trace.logits[:, 0]

    function.__name__ = name
    return function


def test_a_target_named_twice_is_one():
    same = NotHashable()
    dog = [resolve_target(f"class_score[{which}]", NAMES) for which in ("dog", "1")]
    assert list(name_targets(["x1", "x1", same, same, *dog])) == ["x1", "NotHashable", "class_score[dog]"]


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([lambda trace: trace.scores, lambda trace: trace.boxes[:, 0]], "two targets are called <lambda>"),
        ([named("area"), named("area")], "two targets are called area; they need different names"),
        # These would take each other's place without a word.
        ([named("combined")], "a function called combined would be taken for the target of this name; rename it"),
        ([named("class_score"), "combined"], "a function called class_score would be taken"),
    ],
)
def test_two_targets_of_one_name_are_refused(targets, message):
    with pytest.raises(ValueError, match=message):
        name_targets(targets)
    with pytest.raises(ValueError, match=message):
        explain(class_trace(), targets, GradientExplainer())


def test_a_method_says_by_name_which_target_it_does_not_have():
    check_method_targets("drise", ["class_score"])
    for target, name in (
        (ClassTarget("class_score", 1, "dog"), r"class_score\[dog\]"),
        (twice_the_logit, "twice_the_logit"),
    ):
        with pytest.raises(ValueError, match=f"its only target is class_score, not '{name}'"):
            check_method_targets("drise", [target])
