"""Key predictions and top-down attention: equations (3) and (4) by hand, and one pass against a pass a prediction."""

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from helpers import DEVICES, make_trace
from odam_d2.distill import select_key_predictions
from odam_d2.modeling.positives import Positives
from odam_d2.structures import Trace
from odam_d2.teaching.focus import attention_maps, key_focus, objects_of
from odam_d2.teaching.training_pass import run_training_pass
from teaching.conftest import KINDS, OBJECTS, with_objects

BOXES = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0]])


class LinearObservation:
    """Two cells on p3 and one on p4; confidences are linear in them, so that gradients are the given numbers."""

    def __init__(self, fine, coarse, weights, boxes):
        self.features = {"p3": torch.tensor(fine).reshape(1, 1, 1, 2), "p4": torch.tensor(coarse).reshape(1, 1, 1, 1)}
        self.features = {name: maps.requires_grad_() for name, maps in self.features.items()}
        self.weights, self.boxes = weights, torch.tensor(boxes)

    def trace(self, image, places, classes):
        maps = [self.features[name].flatten() for name in ("p3", "p3", "p4")]
        own = [(torch.tensor(weights) * values).sum() for weights, values in zip(self.weights, maps)]
        confidence = torch.stack([own[place] for place in places.tolist()]) if len(places) else torch.zeros(0)
        return Trace(
            places=places,
            classes=classes,
            boxes=self.boxes[places],
            logits=confidence[:, None],
            class_vectors=confidence[:, None],
            features=self.features,
            strides={"p3": 8, "p4": 16},
            levels=[("p3", "p3", "p4")[place] for place in places.tolist()],
            layers=("fpn",),
            image_size=(8, 16),
            padded_size=(8, 16),
            output_size=(8, 16),
        )


def assigned(*places):
    places = torch.tensor(places, dtype=torch.int64)
    return Positives(places, torch.zeros_like(places), BOXES[torch.tensor([0, 0, 1])[places]])


def networks():
    """Places 0 and 1 belong to the first object, 2 to the second.

    The teacher's boxes 0 and 2 are right. Box 1 is wrong in both, and the student is sure of it.
    """
    good, bad, second = [0.0, 0.0, 10.0, 9.0], [5.0, 5.0, 15.0, 15.0], [20.0, 0.0, 30.0, 9.0]
    teacher = LinearObservation([1.0, 2.0], [4.0], [[0.2, 0.1], [0.0, 0.3], [0.2]], [good, bad, second])
    student = LinearObservation([2.0, 1.0], [3.0], [[0.3, 0.0], [0.1, 0.2], [0.1]], [good, bad, second])
    return teacher, student


@pytest.mark.parametrize(
    ("attention", "teacher_maps", "student_maps"),
    [
        # Confidences: teacher .4 .6 | .8, student .6 .4 | .3; weights .2 .2 | .5. Teacher's weighted gradients on p3:
        # .2 (.2, .1) + .2 (0, .3) = (.04, .08), times (1, 2); student's .2 (.3, 0) + .2 (.1, .2) = (.08, .04), times
        # (2, 1). On p4 .5 x .2 x 4 and .5 x .1 x 3.
        ("odam", ([0.04, 0.16], [0.4]), ([0.16, 0.04], [0.15])),
        # Means of the gradients over p3: .06 for both.
        ("gradcam", ([0.06, 0.12], [0.4]), ([0.12, 0.06], [0.15])),
    ],
)
def test_attention_by_hand(attention, teacher_maps, student_maps):
    focus = key_focus(*networks(), [assigned(0, 1, 2)], [BOXES], ("p3", "p4"), attention)
    assert [own.focused[0].tolist() for own in focus] == [[0], [1]]
    for own, teacher, student in zip(focus, teacher_maps, student_maps):
        assert own.teacher_attention.flatten().tolist() == pytest.approx(teacher)
        assert own.student_attention.flatten().tolist() == pytest.approx(student)
        assert not own.teacher_attention.requires_grad and not own.student_attention.requires_grad


def test_bottom_up_attention_needs_no_maps():
    focus = key_focus(*networks(), [assigned(0, 2)], [BOXES], ("p3", "p4"), "bottom_up")
    assert [own.focused[0].tolist() for own in focus] == [[0], [1]]
    assert all(own.teacher_attention is None and own.student_attention is None for own in focus)


def test_without_key_predictions_maps_are_zero_and_nothing_is_focused():
    for places, boxes in (((), BOXES), ((), BOXES[:0]), ((2,), BOXES)):
        focus = key_focus(*networks(), [assigned(*places)], [boxes], ("p3", "p4"))
        assert focus[0].focused[0].tolist() == [] and focus[0].focused[0].dtype == torch.int64
        assert torch.equal(focus[0].teacher_attention, torch.zeros(1, 1, 2))
        assert torch.equal(focus[0].student_attention, torch.zeros(1, 1, 2))
    assert focus[1].teacher_attention.item() == pytest.approx(0.4)


