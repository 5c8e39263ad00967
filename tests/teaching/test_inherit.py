"""What a student takes over from its teacher, and what the log says of it."""

import logging

import torch
from detectron2.modeling import build_model

from helpers import small_cfg
from odam_d2.teaching import inherit
from teaching.conftest import CLASSES


def detectors(*opts, kind="fcos", other=None):
    for seed, more in ((0, ()), (1, opts)):
        torch.manual_seed(seed)
        yield build_model(small_cfg(other if seed and other else kind, [*CLASSES, *more]))


def test_everything_but_the_bottom_up_network_is_taken_over(caplog):
    student, teacher = detectors()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    with caplog.at_level(logging.INFO, "odam_d2"):
        taken, left = inherit(student, teacher)
    assert left == [] and "head.cls_score.weight" in taken and "backbone.fpn_lateral3.weight" in taken
    theirs = teacher.state_dict()
    assert set(taken) == {name for name in theirs if not name.startswith("backbone.bottom_up.")}
    for name, value in student.state_dict().items():
        assert torch.equal(value, theirs[name] if name in taken else before[name]), name
    count = len(taken)
    assert f"inherits {count} of the teacher's {count} tensors" in caplog.text and "Not inherited" not in caplog.text


def test_other_shapes_and_names_stay_and_are_said(caplog):
    student, teacher = detectors("MODEL.FCOS.NUM_CLASSES", 5, "MODEL.FCOS.NUM_CONVS", 2)
    own = student.head.cls_score.weight.clone()
    taken, left = inherit(student, teacher)
    assert "head.cls_score.weight" in left and "head.cls_subnet.2.weight" in left and "head.ctrness.bias" in taken
    assert torch.equal(student.head.cls_score.weight, own)
    assert "head.cls_score.weight ((5, 32, 3, 3), the student's is (3, 32, 3, 3))" in caplog.text
    assert "head.cls_subnet.2.weight (the student has none)" in caplog.text


def test_a_wider_teacher_leaves_almost_nothing():
    student, teacher = detectors("MODEL.FPN.OUT_CHANNELS", 48)
    taken, left = inherit(student, teacher)
    # What has the classes' or the boxes' number of values whatever the width.
    assert {name for name in taken if not name.endswith("bias")} <= {f"head.scales.{n}.scale" for n in range(5)}
    assert "backbone.fpn_output3.weight" in left
