"""Heat and boxes on a photograph: expected pixels by hand."""

import subprocess
import sys

import numpy as np
import pytest

from odam_d2.show.overlays import (
    GREY_WEIGHTS,
    LUT,
    WHITE,
    colorize,
    draw_detection,
    draw_detections,
    lay_over,
    overlay,
)

RED, DARK_RED = (255, 0, 0), (200, 0, 0)


def picture(height, width, colour=(100, 200, 50)):
    return np.full((height, width, 3), colour, dtype=np.uint8)


def test_report_and_pictures_need_neither_torch_nor_detectron2_nor_opencv():
    code = "import sys, odam_d2.show.page; print({'torch', 'detectron2', 'cv2'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_colours_are_rows_of_the_table_of_256():
    assert LUT.shape == (256, 3) and LUT.dtype == np.uint8
    colours = colorize(np.array([[0.0, 0.2, 1.0]]))
    np.testing.assert_array_equal(colours, LUT[[[0, 51, 255]]])
    assert tuple(colours[0, 0]) == (0, 0, 4) and tuple(colours[0, 2]) == (252, 255, 164)


def test_hotter_is_always_brighter():
    assert (np.diff(LUT @ np.array(GREY_WEIGHTS)) > -0.5).all()
    assert (np.diff((LUT @ np.array(GREY_WEIGHTS))[::16]) > 5).all()


def test_zero_heat_shows_the_paler_darker_photograph():
    # grey = 0.213 * 100 + 0.715 * 200 + 0.072 * 50 = 167.9; red = 0.6 * (0.35 * 100 + 0.65 * 167.9) = 86.48, and so on
    covered = overlay(picture(4, 6), np.zeros((4, 6)))
    np.testing.assert_array_equal(covered, picture(4, 6, (86, 107, 76)))


def test_full_heat_covers_three_quarters_with_the_last_colour():
    # red = 0.75 * 252 + 0.25 * 86.48 = 210.6, green = 0.75 * 255 + 0.25 * 107.48, blue = 0.75 * 164 + 0.25 * 75.98
    np.testing.assert_array_equal(overlay(picture(4, 6), np.ones((4, 6))), picture(4, 6, (211, 218, 142)))


def test_opacity_is_the_square_root_of_heat():
    # A quarter of the heat covers half as much as all of it: 0.375.
    expected = 0.375 * LUT[64] + 0.625 * np.array([86.481, 107.481, 75.981])
    np.testing.assert_array_equal(overlay(picture(1, 1), np.full((1, 1), 0.25))[0, 0], np.rint(expected))


def test_only_hot_places_change():
    heat = np.zeros((4, 6))
    heat[1, 2] = 1
    changed = (overlay(picture(4, 6), heat) != overlay(picture(4, 6), np.zeros((4, 6)))).any(2)
    assert np.argwhere(changed).tolist() == [[1, 2]]


@pytest.mark.parametrize("value", [np.nan, -0.1, 1.1])
def test_heat_that_is_no_heat_is_refused(value):
    with pytest.raises(ValueError, match=r"\[0,1\]"):
        colorize(np.full((2, 2), value))


def test_a_map_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"\(3, 6\).*\(4, 6\)"):
        overlay(picture(4, 6), np.zeros((3, 6)))


def test_every_pixel_of_a_large_photograph_has_its_own_heat(monkeypatch):
    # Strips of two rows; the last one is alone.
    monkeypatch.setattr("odam_d2.show.overlays.STRIP_PIXELS", 8)
    generator = np.random.default_rng(0)
    image, heat = generator.integers(0, 256, (5, 4, 3), dtype=np.uint8), generator.random((5, 4))
    whole = overlay(image, heat)
    for y, x in np.ndindex(5, 4):
        assert np.array_equal(
            whole[y : y + 1, x : x + 1], overlay(image[y : y + 1, x : x + 1], heat[y : y + 1, x : x + 1])
        )


def test_a_drawing_covers_by_its_opacity(monkeypatch):
    monkeypatch.setattr("odam_d2.show.overlays.STRIP_PIXELS", 3)
    image, drawing = picture(2, 3), np.zeros((2, 3, 4), np.uint8)
    drawing[0, 1], drawing[1, 2] = (10, 20, 30, 255), (200, 100, 250, 51)
    covered = lay_over(image, drawing)
    # A fifth of the colour and four fifths of (100, 200, 50).
    assert covered[0, 1].tolist() == [10, 20, 30] and covered[1, 2].tolist() == [120, 180, 90]
    covered[0, 1] = covered[1, 2] = (100, 200, 50)
    assert np.array_equal(covered, picture(2, 3)) and np.array_equal(image, picture(2, 3))


def test_a_drawing_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"a drawing of shape \(2, 3, 3\) does not cover an image of shape \(2, 3\)"):
        lay_over(picture(2, 3), picture(2, 3))


def test_a_box_is_drawn_on_its_own_outermost_pixels():
    image = picture(20, 20, WHITE)
    drawn = draw_detection(image, (2, 3, 8, 9), "", RED)
    expected = picture(20, 20, WHITE)
    expected[3:9, 2:8] = RED  # columns 2 to 7, rows 3 to 8 ...
    expected[4:8, 3:7] = 0  # ... one pixel wide, set off by one dark pixel inside
    expected[5:7, 4:6] = WHITE
    np.testing.assert_array_equal(drawn, expected)
    np.testing.assert_array_equal(image, picture(20, 20, WHITE))


