"""Which pairs an NMS spared, on boxes whose overlaps are known."""

import numpy as np
import pytest

from odam_d2.evaluation.detections.spared import count_spared

A, B, NEAR_A, FAR = [0, 0, 10, 10], [3, 0, 13, 10], [1, 0, 11, 10], [50, 50, 60, 60]


def boxes(*rows):
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


def test_two_people_and_one_person_twice():
    # IoU of A and B 70/130 = .54, of A and NEAR_A 90/110 = .82, of B and NEAR_A 80/120 = .67.
    people = boxes(A, B)
    assert count_spared(boxes(A, B, FAR), np.ones(3), people) == (1, 1)
    assert count_spared(boxes(A, NEAR_A), np.ones(2), people) == (1, 0)
    # A with B and NEAR_A with B are two people, A with NEAR_A is one.
    assert count_spared(boxes(A, B, NEAR_A), np.ones(3), people) == (3, 2)


def test_weak_detections_and_lesser_overlaps_do_not_count():
    people = boxes(A, B)
    assert count_spared(boxes(A, B), np.array([0.9, 0.29]), people) == (0, 0)
    assert count_spared(boxes(A, B), np.array([0.9, 0.3]), people) == (1, 1)
    assert count_spared(boxes(A, B), np.ones(2), people, nms_threshold=0.6) == (0, 0)


@pytest.mark.parametrize("people", [boxes(), boxes(FAR), boxes(A)])
def test_a_box_on_nobody_is_no_person(people):
    assert count_spared(boxes(A, B), np.ones(2), people, match_threshold=0.6) == (1, 0)


def test_nothing_detected():
    assert count_spared(boxes(), np.ones(0), boxes(A)) == (0, 0)