def test_what_speaks_against_a_prediction_is_cut_off():
    features = torch.tensor([[1.0, 2.0], [3.0, -1.0]]).reshape(1, 2, 1, 2).requires_grad_()
    # Gradients 1, -2 of the first channel and -1, 2 of the second: products 1, -4 and -3, -2.
    output = (features * torch.tensor([[1.0, -2.0], [-1.0, 2.0]]).reshape(1, 2, 1, 2)).sum()[None]
    trace = make_trace(features, {"class_score": output}, torch.zeros(1, 4))
    assert attention_maps([trace], [output], "p3").tolist() == [[[0.0, 0.0]]]
    assert attention_maps([trace], [-output], "p3").tolist() == [[[2.0, 6.0]]]
    with pytest.raises(ValueError, match="no autograd graph"):
        attention_maps([trace], [output.detach()], "p3")


def test_of_equal_objects_the_first_is_meant():
    boxes = torch.cat([BOXES[:1], BOXES[:1], BOXES[1:]])
    assert objects_of(assigned(0, 2, 1), boxes).tolist() == [0, 2, 0]
    assert objects_of(assigned(), boxes[:0]).tolist() == []


def one_at_a_time(traces, found, boxes, level):
    """Equations (3) and (4) of one image: a backward pass for each key prediction, and a sum over channels."""
    outputs = [[trace.class_vectors[row, label] for row, label in enumerate(found.classes)] for trace in traces]
    sure = torch.tensor([value.item() for value in outputs[1]])
    predicted = (trace.boxes.detach() for trace in traces)
    keys = select_key_predictions(objects_of(found, boxes), *predicted, sure, boxes)
    maps = []
    for own, trace in zip(outputs, traces):
        source, image = trace.source(level)
        total = torch.zeros_like(source[image])
        for row in keys.places.tolist():
            if trace.levels[row] == level:
                weight = abs(outputs[0][row].item() - outputs[1][row].item())
                total += weight * torch.autograd.grad(own[row], source, retain_graph=True)[0][image]
        maps.append((total * source[image].detach()).sum(dim=0).relu())
    return maps


@pytest.mark.parametrize("kind", KINDS)
def test_one_pass_a_level_equals_one_a_prediction(kind, make_student):
    model = make_student(kind)
    inputs = [with_objects(OBJECTS), with_objects([], seed=1), with_objects(OBJECTS[1:], seed=2, size=(90, 120))]
    with EventStorage():
        done = run_training_pass(model.student, inputs)
    student, positives = done.observe()
    teacher = model.teacher.observe(inputs, places_of=student)
    focus = key_focus(teacher, student, positives, done.boxes, model.levels.names)
    explained = 0
    for level, own in zip(model.levels.names, focus):
        for image, (found, boxes) in enumerate(zip(positives, done.boxes)):
            traces = [seen.trace(image, found.places, found.classes) for seen in (teacher, student)]
            expected = one_at_a_time(traces, found, boxes, level)
            for maps, one in zip((own.teacher_attention, own.student_attention), expected):
                assert torch.allclose(maps[image], one, rtol=1e-3, atol=1e-5 * float(one.max()) + 1e-9)
                explained += int(one.max() > 0)
        assert own.teacher_attention[1].max() == 0 and own.focused[1].tolist() == []
    assert explained >= 4
    assert all(p.grad is None for p in model.student.parameters())


@pytest.mark.parametrize("device", DEVICES)
def test_attention_in_half_precision_does_not_vanish(device):
    # A gradient of 2^-30 times a weight is nothing in float16, whose smallest number is 2^-24; the scale lifts 2^-20
    # times 2^-8, which would be as little.
    features = torch.full((1, 1, 1, 1), 64.0, dtype=torch.float16, device=device).requires_grad_()
    half = features * torch.tensor(2.0**-20, dtype=torch.float16, device=device)
    output = 2.0**-8 * half.flatten().float()
    trace = make_trace(features, {"class_score": output}, torch.zeros(1, 4, device=device))
    found = attention_maps([trace], [output], "p3")
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(64 * 2.0**-28)


def test_equations_hold_in_double_precision(make_student):
    """The derivative of the summed confidence along the maps themselves is the sum of the map before its ReLU."""
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 2, 3, padding=1).double()
    features = torch.rand(1, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    output = conv(features).sigmoid().flatten()[:6]
    trace = make_trace(features, {"class_score": output}, torch.zeros(6, 4, dtype=torch.float64))
    weights = torch.rand(6, dtype=torch.float64)
    # Signed maps: the map of the sum less the map of its negative.
    signed = attention_maps([trace], [weights * output], "p3") - attention_maps([trace], [-weights * output], "p3")
    step = 1e-6
    with torch.no_grad():
        moved = [(weights * conv((1 + s) * features).sigmoid().flatten()[:6]).sum() for s in (step, -step)]
    assert signed.sum().item() == pytest.approx(float(moved[0] - moved[1]) / (2 * step), rel=1e-6)
