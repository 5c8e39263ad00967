"""Pointing games and compactness: cases worked out by hand, identities, and plain loops over pixels."""

import math

import numpy as np
import pytest

from odam_d2.evaluation.metrics.localization import (
    CheckedMap,
    checked_boxes,
    compactness,
    energy_pointing_game,
    pointing_game,
    region_pixels,
)

# The maximum is the pixel in row 1 and column 2, whose centre is (2.5, 1.5); the energy is 4.
MAP = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 3.0]])
IMAGE = [0, 0, 3, 2]


def random_case(seed):
    """Map (9,13) with ties, a box that may leave the image, a mask."""
    generator = np.random.default_rng(seed)
    heat_map = generator.integers(0, 6, (9, 13)) * 0.7
    corner = generator.uniform([-4, -4], [12, 8])
    box = np.concatenate([corner, corner + generator.uniform(0.2, 9, 2)])
    return heat_map, box, generator.random((9, 13)) < 0.4


def first_maximum(heat_map):
    best, place = -1.0, None
    for row in range(heat_map.shape[0]):
        for column in range(heat_map.shape[1]):
            if heat_map[row, column] > best:
                best, place = heat_map[row, column], (row, column)
    return place


def touches(box, row, column):
    """Whether the box, rounded outward, holds the pixel: whether some of the pixel's inside lies in the box."""
    return box[0] < column + 1 and box[2] > column and box[1] < row + 1 and box[3] > row


def test_the_pointing_game_is_won_if_the_maximum_lies_on_the_object():
    assert pointing_game(MAP, [2, 1, 3, 2]) is True
    assert pointing_game(MAP, [0, 0, 2, 2]) is False
    assert pointing_game(MAP, MAP == 3) is True
    assert pointing_game(MAP, MAP == 1) is False


def test_a_box_holds_pixel_centres_and_is_half_open():
    # The centre is (2.5, 1.5): the lower sides belong to the box, the upper ones do not.
    assert pointing_game(MAP, [2.5, 1.5, 3, 2])
    assert not pointing_game(MAP, [2, 1, 2.5, 2])
    assert not pointing_game(MAP, [2, 1, 3, 1.5])
    # A box between two centres holds no pixel.
    assert not pointing_game(MAP, [2.6, 1.0, 3.4, 2.0])


def test_the_first_of_equal_maxima_in_row_major_order_counts():
    heat_map = np.array([[0.0, 0, 2], [2, 0, 0]])
    assert pointing_game(heat_map, [2, 0, 3, 1])
    assert not pointing_game(heat_map, [0, 1, 1, 2])


def test_an_all_zero_map_is_a_miss_without_spread():
    zero = np.zeros((2, 3))
    assert not pointing_game(zero, IMAGE)
    assert not pointing_game(zero, np.ones((2, 3), bool))
    assert energy_pointing_game(zero, IMAGE) == 0
    assert math.isnan(compactness(zero, IMAGE))
    assert CheckedMap.of(zero).is_zero and not CheckedMap.of(MAP).is_zero


def test_the_energy_pointing_game_is_the_share_of_energy_on_the_object():
    assert energy_pointing_game(MAP, [2, 1, 3, 2]) == 3 / 4
    assert energy_pointing_game(MAP, MAP == 1) == 1 / 4
    # Rounded outward the box covers the pixel of row 0 and column 1.
    assert energy_pointing_game(MAP, [1.2, 0.3, 1.8, 0.9]) == 1 / 4
    # Over two borders: only what lies in the image counts.
    assert energy_pointing_game(MAP, [1.5, 0.5, 100, 100]) == 1
    assert energy_pointing_game(MAP, [-9, -9, -1, -1]) == energy_pointing_game(MAP, [5, 5, 9, 9]) == 0


def test_an_object_that_covers_the_image_gets_all_energy_exactly():
    for seed in range(20):
        heat_map = np.random.default_rng(seed).random((37, 53), dtype=np.float32)
        assert energy_pointing_game(heat_map, [-1, -1, 99, 99]) == 1
        assert energy_pointing_game(heat_map, np.ones((37, 53), bool)) == 1
        assert energy_pointing_game(heat_map, np.zeros((37, 53), bool)) == 0


def test_a_share_never_exceeds_one_by_rounding():
    # The same numbers but for zeros, added in another order.
    for seed in range(50):
        heat_map = np.random.default_rng(seed).random((37, 53)).clip(0.5) - 0.5
        assert 1 - 1e-12 < energy_pointing_game(heat_map, heat_map > 0) <= 1


def test_a_constant_map_has_its_maximum_in_the_first_pixel():
    ones = np.full((2, 3), 0.1)
    assert pointing_game(ones, [0, 0, 1, 1])
    assert not pointing_game(ones, [1, 0, 3, 2])
    assert energy_pointing_game(ones, [0, 0, 1, 1]) == pytest.approx(1 / 6)