def test_a_box_beyond_the_picture_is_drawn_along_its_border():
    drawn = draw_detection(picture(10, 12, WHITE), (-5, -5, 99, 99), "", RED)
    red = (drawn == RED).all(2)
    assert red[0].all() and red[-1].all() and red[:, 0].all() and red[:, -1].all()
    assert red.sum() == 2 * 12 + 2 * 8


@pytest.mark.parametrize("box", [(0, 0, 1, 1), (0.4, 0.4, 0.45, 0.45), (5, 5, 9, 9)])
def test_a_picture_of_one_pixel_shows_its_box(box):
    assert draw_detection(picture(1, 1), box, "person 0.93", RED).tolist() == [[list(RED)]]


def test_lines_are_thicker_on_larger_pictures():
    def thickness(side):
        row = draw_detection(picture(side, side, WHITE), (0, 0, side, side), "", RED)[side // 2]
        return int((row[: side // 2] == RED).all(1).sum())

    # 1 + side / 260, rounded
    assert [thickness(side) for side in (50, 260, 1300)] == [1, 2, 6]


@pytest.mark.parametrize("corner", [(0, 0), (260, 0), (0, 190), (260, 190), (120, 80)])
def test_the_whole_label_is_seen_wherever_the_box_is(corner):
    x, y = corner
    drawn = draw_detection(picture(200, 300, (128,) * 3), (x, y, x + 40, y + 10), "person 0.93", DARK_RED)
    middle = draw_detection(picture(200, 300, (128,) * 3), (100, 100, 140, 110), "person 0.93", DARK_RED)
    # White ink on a dark red tab over grey: only the letters are reddish or white, and bright.
    letters = [((d[..., 0] >= 200) & (d[..., 1] > 100)).sum() for d in (drawn, middle)]
    assert letters[0] == letters[1] > 100


def test_the_whole_label_is_seen_where_there_is_no_room_above_nor_below_the_boxs_top():
    low, high = (picture(height, 300, (128,) * 3) for height in (24, 200))
    drawn = draw_detection(low, (100, 12, 140, 22), "person 0.93", DARK_RED)
    middle = draw_detection(high, (100, 100, 140, 110), "person 0.93", DARK_RED)
    letters = [((d[..., 0] >= 200) & (d[..., 1] > 100)).sum() for d in (drawn, middle)]
    assert letters[0] == letters[1] > 100


def test_a_label_shrinks_to_fit_a_small_picture():
    drawn = draw_detection(picture(40, 60, (128,) * 3), (10, 10, 50, 30), "person 0.93", DARK_RED)
    tab = (drawn == DARK_RED).all(2)
    assert 25 < np.ptp(np.argwhere(tab)[:, 1]) < 60
    assert not np.array_equal(drawn, draw_detection(picture(40, 60, (128,) * 3), (10, 10, 50, 30), "", DARK_RED))


def test_letters_outside_ascii_are_drawn_as_different_letters():
    drawn = {draw_detection(picture(60, 90), (0, 0, 9, 9), label, RED).tobytes() for label in ("ñ", "é", "Ж", "Ω")}
    assert len(drawn) == 4


def test_labels_of_boxes_in_one_place_stand_beside_and_below():
    # Tabs of "1" are less than 20 pixels wide, the box is 60; its lines have the colour that comes last, its inside a
    # dark line.
    box, image = (100, 100, 160, 140), picture(200, 300, (128,) * 3)
    colours = [(200, 0, 0), (0, 0, 200), (0, 200, 0), (200, 0, 200)]
    drawn = draw_detections(image, [box] * 4, ["1"] * 4, colours, width=1).copy()
    drawn[100:140] = 0
    places = [np.argwhere((drawn == colour).all(2)).mean(axis=0) for colour in colours]
    # Above at the left and the right end, below at the left and the right end.
    assert [y < 100 for y, _ in places] == [True, True, False, False]
    assert [x < 120 for _, x in places] == [True, False, True, False] and all(100 <= x < 160 for _, x in places)
    # A fifth has no place of its own: it stands where it would alone.
    drawn = draw_detections(image, [box] * 5, ["1"] * 4 + ["2"], colours + [RED], width=1)
    tab = (draw_detection(image, box, "2", RED, width=1)[:100] == RED).all(2)
    assert tab.any() and (drawn[:100][tab] == RED).all()


def test_no_line_crosses_a_label():
    image, boxes = picture(200, 300, (128,) * 3), [(100, 100, 160, 140), (104, 60, 180, 160)]
    alone = draw_detection(image, boxes[0], "person", DARK_RED)
    both = draw_detections(image, boxes, ["person", ""], [DARK_RED, (0, 0, 255)])
    # Above the first box there is nothing but its tab, through which the second's left side would go.
    tab = (alone[:100] != image[:100]).any(2)
    assert tab.sum() > 500 and np.array_equal(both[:100][tab], alone[:100][tab])


def test_boxes_without_labels_are_drawn_in_their_order():
    image, boxes = picture(20, 20), [(2, 3, 8, 9), (4, 5, 15, 18)]
    one = draw_detection(draw_detection(image, boxes[0], "", RED), boxes[1], "", WHITE)
    assert np.array_equal(draw_detections(image, boxes, ["", ""], [RED, WHITE]), one)
    assert np.array_equal(draw_detections(image, [], [], []), image)


@pytest.mark.parametrize("box", [(0, 0, np.nan, 4), (0, 0, np.inf, 4), (1, 2, 3)])
def test_a_box_that_is_no_box_is_refused(box):
    with pytest.raises(ValueError, match="four finite numbers"):
        draw_detection(picture(9, 9), box, "", RED)


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_an_array_that_is_no_picture_is_refused(image):
    with pytest.raises(ValueError, match="uint8"):
        draw_detection(image, (0, 0, 1, 1), "", RED)
