"""Figure 9: what stands where on the sheet of an image and its texts."""

import numpy as np
import pytest

from odam_d2.show.similarities import similarity_sheet

PHOTO = np.full((100, 240, 3), 90, dtype=np.uint8)


def test_a_row_is_a_text_and_a_column_a_method():
    cold = np.zeros((2, 10, 24))
    hot = cold.copy()
    hot[1] = 1
    before, after = (similarity_sheet(PHOTO, ["a cat", "a dog"], {"A": cold, "B": maps}) for maps in (cold, hot))
    # Three cells of 240 pixels and gaps of 10; rows of 100 and gaps of 10 under the header.
    assert before.shape == after.shape and before.shape[1] == 3 * 250 + 10
    changed = np.argwhere((before != after).any(axis=2))
    (top, left), (bottom, right) = changed.min(axis=0), changed.max(axis=0)
    assert (left, right) == (510, 749) and (top, bottom) == (len(before) - 110, len(before) - 11)


def test_no_text_leaves_the_photograph_and_maps_in_other_numbers_are_refused():
    assert similarity_sheet(PHOTO, [], {"A": np.zeros((0, 10, 24))}).shape[1] == 260
    with pytest.raises(ValueError, match="2 maps of A do not fit 1 texts"):
        similarity_sheet(PHOTO, ["a cat"], {"A": np.zeros((2, 10, 24))})