def test_compactness_worked_by_hand():
    # Squared distance 9 with weight 1/4, over (6^2 + 8^2)/4 = 25: sqrt(2.25/25) = .3.
    assert compactness([[3.0, 0, 0, 1]], [0, 0, 8, 6]) == pytest.approx(0.3)
    # Both axes: 3^2 + 4^2 = 25 with weight 1/2, over 25.
    heat_map = np.zeros((4, 5))
    heat_map[0, 0] = heat_map[3, 4] = 1
    assert compactness(heat_map, [0, 0, 8, 6]) == pytest.approx(math.sqrt(0.5))
    # All energy in the maximum.
    assert compactness([[0.0, 7.0]], [0, 0, 1, 1]) == 0


def test_compactness_is_relative_to_the_unclipped_object():
    heat_map = random_case(3)[0]
    small, large = compactness(heat_map, [0, 0, 3, 4]), compactness(heat_map, [-3, -4, 3, 4])
    assert small == pytest.approx(2 * large)


def test_the_metrics_do_not_depend_on_the_scale_of_the_map():
    for seed in range(10):
        heat_map, box, mask = random_case(seed)
        for scale in (1e-30, 1e30):
            assert pointing_game(heat_map * scale, box) == pointing_game(heat_map, box)
            assert energy_pointing_game(heat_map * scale, mask) == pytest.approx(energy_pointing_game(heat_map, mask))
            assert compactness(heat_map * scale, box) == pytest.approx(compactness(heat_map, box))


def test_boxes_and_masks_of_whole_pixels_agree():
    for seed in range(30):
        heat_map, box, _ = random_case(seed)
        box = np.round(box)
        mask = np.zeros(heat_map.shape, bool)
        mask[region_pixels(box, mask.shape)] = True
        assert pointing_game(heat_map, box) == pointing_game(heat_map, mask)
        assert energy_pointing_game(heat_map, box) == pytest.approx(energy_pointing_game(heat_map, mask))


def test_the_metrics_equal_plain_loops_over_pixels():
    for seed in range(60):
        heat_map, box, mask = random_case(seed)
        row, column = first_maximum(heat_map)
        assert CheckedMap.of(heat_map).peak == (row, column)
        assert pointing_game(heat_map, mask) == mask[row, column]
        inside = box[0] <= column + 0.5 < box[2] and box[1] <= row + 0.5 < box[3]
        assert pointing_game(heat_map, box) == inside
        total = in_box = in_mask = spread = 0.0
        for i in range(9):
            for j in range(13):
                total += heat_map[i, j]
                in_box += heat_map[i, j] * touches(box, i, j)
                in_mask += heat_map[i, j] * mask[i, j]
                spread += heat_map[i, j] * ((i - row) ** 2 + (j - column) ** 2)
        assert energy_pointing_game(heat_map, box) == pytest.approx(in_box / total)
        assert energy_pointing_game(heat_map, mask) == pytest.approx(in_mask / total)
        size = ((box[2] - box[0]) ** 2 + (box[3] - box[1]) ** 2) / 4
        assert compactness(heat_map, box) == pytest.approx(math.sqrt(spread / total / size))


def test_sums_are_exact_to_float64_for_float32_maps():
    # In float32 a sum of 2^24 swallows ones that are added one by one.
    heat_map = np.ones((1000, 1000), dtype=np.float32)
    heat_map[0, 0] = 2**24
    assert CheckedMap.of(heat_map).energy == 2**24 + 999_999


def test_arguments_stay_as_they_are():
    heat_map, box, mask = random_case(0)
    copies = heat_map.copy(), box.copy(), mask.copy()
    for region in (box, mask):
        pointing_game(heat_map, region)
        energy_pointing_game(heat_map, region)
    compactness(heat_map, box)
    assert all(np.array_equal(*pair) for pair in zip(copies, (heat_map, box, mask)))


@pytest.mark.parametrize("metric", [pointing_game, energy_pointing_game, compactness])
def test_maps_that_are_none_are_named(metric):
    with pytest.raises(ValueError, match="NaN"):
        metric([[0.0, math.nan]], [0, 0, 1, 1])
    with pytest.raises(ValueError, match="from -1.0 to 1.0"):
        metric([[1.0, -1.0]], [0, 0, 1, 1])
    with pytest.raises(ValueError, match="inf"):
        metric([[1.0, math.inf]], [0, 0, 1, 1])
    for shape in ((3,), (1, 2, 3), (0, 3)):
        with pytest.raises(ValueError, match=r"\(h,w\)"):
            metric(np.zeros(shape), [0, 0, 1, 1])


def test_regions_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"\(3, 2\).*\(2, 3\)"):
        pointing_game(MAP, np.ones((3, 2), bool))
    with pytest.raises(ValueError, match=r"\(4,\), not \(3,\)"):
        energy_pointing_game(MAP, [0, 0, 1])
    with pytest.raises(ValueError, match="x1 <= x2"):
        energy_pointing_game(MAP, [2, 0, 1, 1])
    with pytest.raises(ValueError, match="nan"):
        pointing_game(MAP, [0, 0, math.nan, 1])
    with pytest.raises(ValueError, match="is a point"):
        compactness(MAP, [1, 1, 1, 1])
    with pytest.raises(ValueError, match=r"\(n,4\), not \(2, 3\)"):
        checked_boxes(np.zeros((2, 3)))
    assert checked_boxes([]).shape == (0, 4)
