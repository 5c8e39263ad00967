"""TIDE's six kinds: each by hand, every border between two, and what an image as a whole adds up to."""

import numpy as np
import pytest

from odam_d2.evaluation.detections.error_modes import ERRORS, sort_errors

# Objects of class 0 and 1, far from each other; IoU of boxes of height 10 are worked out along x alone.
CAT, DOG = [0, 0, 10, 10], [100, 0, 110, 10]


def sort(detections, objects=((CAT, 0), (DOG, 1)), crowd=None, **options):
    """Detections and objects are (box, class); detections have falling scores."""
    gt = np.array([box for box, _ in objects], dtype=float).reshape(-1, 4)
    boxes = np.array([box for box, _ in detections], dtype=float).reshape(-1, 4)
    scores = np.linspace(0.9, 0.5, len(detections)) if detections else np.zeros(0)
    labels = [np.array([label for _, label in some], dtype=int) for some in (objects, detections)]
    return sort_errors(gt, labels[0], boxes, scores, labels[1], crowd, **options)


def shifted(box, x):
    return [box[0] + x, box[1], box[2] + x, box[3]]


@pytest.mark.parametrize(
    ("detection", "kind", "about", "iou"),
    [
        # As wide as the object and shifted by x: (10 - x) / (10 + x).
        ((shifted(CAT, 2), 0), "correct", 0, 8 / 12),
        ((shifted(CAT, 2), 1), "classification", 0, 8 / 12),
        ((shifted(CAT, 5), 0), "localisation", 0, 5 / 15),
        ((shifted(CAT, 5), 1), "both", 0, 5 / 15),
        ((shifted(CAT, 9), 0), "background", -1, 0),
        ((shifted(CAT, 9), 1), "background", -1, 0),
        ((shifted(CAT, 50), 0), "background", -1, 0),
        # At exactly one half, and at exactly a tenth of an object twenty pixels wide.
        (([0, 0, 20, 10], 0), "correct", 0, 0.5),
        (([0, 0, 20, 10], 1), "classification", 0, 0.5),
        (([0, 0, 10, 1], 0), "localisation", 0, 0.1),
        (([0, 0, 10, 1], 1), "both", 0, 0.1),
    ],
)
def test_one_detection_by_hand(detection, kind, about, iou):
    found = sort([detection])
    assert list(found.kinds) == [kind] and found.objects.tolist() == [about] and found.rivals.tolist() == [-1]
    assert found.iou == pytest.approx([iou])


def test_the_second_detection_of_an_object_is_a_duplicate_of_the_better_one():
    found = sort([(shifted(CAT, 1), 0), (CAT, 0), (CAT, 0)])
    # The first to come, by score, has the object, although the others fit better.
    assert list(found.kinds) == ["correct", "duplicate", "duplicate"]
    assert found.objects.tolist() == [0, 0, 0] and found.rivals.tolist() == [-1, 0, 0]
    assert found.found.tolist() == [0, -1] and found.missed.tolist() == [1]


def test_order_of_the_scores_decides_and_not_that_of_the_list():
    boxes = np.array([shifted(CAT, 1), CAT], dtype=float)
    found = sort_errors(np.array([CAT]), [0], boxes, [0.3, 0.8], [0, 0])
    assert list(found.kinds) == ["duplicate", "correct"] and found.rivals.tolist() == [1, -1]


def test_a_detection_that_lost_its_best_object_takes_the_next_it_fits():
    """Two cats 2 apart: the second detection fits both, and the first has the left one."""
    found = sort([(CAT, 0), (CAT, 0)], objects=[(CAT, 0), (shifted(CAT, 2), 0)])
    assert list(found.kinds) == ["correct", "correct"] and found.found.tolist() == [0, 1]


def test_a_poor_box_of_an_object_of_its_class_comes_before_a_good_one_of_another():
    """A dog's box with a cat beside it, called cat: it would be right if only its box were the cat's."""
    objects = [(CAT, 0), (shifted(CAT, 5), 1)]
    found = sort([(shifted(CAT, 5), 0)], objects)
    assert list(found.kinds) == ["localisation"] and found.objects.tolist() == [0]


def test_a_wrong_class_comes_before_a_duplicate():
    objects = [(CAT, 0), (shifted(CAT, 1), 1)]
    found = sort([(CAT, 0), (CAT, 0)], objects)
    assert list(found.kinds) == ["correct", "classification"] and found.objects.tolist() == [0, 1]


