"""Maps of attention: a Gaussian worked out by hand, sums, borders, cuts and halves."""

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from odam_d2.evaluation.people.attention import attention_map, centre_map, crop, split_observers
from odam_d2.evaluation.people.fixations import Fixations


def test_one_fixation_is_a_gaussian_around_it():
    """By hand, s = 2: at the centre of pixel (1,2), which is (2.5, 1.5), it is 1; one pixel off, exp(-1/8)."""
    found = attention_map(Fixations.of([(2.5, 1.5, 300, 0)]), (4, 6), pixels_per_degree=2, weights="count")
    assert found.shape == (4, 6) and found[1, 2] == 1
    assert found[1, 3] == pytest.approx(math.exp(-1 / 8)) and found[0, 2] == pytest.approx(math.exp(-1 / 8))
    # Three columns and two rows off: exp(-(9 + 4) / 8).
    assert found[3, 5] == pytest.approx(math.exp(-13 / 8))


def test_fixations_count_by_their_duration_or_once():
    one, other = (0.5, 0.5, 300, 0), (9.5, 0.5, 100, 0)
    by_time = attention_map(Fixations.of([one, other]), (1, 10), 0.5)
    once = attention_map(Fixations.of([one, other]), (1, 10), 0.5, "count")
    # Nine pixels at s = 0.5: neither reaches the other.
    assert by_time[0, [0, 9]] == pytest.approx([300, 100]) and once[0, [0, 9]] == pytest.approx([1, 1])


def test_it_is_the_convolution_of_a_picture_of_the_fixations():
    """Fixations at the centres of pixels, far from the border: SciPy's filter, cut at 8 s, times 2 pi s^2."""
    rng, picture = np.random.default_rng(0), np.zeros((60, 80))
    rows = []
    for _ in range(20):
        x, y, duration = int(rng.integers(30, 50)), int(rng.integers(25, 35)), int(rng.integers(50, 500))
        picture[y, x] += duration
        rows.append((x + 0.5, y + 0.5, duration, 0))
    expected = gaussian_filter(picture, 3, mode="constant", truncate=8) * 2 * math.pi * 9
    assert attention_map(Fixations.of(rows), (60, 80), 3) == pytest.approx(expected, rel=2e-3, abs=1e-3)


def test_without_fixations_a_map_is_zero():
    assert not attention_map(Fixations.of([]), (3, 4)).any()


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        ({"weights": "time"}, "unknown weights 'time'; valid values are duration, count"),
        ({"pixels_per_degree": 0}, "pixels_per_degree is 0"),
        ({"pixels_per_degree": math.nan}, "pixels_per_degree is nan"),
        ({"size": (0, 3)}, "at least one pixel, not 0 x 3"),
    ],
)
def test_what_cannot_be_is_refused(change, culprit):
    with pytest.raises(ValueError, match=culprit):
        attention_map(Fixations.of([]), **({"size": (2, 3)} | change))


def test_the_middle_is_highest_and_each_side_alike():
    """By hand: half of 8 columns to the border is 4 = 2 s with s = 8/4; pixel centres are 0.5 nearer."""
    found = centre_map((4, 8))
    assert found == pytest.approx(found[::-1]) and found == pytest.approx(found[:, ::-1])
    assert found[2, 7] / found[2, 4] == pytest.approx(math.exp(-(3.5**2 - 0.5**2) / (2 * 2**2)))


def test_a_box_is_cut_out_rounded_outward():
    values = np.arange(20.0).reshape(4, 5)
    assert crop(values, (1.2, 0.9, 2.1, 2)).tolist() == [[1, 2], [6, 7]]
    assert crop(values, (-3, -3, 99, 99)).shape == (4, 5)
    assert crop(values, (4.5, 3.5, 4.6, 3.6)).tolist() == [[19]]
    with pytest.raises(ValueError, match="has no pixel in an image of 5 x 4"):
        crop(values, (5, 0, 7, 2))


def test_halves_hold_everybody_once():
    fixations = Fixations.of([(i, 0, 1, i % 5) for i in range(20)])
    first, second = split_observers(fixations, seed=3)
    assert len(set(first.observer)) == 2 and len(set(second.observer)) == 3
    assert sorted([*first.x, *second.x]) == list(range(20)) and not set(first.observer) & set(second.observer)
    again = split_observers(fixations, seed=3)
    assert again[0].x.tolist() == first.x.tolist()
    assert split_observers(fixations[fixations.observer == 0], seed=0) is None
