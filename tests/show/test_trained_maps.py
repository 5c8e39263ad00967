"""The figure of detectors without and with ODAM-Train: expected pixels by hand."""

from dataclasses import replace

import numpy as np
import pytest

from odam_d2.show import trained_maps
from odam_d2.show.overlays import PALETTE
from odam_d2.show.sheets import GAP
from odam_d2.show.trained_maps import CELL, MIDDLE, NAME_SIZE, SPACE, TEXT_SIZE, DetectorMaps, compare_maps

# Where a figure's first pictures begin, how high two rows of pairs are, and how far apart two such blocks begin.
TOP = TEXT_SIZE + 3 * GAP + NAME_SIZE + TEXT_SIZE + 2 * GAP
HEIGHT = 2 * CELL + GAP
BLOCK = NAME_SIZE + TEXT_SIZE + 2 * GAP + HEIGHT + SPACE
PHOTO, HOT, COLD = (100, 200, 50), (211, 218, 142), (86, 107, 76)


def detector(name="with", maps=None, scores=(0.9, 0.8), boxes=None, pairs=((0, 1),), iou=0.25, correlation=0.5):
    boxes = [[100, 40, 140, 120], [120, 40, 160, 120]] if boxes is None else boxes
    maps = np.zeros((len(scores), 20, 30)) if maps is None else maps
    pairs = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    numbers = np.full(len(pairs), iou), np.full(len(pairs), correlation)
    return DetectorMaps(name, np.array(boxes, dtype=np.float32).reshape(-1, 4), np.array(scores), maps, pairs, *numbers)


def photo(height=200, width=300):
    return np.full((height, width, 3), PHOTO, dtype=np.uint8)


def changed(first, second):
    """Smallest rectangle of what differs: first row and column, last row and column."""
    where = np.argwhere((first != second).any(axis=2))
    return [*where.min(axis=0).tolist(), *where.max(axis=0).tolist()]


def average(maps, scores, threshold=0.1):
    maps = np.array(maps, dtype=np.float64).reshape(len(scores), 1, -1)
    boxes = np.zeros((len(scores), 4))
    return detector(maps=maps, scores=scores, boxes=boxes, pairs=()).average_map(threshold).tolist()


def test_the_average_map_is_that_of_the_sure_predictions():
    # (1 + 1) / 2 and (0 + .5) / 2, over the larger; the third's score is not more than the threshold.
    assert average([[1, 0], [1, 0.5], [0, 1]], (0.9, 0.2, 0.1)) == [[1, 0.25]]
    assert average([[1, 0], [1, 0.5], [0, 1]], (0.9, 0.2, 0.1), 0.5) == [[1, 0]]
    # Constant maps of .2 and .6 are .4 everywhere, their own maximum.
    assert average([[0.2, 0.2], [0.6, 0.6]], (0.9, 0.9)) == [[1, 1]]
    assert average([[0, 0]], (0.9,)) == [[0, 0]]


def test_without_a_sure_prediction_its_detector_is_named():
    with pytest.raises(ValueError, match=r"with: no prediction has a score > 0.95 \(the highest has 0.90\); lower"):
        compare_maps(photo(), [detector()], 0.95)
    with pytest.raises(ValueError, match=r"none: no prediction has a score > 0.1 \(there is none at all\)"):
        compare_maps(photo(), [detector("none", scores=(), boxes=(), pairs=())])


def test_the_average_lies_over_the_image_as_high_as_two_rows_of_pairs():
    maps = np.zeros((2, 2, 2))
    maps[:, :, 1] = 1
    figure = compare_maps(photo(), [detector(maps=maps), detector(maps=maps[:, :, ::-1])])
    # 200 x 300 at 430 x 645; places outside the boxes.
    for top, left, right in ((TOP, COLD, HOT), (TOP + BLOCK, HOT, COLD)):
        for y in (top, top + HEIGHT - 1):
            assert (tuple(figure[y, GAP]), tuple(figure[y, GAP + 644])) == (left, right)
            assert tuple(figure[y, GAP + 645]) == (255,) * 3
    # The better one's box, x from 100 and y from 40 of the image, is 2.15 times further: 215 and 86.
    assert tuple(figure[TOP + 150, GAP + 215]) == PALETTE[0] and tuple(figure[TOP + 86, GAP + 250]) == PALETTE[0]
    assert tuple(figure[TOP + 150, GAP + 344 - 1]) == PALETTE[1]
    # As wide as the average and one pair.
    assert figure.shape[1] == 2 * GAP + 645 + SPACE + 2 * CELL + MIDDLE


