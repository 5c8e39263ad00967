"""Where energy lies, and which sides are wrong: numbers by hand."""

import math

import numpy as np
import pytest

from odam_d2.evaluation.study.errors.cases import say_side, wrong_sides
from odam_d2.evaluation.study.errors.energy import energy_shares

WHOLE = np.array([0.0, 0, 10, 4])


def test_energy_is_divided_between_object_neighbours_and_background():
    """A map of ones on 4 x 10: the object has columns 0-3, neighbours columns 2-5 and 8, so 4, 3 and 3 columns."""
    others = [np.array([2.0, 0, 6, 4]), np.array([8.0, 0, 9, 4])]
    found = energy_shares(np.ones((4, 10)), np.array([0.0, 0, 4, 4]), others, np.array([0.0, 0, 5, 4]))
    assert found == pytest.approx((0.4, 0.3, 0.3, 0, 0.5)) and found.looks_at == "object"


def test_the_nearest_neighbour_is_the_one_with_most_energy_beside_the_object():
    heat = np.zeros((4, 10))
    heat[0, 3], heat[0, 5], heat[0, 8] = 9, 1, 2
    others = [np.array([2.0, 0, 6, 4]), np.array([8.0, 0, 9, 4])]
    found = energy_shares(heat, np.array([0.0, 0, 4, 4]), others, WHOLE)
    # The first neighbour covers 10 of the energy, but 9 of it is the object's.
    assert found == pytest.approx((9 / 12, 3 / 12, 0, 1, 1))


def test_masks_and_boxes_may_be_mixed():
    mask = np.zeros((4, 10), bool)
    mask[0, :5] = True
    found = energy_shares(np.ones((4, 10)), mask, [np.array([0.0, 0, 10, 2])], WHOLE)
    assert found[:3] == pytest.approx((5 / 40, 15 / 40, 20 / 40)) and found.looks_at == "background"


def test_without_an_object_and_without_neighbours_all_is_background():
    found = energy_shares(np.ones((4, 10)), None, [], np.array([0.0, 0, 1, 1]))
    assert found == (0, 0, 1, -1, 1 / 40) and found.looks_at == "background"


def test_a_zero_map_looks_at_nothing():
    found = energy_shares(np.zeros((4, 10)), WHOLE, [], WHOLE)
    assert math.isnan(found.object) and found.nearest == -1 and found.looks_at == "nothing"


def test_parts_add_up_whatever_the_map():
    rng = np.random.default_rng(0)
    for _ in range(20):
        corner = rng.uniform(0, 20, (5, 2))
        boxes = np.hstack([corner, corner + rng.uniform(1, 15, (5, 2))])
        found = energy_shares(rng.random((30, 30)), boxes[0], list(boxes[1:4]), boxes[4])
        assert sum(found[:3]) == pytest.approx(1) and min(found[:3]) >= 0


def test_wrong_sides_by_hand():
    """An object of 20 x 10: left 4 too far out (.2), top 2 too far in (-.2), right .5 (.025), bottom 9 (.9)."""
    box, target = np.array([6.0, 12, 30.5, 29]), np.array([10.0, 10, 30, 20])
    assert wrong_sides(box, target, 0.1) == [
        ("y2", pytest.approx(0.9)),
        ("x1", pytest.approx(0.2)),
        ("y1", pytest.approx(-0.2)),
    ]
    assert wrong_sides(target, target, 0.0) == []


def test_a_box_with_too_small_an_iou_always_has_a_wrong_side():
    """The least IoU with four sides a tenth off, all inwards, is .8 * .8, more than a half; outwards 1 / 1.2^2."""
    target = np.array([0.0, 0, 100, 50])
    for by in (0.099, -0.099):
        box = target + by * np.array([-100, -50, 100, 50])
        assert wrong_sides(box, target, 0.1) == []
        inner, outer = (target, box) if by > 0 else (box, target)
        area = lambda b: (b[2] - b[0]) * (b[3] - b[1])  # noqa: E731
        assert area(inner) / area(outer) > 0.5


def test_sides_in_words():
    assert say_side("x2", 0.4) == "right side, 40% of the object's width too far out"
    assert say_side("y1", -0.25) == "top side, 25% of the object's height too far in"
