"""The attention of one image, as pictures show it, is what the loss has."""

import pytest
import torch
from detectron2.utils.events import EventStorage

from odam_d2.distill.odam_kd import top_down_attention
from odam_d2.distill.terms import spatial_attention
from odam_d2.teaching import image_attention, key_focus
from odam_d2.teaching.training_pass import run_training_pass
from teaching.conftest import KINDS, OBJECTS, with_objects


def certain(model):
    """Confidences of random networks hardly move, and top-down attention with them: here they do."""
    for detector in (model.student, model.teacher.detector):
        detector.head.cls_score.weight.data *= 100
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_equations_5_and_6(kind, make_student):
    model = make_student(kind)
    student = model.student.eval()
    given = with_objects(OBJECTS)
    found = image_attention(student, model.teacher, model.levels, given, given["instances"], 0.8)
    assert list(found.maps) == ["M_bu", "M_td", "M_att"] and found.output_size == (100, 150)
    features = model.teacher.feature_maps([given], model.levels.names)
    for level, maps in enumerate(features):
        bottom_up, top_down, both = (found.maps[name][level] for name in found.maps)
        assert torch.allclose(bottom_up, spatial_attention(maps, 0.8)[0], atol=1e-5)
        assert bottom_up.mean().item() == pytest.approx(1, abs=1e-4)
        assert top_down.mean().item() == pytest.approx(1, abs=1e-4)
        assert torch.equal(both, bottom_up * top_down)
        if not len(found.focused[level]):
            assert torch.allclose(top_down, torch.ones_like(top_down))
    focused = {number for own in found.focused for number in own.tolist()}
    assert focused and focused <= {0, 1, 2}


@pytest.mark.parametrize("kind", ["retinanet", "fcos"])
def test_pictures_show_what_a_training_step_uses(kind, make_student):
    """Dense detectors have the same places in training; their pictures are of the same key predictions."""
    model = certain(make_student(kind))
    inputs = [with_objects(OBJECTS)]
    with EventStorage():
        done = run_training_pass(model.student, inputs)
    own, positives = done.observe()
    seen = model.teacher.observe(inputs, places_of=own)
    stressed = 0
    expected = key_focus(seen, own, positives, done.boxes, model.levels.names)
    given = inputs[0], inputs[0]["instances"]
    found = image_attention(model.student.eval(), model.teacher, model.levels, *given, 0.5)
    for level, focus in enumerate(expected):
        assert torch.equal(found.focused[level], focus.focused[0])
        both = top_down_attention(focus.teacher_attention, focus.student_attention)[0]
        assert torch.allclose(found.maps["M_td"][level], both, rtol=1e-3)
        stressed += int(both.max() > 1.01)
    assert stressed


def test_gradcam_gives_other_maps_of_the_same_predictions(make_student):
    model = certain(make_student("retinanet"))
    given = with_objects(OBJECTS)
    parts = model.student.eval(), model.teacher, model.levels, given, given["instances"], 0.5
    odam, gradcam = (image_attention(*parts, name) for name in ("odam", "gradcam"))
    for level, own in enumerate(odam.focused):
        assert torch.equal(own, gradcam.focused[level])
        assert torch.equal(odam.maps["M_bu"][level], gradcam.maps["M_bu"][level])
        if len(own):
            assert not torch.allclose(odam.maps["M_td"][level], gradcam.maps["M_td"][level], rtol=0.01)


def test_maps_are_registered_to_the_image_and_constant_ones_show_nothing(make_student):
    model = make_student("fcos")
    given = with_objects([])
    given |= {"height": 50, "width": 75}
    found = image_attention(model.student.eval(), model.teacher, model.levels, given, given["instances"], 0.5)
    assert [own.tolist() for own in found.focused] == [[]] * 5
    pictures = found.heat_maps("M_td").to_picture()
    assert pictures.shape == (5, 50, 75) and pictures.max() < 1e-5
    pictures = found.heat_maps("M_bu").to_picture()
    assert pictures.amax(dim=(1, 2)).tolist() == pytest.approx([1.0] * 5, abs=1e-5)
