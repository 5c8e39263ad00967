"""Sheets of heat maps: expected pixels by hand."""

import numpy as np
import pytest

from odam_d2.explain import METHODS
from odam_d2.show import sheets
from odam_d2.show.overlays import PALETTE, WHITE
from odam_d2.show.sheets import (
    CELL_SIDE,
    GAP,
    TITLE_SIZE,
    Pair,
    contact_sheet,
    pair_sheet,
    stack_sheets,
    window_around,
)
from odam_d2.show.words import TARGET_MEANINGS


def picture(height, width, colour=(100, 200, 50)):
    return np.full((height, width, 3), colour, dtype=np.uint8)


def sheet_of(count, maps, image=None):
    image = picture(320, 640) if image is None else image
    boxes = np.tile([[64.0, 32.0, 320.0, 160.0]], (count, 1))
    return contact_sheet(image, boxes, ["cup 0.88"] * count, maps)


def test_a_sheet_has_a_column_for_the_photograph_and_one_for_each_target():
    maps = {"class_score": np.zeros((3, 32, 64)), "x2": np.zeros((3, 32, 64))}
    # Cells are 320 x 160, with 10 pixels between them.
    assert sheet_of(3, maps).shape[1] == 10 + 3 * (320 + 10)
    assert sheet_of(3, maps).shape[0] - sheet_of(2, maps).shape[0] == 160 + 10


def test_a_cell_shows_its_own_detection_and_target():
    hot, cold = np.ones((32, 64)), np.zeros((32, 64))
    sheet = sheet_of(2, {"x1": np.stack([cold, hot]), "x2": np.stack([hot, cold])})
    bottom = sheet.shape[0] - 10
    # A place outside the box, near each cell's lower right corner.
    places = {
        (row, column): tuple(int(v) for v in sheet[bottom - (1 - row) * 170 - 5, 10 + column * 330 + 315])
        for row in range(2)
        for column in range(3)
    }
    photograph, cold, hot = (100, 200, 50), (86, 107, 76), (211, 218, 142)
    assert [places[0, c] for c in range(3)] == [photograph, cold, hot]
    assert [places[1, c] for c in range(3)] == [photograph, hot, cold]


def test_boxes_stand_where_they_are_in_the_shrunken_cells():
    sheet = sheet_of(1, {"x1": np.zeros((1, 32, 64))})
    cell = sheet[-10 - 160 : -10, 340 : 340 + 320]  # half the image's resolution
    white = np.argwhere((cell == WHITE).all(2))
    assert white.min(0).tolist() == [16, 32] and white.max(0).tolist() == [79, 159]


def test_maps_of_another_resolution_span_the_whole_image():
    sheet = sheet_of(1, {"x1": np.array([[[1.0, 0.0]]])})
    cell = sheet[-10 - 160 : -10, 340 : 340 + 320]
    assert (cell[-1, :80] == (211, 218, 142)).all() and (cell[-1, 240:] == (86, 107, 76)).all()


def test_maps_may_be_made_one_at_a_time():
    maps = np.linspace(0, 1, 2 * 32 * 64).reshape(2, 32, 64)
    asked = []

    def one(row):
        asked.append(row)
        return maps[row]

    np.testing.assert_array_equal(sheet_of(2, {"x1": one}), sheet_of(2, {"x1": maps}))
    assert asked == [0, 1]


def test_a_small_image_is_enlarged_and_a_narrow_one_keeps_its_label():
    maps = {"x1": np.zeros((1, 8, 8))}
    assert sheet_of(1, maps, picture(1, 1)).shape[1] == 10 + 2 * (220 + 10)
    narrow = picture(900, 60)
    boxes = np.array([[0.0, 0.0, 30.0, 450.0]])
    labelled = contact_sheet(narrow, boxes, ["cup 0.88"], maps)
    bare = contact_sheet(narrow, boxes, [""], maps)
    tab = np.argwhere((labelled == PALETTE[0]).all(2) & (labelled != bare).any(2))
    assert np.ptp(tab[:, 1]) > 50  # the photograph is but 21 pixels wide


def test_without_detections_the_sheet_shows_the_photograph_and_says_so(monkeypatch):
    sheet = sheet_of(0, {"x1": np.zeros((0, 32, 64)), "x2": np.zeros((0, 32, 64))})
    assert sheet.shape[1] == 10 + 320 + 10
    assert (sheet[-10 - 160 : -10, 10 : 10 + 320] == (100, 200, 50)).all()
    assert sheets.NO_DETECTIONS == "no detections above the threshold"
    monkeypatch.setattr(sheets, "NO_DETECTIONS", "nothing")
    assert not np.array_equal(sheet, sheet_of(0, {}))


def test_a_columns_heading_says_what_its_maps_answer():
    image, boxes, maps = picture(160, 320), np.array([[8.0, 8.0, 40.0, 24.0]]), {"class_score": np.zeros((1, 32, 64))}
    usual = contact_sheet(image, boxes, ["cat 0.90"], maps)
    assert np.array_equal(usual, contact_sheet(image, boxes, ["cat 0.90"], maps, TARGET_MEANINGS))
    other = contact_sheet(image, boxes, ["cat 0.90"], maps, METHODS["drise"].meanings)
    rows, columns = np.nonzero((usual != other).any(-1))
    # Only the heading of the maps' column differs, above the cells of 320 x 160.
    assert len(rows) and rows.max() < usual.shape[0] - GAP - 160 and columns.min() > 10 + 320


