"""The teacher's AP is measured once, and a better student gives one warning with both figures."""

import logging
from collections import OrderedDict
from types import SimpleNamespace

import pytest

from odam_d2.teaching import TeacherReport
from odam_d2.teaching.report import box_precisions

TEACHER = OrderedDict(bbox={"AP": 30.0, "AP50": 50.0, "AP-cat": 29.0})


def student(ap):
    return OrderedDict(bbox={"AP": ap, "AP50": 99.0, "AP-cat": 99.0})


def report(results=TEACHER):
    asked = []
    hook = TeacherReport(lambda: asked.append(1) or results)
    hook.trainer = SimpleNamespace()
    return hook, asked


def test_ap_alone_is_compared():
    assert box_precisions(TEACHER) == {"bbox/AP": 30.0}
    several = {"a": {"bbox": {"AP": 1.0}}, "b": {"crowd": {"AP": 2.0, "MR": 3.0}}}
    assert box_precisions(several) == {"a/bbox/AP": 1.0, "b/crowd/AP": 2.0}
    assert box_precisions({}) == {}


def test_a_better_student_is_said_once_with_both_figures(caplog):
    hook, asked = report()
    with caplog.at_level(logging.INFO, "odam_d2"):
        hook.before_train()
        hook.after_step()
        for value in (20.0, 30.0):
            hook.trainer._last_eval_results = student(value)
            hook.after_step()
        assert "The teacher: bbox/AP 30.00" in caplog.text and "worse" not in caplog.text
        for value in (31.5, 33.0):
            hook.trainer._last_eval_results = student(value)
            hook.after_step()
        hook.after_train()
    assert caplog.text.count("The teacher is worse than the student") == 1 and asked == [1]
    assert "bbox/AP 30.00 of the teacher, 31.50 of the student" in caplog.text


def test_a_run_that_goes_on_remembers_the_teacher():
    hook, asked = report()
    assert hook.state_dict() == {}
    hook.before_train()
    other, again = report(OrderedDict())
    other.load_state_dict(hook.state_dict())
    other.before_train()
    assert asked == [1] and again == []
    other.trainer._last_eval_results = student(40.0)
    other.after_train()
    assert other.state_dict() == {"teacher": {"bbox/AP": 30.0}, "warned": True}


def test_without_test_data_nothing_was_measured(caplog):
    hook, _ = report(OrderedDict())
    with caplog.at_level(logging.INFO, "odam_d2"):
        hook.before_train()
    assert "nothing was measured, DATASETS.TEST is empty" in caplog.text


@pytest.mark.parametrize("value", [float("nan"), 29.0])
def test_what_is_no_better_gives_no_warning(value, caplog):
    hook, _ = report()
    hook.before_train()
    hook.trainer._last_eval_results = student(value)
    hook.after_step()
    assert "worse" not in caplog.text