def test_a_pairs_maps_are_cut_around_both_its_boxes():
    maps = np.zeros((2, 20, 30))
    maps[0, 7, 11] = maps[1, 7, 14] = 1
    figure = compare_maps(photo(), [detector(maps=maps)])
    # The boxes cover 60 x 80: the square has side 104 around (130,80), so it begins at (78,28).
    scale, x0 = CELL / 104, GAP + 645 + SPACE
    cells = [figure[TOP : TOP + CELL, x : x + CELL] for x in (x0, x0 + CELL + MIDDLE)]
    for cell, x1, color in zip(cells, (100, 120), PALETTE):
        assert tuple(cell[CELL // 2, round((x1 - 78) * scale)]) == color
    # Cell (7,11) of the map is centred at (115,75) of the image, (7,14) at (145,75).
    y, first, second = round(47 * scale), round(37 * scale), round(67 * scale)
    assert cells[0][y, first, 0] > 150 > cells[0][y, second, 0]
    assert cells[1][y, second, 0] > 150 > cells[1][y, first, 0]


@pytest.mark.parametrize("change", [{"iou": 0.75}, {"correlation": -0.5}])
def test_the_numbers_stand_between_the_maps_of_their_own_detector(change):
    usual = compare_maps(photo(), [detector(), detector()])
    other = compare_maps(photo(), [detector(), detector(**change)])
    y1, x1, y2, x2 = changed(usual, other)
    left = GAP + 645 + SPACE + CELL
    assert TOP + BLOCK <= y1 < y2 < TOP + BLOCK + CELL and left <= x1 < x2 < left + MIDDLE
    # The IoU in the upper half, the correlation in the lower one.
    assert (y2 < TOP + BLOCK + 0.6 * CELL) == ("iou" in change) == (y1 < TOP + BLOCK + 0.6 * CELL)


def test_captions_are_the_callers():
    usual = compare_maps(photo(), [detector("without"), detector("with")])
    y1, x1, y2, _ = changed(usual, compare_maps(photo(), [detector("before"), detector("with")]))
    assert TEXT_SIZE + 3 * GAP <= y1 < y2 < TOP - TEXT_SIZE - GAP and x1 > GAP
    # One that is longer than all else makes the figure wider.
    assert compare_maps(photo(), [detector("with many words " * 10)]).shape[1] > usual.shape[1] + 400


def test_all_detectors_show_a_pair_in_the_same_square():
    image = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    near = detector(boxes=[[104, 50, 140, 110], [120, 50, 150, 110]])
    figure = compare_maps(image, [near, detector()])
    x = GAP + 645 + SPACE
    corners = [figure[y : y + 20, x : x + 20] for y in (TOP, TOP + BLOCK)]
    assert np.array_equal(*corners)
    # Alone, the smaller boxes have a smaller square.
    alone = compare_maps(image, [near])
    assert not np.array_equal(alone[TOP : TOP + 20, x : x + 20], corners[0])


def test_pairs_fill_rows_of_two_and_every_pair_has_its_number(monkeypatch):
    labels = []
    draw = trained_maps.draw_detections
    monkeypatch.setattr(trained_maps, "draw_detections", lambda *words, **more: labels.append(words[2]) or draw(*words))
    pairs = [(0, 1), (2, 3), (0, 2)]
    figure = compare_maps(photo(), [detector(boxes=np.full((4, 4), (10, 10, 50, 90)), scores=[0.5] * 4, pairs=pairs)])
    assert labels == [["1", "", "2", "", "3", ""]]
    x, step = GAP + 645 + SPACE, 2 * CELL + MIDDLE + SPACE
    assert figure.shape[:2] == (TOP + HEIGHT + GAP, x + 2 * step - SPACE + GAP)
    filled = [
        tuple(figure[y + CELL - 1, x + column * step]) == COLD for y in (TOP, TOP + CELL + GAP) for column in (0, 1)
    ]
    assert filled == [True, True, True, False]
    # Seven pairs have four rows; beside three of them stands the average.
    many = compare_maps(photo(), [detector(pairs=[(0, 1)] * 7)])
    assert many.shape[0] == TOP + 4 * CELL + 3 * GAP + GAP
    assert many.shape[1] == 2 * GAP + round(1.5 * (3 * CELL + 2 * GAP)) + 2 * step


def test_without_pairs_the_figure_says_so():
    figure = compare_maps(photo(), [detector(pairs=())])
    assert figure.shape[0] == TOP + HEIGHT + GAP and (figure[TOP:, GAP + 645 :] == 255).all()
    assert (figure[TOP - TEXT_SIZE - GAP : TOP, GAP + 645 + SPACE :] < 255).any()


def test_pairs_stand_under_each_other_whatever_the_captions():
    # Beside a narrow image captions say where pairs begin, and 40 takes more room than 2.
    narrow, boxes = photo(200, 20), [[0, 0, 9, 9], [2, 0, 9, 9]]
    few = detector(boxes=boxes)
    many = detector(boxes=boxes * 20, scores=[0.9] * 40)
    figure = compare_maps(narrow, [few, many])
    # The average is 43 pixels wide; right of it, at the height of a pair's last row, is nothing but the pair.
    starts = [(figure[top + CELL - 1, GAP + 43 :] < 255).any(axis=1).argmax() for top in (TOP, TOP + BLOCK)]
    assert starts[0] == starts[1] > 300
    assert [compare_maps(narrow, [one]).shape == figure[BLOCK:].shape for one in (few, many)] == [False, True]


@pytest.mark.parametrize("size", [(30, 900), (900, 30), (8, 8)])
def test_words_have_room_beside_images_of_any_shape(size):
    figure = compare_maps(photo(*size), [detector(boxes=[[0, 0, 5, 5], [2, 0, 7, 5]])])
    band = (figure[TOP - TEXT_SIZE - GAP : TOP - 2] < 255).any(axis=(0, 2))
    gaps = np.flatnonzero(np.diff(np.flatnonzero(band)) >= SPACE - 2)
    assert len(gaps) == 1
    # Never wider than 1.6 times the height of two rows.
    assert figure.shape[1] <= 2 * GAP + round(1.6 * HEIGHT) + SPACE + 2 * CELL + MIDDLE


def test_boxes_far_beyond_the_image_end_at_its_border():
    far = [[-1e6, -1e6, 140, 1e6], [120, 40, 1e6, 120]]
    near = [[0, 0, 140, 200], [120, 40, 300, 120]]
    assert np.array_equal(*(compare_maps(photo(), [detector(boxes=boxes)]) for boxes in (far, near)))


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match=r"the same pairs, but they have \[1, 0\] of them"):
        compare_maps(photo(), [detector(), detector(pairs=())])
    with pytest.raises(ValueError, match=r"\(h,w,3\) uint8"):
        compare_maps(np.zeros((9, 9)), [detector()])
    with pytest.raises(ValueError, match=r"\[0,1\]"):
        compare_maps(photo(), [detector(maps=np.full((2, 20, 30), 3.0), scores=(0.9, 0.05))], 0.95 - 0.9)


def test_arguments_are_left_alone():
    image, own = photo(), detector(boxes=[[-5, 0, 9, 9], [1, 0, 12, 9]])
    before = replace(own, boxes=own.boxes.copy(), maps=own.maps.copy(), pairs=own.pairs.copy())
    compare_maps(image, [own])
    assert np.array_equal(image, photo())
    assert all(np.array_equal(getattr(own, name), getattr(before, name)) for name in ("boxes", "maps", "pairs"))