def test_a_caption_stands_on_its_own_map_alone():
    image, boxes = picture(320, 640), np.tile([[64.0, 32.0, 320.0, 160.0]], (2, 1))
    maps = {"class_score": np.zeros((2, 32, 64)), "class_score[dog]": np.zeros((2, 32, 64))}
    words = (image, boxes, ["cat 0.90", "cat 0.80"], maps, {})
    usual = contact_sheet(*words)
    assert np.array_equal(usual, contact_sheet(*words, {"class_score[dog]": ["", ""], "x1": ["a", "b"]}))
    captioned = contact_sheet(*words, {"class_score[dog]": ["", "dog 0.02"]})
    rows, columns = np.nonzero((usual != captioned).any(axis=2))
    # The last row, the third column: above the box, which begins at (32,16) of a cell of 320 x 160.
    top, left = usual.shape[0] - 170, 10 + 2 * 330
    assert len(rows) and top <= rows.min() and rows.max() <= top + 35
    assert left + 32 <= columns.min() and columns.max() < left + 32 + 80


def test_a_sheet_refuses_labels_that_do_not_go_with_the_boxes():
    with pytest.raises(ValueError, match="1 boxes but 2 labels"):
        contact_sheet(picture(9, 9), np.zeros((1, 4)), ["a", "b"], {})


def test_a_pair_sheet_shows_both_boxes_and_each_ones_map():
    image = np.full((200, 300, 3), 90, dtype=np.uint8)
    boxes = np.array([[100.0, 50.0, 140.0, 130.0], [120.0, 50.0, 160.0, 130.0]])
    maps = np.zeros((2, 20, 30))
    maps[0, 9, 11] = maps[1, 9, 14] = 1.0
    # The union is 60 x 80: the window has side 128 and its centre at (130, 90); a cell is 320 pixels, 2.5 a pixel.
    sheet = pair_sheet(image, [Pair(boxes, ("kept 0.90", "removed 0.80"), maps)])
    cells = [sheet[-GAP - CELL_SIDE : -GAP, x : x + CELL_SIDE] for x in (10, 340, 670)]
    # x1 of the better box lies at (100 - 66) * 2.5 = 85, at half height; of the other at 135.
    for cell, column, color in ((cells[0], 85, PALETTE[0]), (cells[1], 85, PALETTE[0]), (cells[2], 135, PALETTE[1])):
        assert tuple(cell[150, column]) == color
    # Cell (9,11) of the map is centred at (115,95) of the image, hence at (122,172) of its cell; (9,14) at (197,172).
    assert cells[1][172, 122, 0] > 150 > cells[1][172, 197, 0]
    assert cells[2][172, 197, 0] > 150 > cells[2][172, 122, 0]


def window(box, size, **options):
    corner, side = window_around(np.array([box], dtype=np.float64), size, **options)
    return [*corner.tolist(), side]


def test_a_window_has_room_around_its_boxes_and_stays_in_the_image_where_it_can():
    # 1.6 * 100 and 1.2 * 100, with the box's middle at (150,120).
    assert window([100, 80, 200, 160], (400, 600)) == [70, 40, 160]
    assert window([100, 80, 200, 160], (400, 600), room=1.2) == [90, 60, 120]
    # Small boxes have 64 pixels; at the border the window moves inside.
    assert window([0, 0, 10, 10], (400, 600)) == [0, 0, 64] and window([590, 390, 600, 400], (400, 600)) == [
        536,
        336,
        64,
    ]
    # 1.6 * 300 is more than the short side, into which the box fits; 500 does not fit.
    assert window([100, 50, 400, 150], (400, 600)) == [50, 0, 400]
    assert window([50, 50, 550, 150], (400, 600)) == [50, 0, 500]
    assert window([0, 0, 5, 5], (30, 40)) == [0, 0, 30]


def test_a_sheet_without_pairs_says_so():
    assert pair_sheet(np.zeros((40, 60, 3), dtype=np.uint8), []).shape[2] == 3


def test_sheets_stand_under_each_other_each_under_its_title():
    wide, narrow = picture(40, 300), picture(20, 100, (0, 0, 255))
    page = stack_sheets([("", wide), ("b", narrow)])
    line = TITLE_SIZE + 6
    # A gap and a line of title above each; an empty title has no line.
    assert page.shape == (GAP + 40 + GAP + line + 20, 300, 3)
    np.testing.assert_array_equal(page[GAP : GAP + 40], wide)
    np.testing.assert_array_equal(page[-20:, :100], narrow)
    assert (page[-20:, 100:] == 255).all() and (page[:GAP] == 255).all()
    title = page[GAP + 40 : -20]
    assert (title < 128).any() and (title[:, 60:] == 255).all()


def test_a_long_title_is_broken_into_lines():
    page = stack_sheets([("several words " * 6, picture(10, 300))])
    assert page.shape[1] == 300 and page.shape[0] > GAP + 3 * (TITLE_SIZE + 6)
