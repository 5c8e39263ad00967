"""Figure 7: marks on points, and where its parts stand."""

import numpy as np
import pytest

from odam_d2.show.overlays import PALETTE
from odam_d2.show.queries import mark, query_figure, stack_pictures

PHOTO = np.full((100, 240, 3), 90, dtype=np.uint8)


def test_a_mark_is_a_dot_in_its_colour_and_leaves_the_picture_it_was_given():
    picture = PHOTO.copy()
    marked = mark(picture, np.array([[40.0, 50.0], [235.0, 50.0]]), [1, 2])
    np.testing.assert_array_equal(picture, PHOTO)
    assert tuple(marked[50, 40]) == PALETTE[0] and tuple(marked[50, 235]) == PALETTE[1]
    # Its number stands on the right, and on the left where there is no room; nothing else has changed.
    changed = np.flatnonzero((marked != PHOTO).any(axis=(0, 2)))
    left, right = changed[changed < 130], changed[changed > 130]
    assert left.min() >= 33 and left.max() > 50 and right.min() < 225
    np.testing.assert_array_equal(marked[:30], PHOTO[:30])


def test_pictures_stand_under_each_other_with_white_beside_the_narrow():
    stacked = stack_pictures([np.zeros((2, 3, 3), np.uint8), np.full((1, 5, 3), 7, np.uint8)])
    expected = [[0, 0, 0, 255, 255], [0, 0, 0, 255, 255], [7, 7, 7, 7, 7]]
    np.testing.assert_array_equal(stacked[:, :, 0], expected)


@pytest.mark.parametrize("count", [1, 3])
def test_the_figure_has_a_row_for_encoder_decoder_and_odam(count):
    flat = np.zeros((10, 24))
    hot = flat + 1.0
    points = np.tile([[120.0, 50.0]], (count, 1))
    targets = {"class_score": flat, "x1": flat}
    words = points, np.stack([flat] * count), np.array([10, 10, 60, 60]), "cat 0.90", flat
    cold, warm = (query_figure(PHOTO, *words, game, targets) for game in (flat, hot))
    # As wide as its widest row: 1 + n, 3 or 2 cells of 240 pixels and gaps of 10.
    assert cold.shape == warm.shape and cold.shape[1] == 250 * max(1 + count, 3) + 10
    # Only GAME differs: the third cell of the second row.
    rows, columns = (np.flatnonzero((cold != warm).any(axis=axes)) for axes in ((1, 2), (0, 2)))
    assert columns.min() == 510 and columns.max() == 749
    assert rows.max() - rows.min() + 1 == 100 and len(cold) / 3 < rows.min() and rows.max() < 2 * len(cold) / 3


def test_points_without_maps_and_maps_outside_their_range_are_refused():
    flat = np.zeros((10, 24))
    with pytest.raises(ValueError, match="1 points do not fit 2 maps"):
        query_figure(PHOTO, np.zeros((1, 2)), np.stack([flat] * 2), np.zeros(4), "", flat, flat, {"x1": flat})
    with pytest.raises(ValueError, match=r"must lie in \[0,1\]"):
        query_figure(PHOTO, np.zeros((1, 2)), flat[None], np.zeros(4), "", flat, flat + 2, {"x1": flat})
