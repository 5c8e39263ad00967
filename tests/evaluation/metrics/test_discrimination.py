"""Object discrimination index: cases worked out by hand, identities, and a plain loop over pixels."""

import math

import numpy as np
import pytest

from odam_d2.evaluation.metrics.discrimination import odi, summarize_odi

# One row of four pixels.
MAP = np.array([[1.0, 2.0, 3.0, 4.0]])


def masks_of(*columns):
    """One mask for each list of columns of the row."""
    return np.array([[[j in chosen for j in range(4)]] for chosen in columns])


def random_case(seed):
    """Map (9,13), a target box, up to four other boxes and as many masks, of which the first is the target's."""
    generator = np.random.default_rng(seed)
    count = generator.integers(1, 5)
    corners = generator.uniform([-3, -3], [12, 8], (count + 1, 2))
    boxes = np.concatenate([corners, corners + generator.uniform(0.5, 9, (count + 1, 2))], axis=1)
    return generator.random((9, 13)), boxes, generator.random((count + 1, 9, 13)) < 0.2


def test_the_index_is_the_share_of_object_energy_on_other_objects():
    # Target: pixels 0 and 1; other: pixel 2; pixel 3 is background. 3 / (1 + 2 + 3).
    assert odi(MAP, [0, 0, 2, 1], [[2, 0, 3, 1]]) == 3 / 6
    target, other = masks_of([0, 1], [2])
    assert odi(MAP, target, [other]) == 3 / 6


def test_where_objects_overlap_energy_counts_as_leak():
    # Pixel 1 is shared: (2 + 3) / (1 + 2 + 3).
    assert odi(MAP, [0, 0, 2, 1], [[1, 0, 3, 1]]) == 5 / 6
    # All of the target lies under the other object.
    assert odi(MAP, [0, 0, 2, 1], [[0, 0, 4, 1]]) == 1


def test_other_objects_that_overlap_count_once():
    # Others cover pixels 1, 2 and 3: 9 / 10.
    assert odi(MAP, [0, 0, 1, 1], [[1, 0, 3, 1], [2, 0, 4, 1]]) == 9 / 10
    target, *others = masks_of([0], [1, 2], [2, 3])
    assert odi(MAP, target, others) == odi(MAP, target, np.array(others)) == 9 / 10


def test_boxes_are_rounded_outward_and_clipped():
    # Target: pixels 0 and 1; other: pixels 2 and 3, over the border. 7 / 10.
    assert odi(MAP, [-5, -5, 1.1, 0.2], [[2.9, 0.4, 77, 9]]) == 7 / 10
    # Outside the image there is no energy.
    assert odi(MAP, [0, 0, 1, 1], [[-9, 0, -2, 1], [6, 0, 9, 1]]) == 0


def test_the_only_object_of_an_image_gets_zero():
    assert odi(MAP, [0, 0, 1, 1], np.zeros((0, 4))) == odi(MAP, [0, 0, 1, 1], []) == 0
    assert odi(np.zeros((1, 4)), masks_of([0])[0], np.zeros((0, 1, 4), bool)) == 0


def test_without_energy_on_any_object_the_index_is_undefined():
    assert math.isnan(odi(np.zeros((1, 4)), [0, 0, 1, 1], [[1, 0, 2, 1]]))
    assert math.isnan(odi([[0.0, 0, 0, 4]], [0, 0, 1, 1], [[1, 0, 2, 1]]))


def test_a_constant_map_leaks_the_share_of_the_area():
    # One pixel of the target, three of the other.
    assert odi(np.full((1, 4), 0.1), [0, 0, 1, 1], [[1, 0, 4, 1]]) == pytest.approx(3 / 4)


def test_the_index_equals_a_plain_loop_over_pixels():
    for seed in range(60):
        heat_map, boxes, masks = random_case(seed)

        def in_box(n, i, j, boxes=boxes):
            return boxes[n, 0] < j + 1 and boxes[n, 2] > j and boxes[n, 1] < i + 1 and boxes[n, 3] > i

        def in_mask(n, i, j, masks=masks):
            return masks[n, i, j]

        for regions, inside in ((boxes, in_box), (masks, in_mask)):
            leak = energy = 0.0
            for i in range(9):
                for j in range(13):
                    other = any(inside(n, i, j) for n in range(1, len(regions)))
                    leak += heat_map[i, j] * other
                    energy += heat_map[i, j] * (other or inside(0, i, j))
            assert odi(heat_map, regions[0], regions[1:]) == pytest.approx(leak / energy)


def test_the_index_never_exceeds_one_by_rounding():
    # The same numbers but for zeros, added in another order.
    for seed in range(50):
        heat_map = np.random.default_rng(seed).random((37, 53)).clip(0.5) - 0.5
        assert 1 - 1e-12 < odi(heat_map, heat_map == 0, [heat_map > 0]) <= 1


def test_arguments_stay_as_they_are():
    heat_map, boxes, masks = random_case(1)
    copies = heat_map.copy(), boxes.copy(), masks.copy()
    odi(heat_map, boxes[0], boxes[1:])
    odi(heat_map, masks[0], masks[1:])
    assert all(np.array_equal(*pair) for pair in zip(copies, (heat_map, boxes, masks)))


def test_the_summary_tells_images_of_several_objects_apart():
    # All: (0 + .3 + .9) / 3 = .4; beside others: (.3 + .9) / 2 = .6; one is undefined.
    summary = summarize_odi([0, 0.3, math.nan, 0.9], [0, 2, 1, 5])
    assert summary == (pytest.approx(0.4), 3, pytest.approx(0.6), 2, 1)


def test_the_summary_of_nothing_is_nan():
    for summary in (summarize_odi([], []), summarize_odi([math.nan], [3])):
        assert math.isnan(summary.mean) and math.isnan(summary.multi_mean)
        assert summary.count == summary.multi_count == 0
    assert math.isnan(summarize_odi([0.0], [0]).multi_mean)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="NaN"):
        odi([[math.nan]], [0, 0, 1, 1], [])
    with pytest.raises(ValueError, match=r"\(2, 2\).*\(1, 4\)"):
        odi(MAP, masks_of([0])[0], [np.ones((2, 2), bool)])
    with pytest.raises(ValueError, match=r"\(2,\) and \(1,\)"):
        summarize_odi([0.1, 0.2], [1])
