"""Sheets of ODAM-KD's attention: a row a level, its focused objects in colour, maps with their ranges."""

import numpy as np
import pytest

from odam_d2.show.attention import LevelRow, attention_sheet
from odam_d2.show.overlays import PALETTE
from odam_d2.show.sheets import CELL_SIDE, GAP

BOXES = np.array([[10.0, 10.0, 60.0, 60.0], [100.0, 100.0, 160.0, 180.0]])


def row(focused, heat=None):
    heat = np.zeros((200, 320), dtype=np.float32) if heat is None else heat
    names = ("M_bu", "M_td", "M_att")
    return LevelRow(
        "p3, stride 8", np.array(focused, dtype=bool), dict.fromkeys(names, heat), dict.fromkeys(names, (0.5, 2.0))
    )


def photo():
    return np.full((200, 320, 3), 128, dtype=np.uint8)


def cells(sheet, rows):
    """The cells of a sheet, (rows, columns, 200, 320, 3)."""
    top = sheet.shape[0] - rows * (200 + GAP)
    return np.stack(
        [
            [sheet[top + r * (200 + GAP) :, GAP + c * (CELL_SIDE + GAP) :][:200, :CELL_SIDE] for c in range(4)]
            for r in range(rows)
        ]
    )


def has(cell, colour):
    return bool((cell == np.array(colour)).all(axis=-1).any())


def test_focused_objects_have_their_colour_and_the_others_none():
    sheet = attention_sheet(
        photo(), BOXES, ["cat", "dog"], [row([True, False]), row([False, True]), row([False, False])]
    )
    photographs = cells(sheet, 3)[:, 0]
    seen = [[has(cell, colour) for colour in PALETTE[:2]] for cell in photographs]
    assert seen == [[True, False], [False, True], [False, False]]
    # The other object is there, without a label: a grey line and what sets it off.
    assert not np.array_equal(photographs[2][100:180, 100:160], photo()[100:180, 100:160])
    assert sheet.shape[1] == 4 * (CELL_SIDE + GAP) + GAP


def test_heat_is_where_the_map_has_it():
    heat = np.zeros((200, 320), dtype=np.float32)
    heat[100:, 160:] = 1
    ((_, first, *_),) = cells(attention_sheet(photo(), BOXES[:0], [], [row([], heat)]), 1)
    brightness = first.astype(float).sum(axis=-1)
    assert brightness[150:190, 200:300].min() > brightness[50:90, 100:150].max()


def test_an_image_without_objects_has_a_sheet():
    sheet = attention_sheet(photo(), np.zeros((0, 4)), [], [row([])])
    assert sheet.dtype == np.uint8 and sheet.ndim == 3


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="no level to show"):
        attention_sheet(photo(), BOXES, ["cat", "dog"], [])
    with pytest.raises(ValueError, match=r"2 boxes do not fit 1 labels and \[2\] objects of the levels"):
        attention_sheet(photo(), BOXES, ["cat"], [row([True, False])])
    with pytest.raises(ValueError, match=r"2 boxes do not fit 2 labels and \[1\] objects"):
        attention_sheet(photo(), BOXES, ["cat", "dog"], [row([True])])
