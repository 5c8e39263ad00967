"""Which pairs are compared, on boxes whose overlaps are known."""

import numpy as np
import pytest

from odam_d2.evaluation.detections.common_pairs import Found, common_pairs

# IoU of A and B 60/140 = 3/7, of B and C 70/130 = 7/13, of A and C 30/170 = 3/17; D overlaps nobody.
A, B, C, D = [0, 0, 10, 10], [4, 0, 14, 10], [7, 0, 17, 10], [50, 50, 60, 60]


def found(*boxes, classes=None):
    boxes = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    classes = np.zeros(len(boxes), dtype=np.int64) if classes is None else np.array(classes)
    return Found(boxes, np.full(len(boxes), 0.5, dtype=np.float32), classes)


def test_the_pair_that_overlaps_most_comes_first_and_takes_its_objects():
    # B and C; A, whose partner is taken, and D are left.
    assert common_pairs([found(A, B, C, D)], 4).tolist() == [[[1, 2]]]
    # Without C: A and B. D overlaps nobody.
    assert common_pairs([found(D, A, B)], 4).tolist() == [[[1, 2]]]


def test_the_left_one_comes_first_and_no_more_pairs_than_asked_for():
    # E and F overlap by 50/150 = 1/3, less than B and C.
    e, f = [100, 0, 110, 10], [105, 0, 115, 10]
    boxes = found(f, C, e, B)
    assert common_pairs([boxes], 4).tolist() == [[[3, 1], [2, 0]]]
    assert common_pairs([boxes], 1).tolist() == [[[3, 1]]]


def test_all_detectors_show_the_same_objects_in_the_same_order():
    # The other detector's boxes are one pixel further right (IoU 90/110 with their own), and in another order.
    first, other = found(A, B, D), found([51, 50, 61, 60], [5, 0, 15, 10], [1, 0, 11, 10])
    assert common_pairs([first, other], 4).tolist() == [[[0, 1]], [[2, 1]]]
    assert common_pairs([other, first], 4).tolist() == [[[2, 1]], [[0, 1]]]
    # The first detector says what is left: middles at 20 and 21 here, at 22 and 20 in the other.
    wide, narrow = [0, 0, 40, 10], [12, 0, 30, 10]
    pairs = common_pairs([found(wide, narrow), found([0, 0, 44, 10], [10, 0, 30, 10])], 4)
    assert pairs.tolist() == [[[0, 1]], [[0, 1]]]


def test_what_one_detector_misses_is_in_no_pair():
    # Without C in the other, B is free for A.
    assert common_pairs([found(A, B, C), found(A, B, D)], 4).tolist() == [[[0, 1]], [[0, 1]]]
    # Nor is an object that lies elsewhere: IoU of A and A moved by 4 is 3/7, by 3 7/13.
    for moved, count in ((4, 0), (3, 1)):
        other = found([0, moved, 10, 10 + moved], B)
        assert common_pairs([found(A, B), other], 4).shape == (2, count, 2)
        assert common_pairs([found(A, B), other], 4, same_object=0.4).shape == (2, 1, 2)
    # Two that overlap for one detector alone are no pair: the other's [1,11] and [11,21] only touch.
    apart = found([1, 0, 11, 10], [11, 0, 21, 10])
    assert common_pairs([found(B, C), apart], 4, same_object=0.4).shape == (2, 0, 2)


def test_objects_of_two_classes_are_no_pair_nor_the_same_object():
    assert common_pairs([found(A, B, classes=[0, 1])], 4).shape == (1, 0, 2)
    assert common_pairs([found(A, B), found(A, B, classes=[1, 1])], 4).shape == (2, 0, 2)


@pytest.mark.parametrize("boxes", [[], [A]])
def test_with_nothing_to_pair_there_are_no_pairs(boxes):
    for others in ([], [found()], [found(A, B)]):
        assert common_pairs([found(*boxes), *others], 4).shape == (1 + len(others), 0, 2)


def test_pairs_equal_those_of_a_plain_search():
    generator = np.random.default_rng(0)
    corner = generator.random((30, 2)) * 60
    boxes = np.concatenate([corner, corner + 10 + generator.random((30, 2)) * 30], axis=1)
    moved = boxes + generator.normal(scale=0.5, size=boxes.shape)
    order = generator.permutation(30)

    def iou(p, q):
        shared = max(0, min(p[2], q[2]) - max(p[0], q[0])) * max(0, min(p[3], q[3]) - max(p[1], q[1]))
        return shared / (sum((b[2] - b[0]) * (b[3] - b[1]) for b in (p, q)) - shared)

    # Boxes that moved so little are closest to themselves.
    for i in range(30):
        assert 0.5 < iou(boxes[i], moved[i]) == max(iou(boxes[i], other) for other in moved)
    least = {(i, j): min(iou(b[i], b[j]) for b in (boxes, moved)) for i in range(30) for j in range(i + 1, 30)}
    expected = []
    while least and max(least.values()) > 0:
        i, j = max(least, key=least.get)
        expected.append(sorted((i, j), key=lambda k: boxes[k][0] + boxes[k][2]))
        least = {pair: overlap for pair, overlap in least.items() if not {i, j} & set(pair)}
    zeros = np.zeros(30, dtype=np.int64)
    pairs = common_pairs([Found(boxes, zeros, zeros), Found(moved[order], zeros, zeros)], 30)
    assert pairs[0].tolist() == expected and len(expected) > 8
    assert order[pairs[1]].tolist() == expected
