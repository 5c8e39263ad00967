"""Which detections somebody means: every way to say it, and what is refused."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from odam_d2.choice import choose_detections

NAMES = ["person", "dog", "parking meter"]
SCORES = [0.9, 0.8, 0.6, 0.4]


def found(count=4):
    """A person, a dog, another person and a parking meter, in descending score."""
    every = Instances((50, 60))
    every.pred_boxes = Boxes(torch.zeros(4, 4))
    every.scores = torch.tensor(SCORES)
    every.pred_classes = torch.tensor([0, 1, 0, 2])
    return every[torch.arange(count)]


def choose(chosen, count=4):
    positions = choose_detections(found(count), chosen, NAMES)
    assert positions.dtype == torch.int64 and positions.dim() == 1
    return positions.tolist()


def test_none_means_all():
    assert choose(None) == [0, 1, 2, 3]


@pytest.mark.parametrize(("name", "expected"), [("person", [0, 2]), ("dog", [1]), ("parking meter", [3])])
def test_a_class_name_means_its_detections(name, expected):
    assert choose(name) == expected


def test_a_class_of_which_nothing_was_detected_means_none():
    assert choose("parking meter", count=3) == []


@pytest.mark.parametrize(
    "mask",
    [
        torch.tensor(SCORES) > 0.5,
        np.array(SCORES) > 0.5,
        [score > 0.5 for score in SCORES],
        tuple(score > 0.5 for score in SCORES),
        [np.bool_(score > 0.5) for score in SCORES],
    ],
    ids=["tensor", "array", "list", "tuple", "numpy booleans"],
)
def test_a_mask_selects_where_it_is_true(mask):
    # As positions, True and False would be detections 1, 1, 1 and 0.
    assert choose(mask) == [0, 1, 2]


def test_a_mask_may_select_nothing():
    assert choose([False] * 4) == [] and choose(torch.zeros(0, dtype=torch.bool), count=0) == []


@pytest.mark.parametrize(
    "positions",
    [[2, 0], (2, 0), np.array([2, 0]), np.array([2, 0], dtype=np.uint8), torch.tensor([2, 0]), [np.int64(2), 0]],
    ids=["list", "tuple", "array", "unsigned array", "tensor", "numpy integers"],
)
def test_positions_are_taken_in_the_order_given(positions):
    assert choose(positions) == [2, 0]


@pytest.mark.parametrize("one", [3, np.int64(3), torch.tensor(3)], ids=["int", "numpy integer", "tensor"])
def test_one_whole_number_is_one_detection(one):
    assert choose(one) == [3]


@pytest.mark.parametrize("nothing", [[], (), np.array([]), torch.tensor([])], ids=["list", "tuple", "array", "tensor"])
def test_an_empty_choice_means_none(nothing):
    assert choose(nothing) == []


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda every: every.scores > 0.7, [0, 1]),
        (lambda every: (every.scores < 0.7).nonzero()[:, 0], [2, 3]),
        (lambda every: "person", [0, 2]),
        (lambda every: len(every) - 1, [3]),
        (lambda every: None, [0, 1, 2, 3]),
    ],
    ids=["mask", "positions", "class name", "int", "all"],
)
def test_a_function_is_given_the_detections_and_answers_in_any_of_these_ways(function, expected):
    assert choose(function) == expected


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ([0.0, 1.0], r"positions \(whole numbers\).*not \[0\.0, 1\.0\]"),
        (0.5, "not 0.5"),
        (torch.tensor(SCORES), r"not float32 of shape \(4,\)"),
        (np.array([1j]), r"not complex128 of shape \(1,\)"),
        ([[0, 1], [2, 3]], r"not \[\[0, 1\], \[2, 3\]\]"),
        ([[0], [1, 2]], r"not \[\[0\], \[1, 2\]\]"),
        (["person", "dog"], r"not \['person', 'dog'\]"),
        ({0, 1}, r"not \{0, 1\}"),
        (torch.ones(3, dtype=torch.bool), r"the mask has shape \(3,\); the detector found 4"),
        ([True] * 5, r"the mask has shape \(5,\); the detector found 4"),
        (torch.ones(4, 1, dtype=torch.bool), r"the mask has shape \(4, 1\)"),
        (True, r"the mask has shape \(\)"),
        ([0, 4], "there is no detection 4; the detector found 4"),
        (-1, "there is no detection -1"),
        (lambda every: [9], "there is no detection 9"),
        ("persn", "no class 'persn'; the closest of its 3 classes are person$"),
        ("zebra", "no class 'zebra'; its 3 classes are person, dog, parking meter$"),
    ],
)
def test_anything_else_is_refused_in_one_sentence(chosen, message):
    with pytest.raises(ValueError, match=message) as refused:
        choose(chosen)
    assert "\n" not in str(refused.value)


def test_a_mask_of_no_detections_is_refused_where_there_are_some():
    with pytest.raises(ValueError, match=r"the mask has shape \(0,\); the detector found 4"):
        choose(np.zeros(0, dtype=bool))