def test_objects_that_an_error_meant_are_not_missed():
    """TIDE's rule: repairing the class or the box would find them. Both, duplicate and background repair nothing."""
    assert sort([(CAT, 1)]).missed.tolist() == [1]
    assert sort([(shifted(CAT, 5), 0)]).missed.tolist() == [1]
    assert sort([(shifted(CAT, 5), 1)]).missed.tolist() == [0, 1]
    assert sort([(shifted(CAT, 50), 0)]).missed.tolist() == [0, 1]
    assert sort([(CAT, 0), (DOG, 1)]).missed.tolist() == []


def test_detections_in_a_crowd_of_their_class_are_ignored_and_crowds_are_not_missed():
    crowd = np.array([False, True])
    objects = [(CAT, 0), ([200, 0, 300, 10], 1)]
    found = sort([([210, 0, 220, 10], 1), ([210, 0, 220, 10], 0), (CAT, 1), ([295, 0, 306, 10], 1)], objects, crowd)
    # The last one lies outside by 6 of 11.
    assert list(found.kinds) == ["ignored", "background", "classification", "background"]
    assert found.missed.tolist() == []


def test_a_duplicate_in_a_crowd_is_ignored_too():
    objects = [(CAT, 0), ([0, 0, 50, 50], 0)]
    found = sort([(CAT, 0), (CAT, 0)], objects, np.array([False, True]))
    assert list(found.kinds) == ["correct", "ignored"] and found.rivals.tolist() == [-1, -1]


def test_nothing_at_all_works():
    nothing = sort([], [])
    assert list(nothing.kinds) == [] and nothing.missed.shape == (0,) and nothing.found.shape == (0,)
    assert sort([]).missed.tolist() == [0, 1]
    assert list(sort([(CAT, 0)], []).kinds) == ["background"]


def test_thresholds_change_the_kinds():
    detection = [(shifted(CAT, 5), 0)]
    assert list(sort(detection, foreground=0.3).kinds) == ["correct"]
    assert list(sort(detection, background=0.4).kinds) == ["background"]
    # At 0, what does not touch anything is background all the same.
    assert list(sort([(shifted(CAT, 50), 0)], background=0.0).kinds) == ["background"]


def slow_kind(d, detections, objects, found):
    """The definitions of the paper as sentences, each by itself."""

    def iou(a, b):
        w = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
        return w / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w)

    box, label = detections[d]
    own = [iou(box, other) for other, kind in objects if kind == label]
    others = [iou(box, other) for other, kind in objects if kind != label]
    if d in found:
        return "correct"
    if own and 0.1 <= max(own) < 0.5:
        return "localisation"
    if others and max(others) >= 0.5:
        return "classification"
    if own and max(own) >= 0.5:
        return "duplicate"
    return "background" if max(own + others) < 0.1 else "both"


def test_crowded_images_agree_with_the_definitions_one_by_one():
    rng, seen = np.random.default_rng(0), set()
    for _ in range(40):

        def some(count):
            corner = rng.integers(0, 30, (count, 2))
            return [
                ([*c, *(c + s)], int(k))
                for c, s, k in zip(corner, rng.integers(8, 20, (count, 2)), rng.integers(0, 2, count))
            ]

        objects, detections = some(5), some(12)
        found = sort(detections, objects)
        expected = [slow_kind(d, detections, objects, set(found.found.tolist())) for d in range(12)]
        assert list(found.kinds) == expected
        seen |= set(expected)
        # Every object is found once, meant or missed.
        for row in range(5):
            meant = [
                d for d in range(12) if found.objects[d] == row and found.kinds[d] in ("classification", "localisation")
            ]
            assert (row in found.missed) == (found.found[row] < 0 and not meant)
    assert seen == {"correct", *ERRORS}


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        ({"background": 0.5}, "background 0.5 and foreground 0.5"),
        ({"foreground": 1.5}, "foreground 1.5"),
        ({"crowd": np.zeros(3, bool)}, "2 objects have 2 classes and 3 crowd flags"),
    ],
)
def test_what_cannot_be_is_refused(change, culprit):
    with pytest.raises(ValueError, match=culprit):
        sort([(CAT, 0)], **change)


def test_a_score_that_is_none_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        sort_errors([CAT], [0], [CAT], [np.nan], [0])
