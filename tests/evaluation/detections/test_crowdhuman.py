"""CrowdHuman's measures: every rule by hand."""

import math

import numpy as np
import pytest
from crowds import BESIDE, FAR, PERSON, found, truth

from odam_d2.evaluation.detections.crowd_matching import (
    DROPPED,
    FALSE,
    HIT,
    Overlaps,
    clip_boxes,
    count_pairs,
    match_by_score,
    measure_overlaps,
)
from odam_d2.evaluation.detections.crowdhuman import (
    FPPI_REFERENCES,
    JI_THRESHOLDS,
    average_precision,
    evaluate_crowd,
    jaccard_index,
    log_average_miss_rate,
)


def verdicts(people, boxes, regions=(), scores=None):
    return match_by_score(measure_overlaps(truth(people, regions), found(boxes, scores))).tolist()


def pairs(people, boxes, regions=(), scores=None, threshold=0.0):
    overlaps = measure_overlaps(truth(people, regions), found(boxes, scores))
    return count_pairs(overlaps, np.array([threshold]))[0].tolist()


# ---- Greedy matching


def test_a_person_is_found_once():
    assert verdicts([PERSON], [PERSON, PERSON]) == [HIT, FALSE]


def test_a_detection_takes_the_person_of_the_largest_iou():
    # The first detection is the second person exactly; the other person is left for the second one, IoU 2/3.
    assert verdicts([PERSON, BESIDE], [BESIDE, PERSON]) == [HIT, HIT]
    assert verdicts([PERSON, BESIDE], [BESIDE, BESIDE]) == [HIT, HIT]
    assert verdicts([PERSON, BESIDE], [BESIDE, BESIDE, BESIDE]) == [HIT, HIT, FALSE]


def test_greedy_matching_is_not_the_best_matching():
    # Detection 1 takes person 1 (IoU 1); detection 2 overlaps person 1 only (60 / 100), though 1 overlaps 2 as well.
    assert verdicts([PERSON, BESIDE], [PERSON, (0, 0, 6, 10)]) == [HIT, FALSE]


def test_an_iou_of_one_half_is_not_enough():
    # 10 x 10 of 10 x 20: exactly 1/2.
    assert verdicts([(0, 0, 10, 20)], [PERSON]) == [FALSE]
    assert verdicts([(0, 0, 10, 20)], [(0, 0, 10, 10.001)]) == [HIT]


def test_the_higher_score_comes_first_whatever_the_order_of_the_file():
    overlaps = measure_overlaps(truth([PERSON]), found([PERSON, BESIDE], scores=[0.3, 0.9]))
    assert overlaps.scores.tolist() == [0.9, 0.3]
    assert overlaps.iou[:, 0].tolist() == pytest.approx([2 / 3, 1])
    assert match_by_score(overlaps).tolist() == [HIT, FALSE]


def test_equal_scores_keep_the_order_of_the_file():
    overlaps = measure_overlaps(truth([PERSON]), found([BESIDE, FAR, PERSON], scores=[0.5, 0.5, 0.5]))
    assert overlaps.iou[:, 0].tolist() == pytest.approx([2 / 3, 0, 1])
    assert match_by_score(overlaps).tolist() == [HIT, FALSE, FALSE]


def test_the_first_of_two_equal_people_is_taken():
    # The detection lies in the middle: IoU 8 * 10 / 120 with both. Then the first is gone and only the second is left.
    people = [(-2, 0, 8, 10), (2, 0, 12, 10)]
    shifted = [(x1 + 20, y1, x2 + 20, y2) for x1, y1, x2, y2 in people]
    assert verdicts(shifted, [(20, 0, 30, 10), shifted[0]]) == [HIT, FALSE]
    assert verdicts(shifted, [(20, 0, 30, 10), shifted[1]]) == [HIT, HIT]


# ---- Regions to be ignored


def test_a_region_takes_detections_of_which_more_than_half_lies_in_it():
    # 6 of 10 columns inside: dropped. 5 of 10: exactly half, false.
    assert verdicts([], [(4, 0, 14, 10), (5, 0, 15, 10)], regions=[PERSON]) == [DROPPED, FALSE]


def test_a_region_takes_as_many_as_come_however_small():
    # Area 1 in 10 x 10: an IoU of .01, but all of the detection.
    assert verdicts([], [(1, 1, 2, 2), (1, 1, 2, 2), PERSON], regions=[PERSON]) == [DROPPED] * 3
    # The other way round only 1 / 100 of the detection is inside.
    assert verdicts([], [PERSON], regions=[(1, 1, 2, 2)]) == [FALSE]


def test_two_regions_do_not_add_up():
    # 40 % in each.
    assert verdicts([], [PERSON], regions=[(0, 0, 4, 10), (6, 0, 10, 10)]) == [FALSE]


def test_people_come_before_regions():
    # IoU with the person 2/3, but all of it inside the region; the second detection finds the person taken.
    assert verdicts([PERSON], [BESIDE, BESIDE], regions=[(0, 0, 20, 20)]) == [HIT, DROPPED]


# ---- Clipping


def test_boxes_are_cut_to_the_image():
    # Height 100, width 80. The second lies right below the image, the third left above, the fourth in the last pixel.
    boxes = np.array([[-5.0, -5, 200, 200], [150, 150, 160, 160], [-20, -20, -10, -10], [79.5, 99.5, 79.8, 99.8]])
    before = boxes.copy()
    expected = [[0, 0, 80, 100], [79, 99, 80, 100], [0, 0, 0, 0], [79, 99, 79.8, 99.8]]
    assert clip_boxes(boxes, 100, 80).tolist() == expected
    assert np.array_equal(boxes, before)


def test_detections_people_and_regions_are_compared_inside_the_image():
    # Outside, the person adds 10 x 10 that no detection can show: 100 / 200 = 1/2 would be too little.
    assert verdicts([(-10, 0, 10, 10)], [PERSON]) == [HIT]
    # Of the detection 4 of 14 columns lie in the region, inside the image 4 of 4.
    assert verdicts([], [(-10, 0, 4, 10)], regions=[(0, 0, 10, 10)]) == [DROPPED]
    # A box outside the image has no area: it finds nothing and no region takes it.
    assert verdicts([(-20, 0, -10, 10)], [(-20, 0, -10, 10)], regions=[(0, 0, 10, 10)]) == [FALSE]


def test_the_size_comes_from_the_detections_or_from_both_alike():
    size = (100, 200)
    assert evaluate_crowd([truth([(190, 0, 210, 10)], size=size)], [found([(190, 0, 200, 10)])]).recall == 100
    with pytest.raises(ValueError, match=r"image a is 50 x 200 \(height x width\).* but 100 x 200"):
        evaluate_crowd([truth([PERSON], size=(50, 200))], [found([PERSON])])


# ---- AP


def test_average_precision_is_the_area_under_the_raw_points():
    # Hit, false, hit, of 2 people: recall .5, .5, 1, precision 1, 1/2, 2/3. Area 0 + .5 * (1/2 + 2/3) / 2 = 7/24.
    assert average_precision(np.array([True, False, True]), 2) == pytest.approx(7 / 24)


def test_nothing_counts_left_of_the_first_point():
    # Recall .5 and 1 at precision 1: from .5 to 1 only.
    assert average_precision(np.array([True, True]), 2) == pytest.approx(0.5)
    assert average_precision(np.array([True]), 1) == 0
    assert average_precision(np.array([], dtype=bool), 3) == 0


# ---- Miss rate


def test_miss_rate_is_read_at_the_first_point_with_enough_false_positives_else_at_the_last():
    # 4 people, 10 images; hit, false, hit, false: missed .75, .75, .5, .5 at 0, .1, .1, .2 false positives an image.
    # .0100 to .1000 (five, the last with equality) take the second point, .1778 the fourth, the other three the last.
    expected = (0.75**5 * 0.5**4) ** (1 / 9)
    assert log_average_miss_rate(np.array([True, False, True, False]), 4, 10) == pytest.approx(expected)


def test_the_references_are_nine_steps_from_one_hundredth_to_one():
    assert FPPI_REFERENCES.tolist() == pytest.approx([10 ** (i / 4 - 2) for i in range(9)], abs=1e-4)


def test_without_false_positives_every_reference_takes_the_last_point():
    assert log_average_miss_rate(np.array([True, True, True]), 4, 10) == pytest.approx(0.25)


def test_a_miss_rate_of_zero_anywhere_is_zero_overall():
    # Miss rate .5 at 1/20 = .05 false positives (references up to .0316), then 0 at the last point.
    assert log_average_miss_rate(np.array([True, False, True]), 2, 20) == 0


def test_nothing_detected_misses_everything():
    assert log_average_miss_rate(np.array([], dtype=bool), 4, 10) == 1


def test_images_without_people_count_for_the_false_positives_per_image():
    # False, hit, of 2 people. In one image: 1 false positive an image from the start, so all nine references take the
    # first point, where both are missed. With 9 empty images more .1: the last four take the second point, .5.
    image, boxes = truth([PERSON, FAR]), found([(20, 20, 30, 30), PERSON])
    assert evaluate_crowd([image], [boxes]).mr == pytest.approx(100)
    empty = [truth([], name=f"empty {i}") for i in range(9)]
    assert evaluate_crowd([image, *empty], [boxes]).mr == pytest.approx(100 * 0.5 ** (4 / 9))


# ---- Jaccard index


def test_pairs_people_and_detections_by_hand():
    # One of two people found, one false detection: k / (m + n - k) = 1 / (2 + 2 - 1).
    assert pairs([PERSON, FAR], [PERSON, (20, 20, 30, 30)]) == [1, 2, 2]
    assert evaluate_crowd([truth([PERSON, FAR])], [found([PERSON, (20, 20, 30, 30)])]).ji == pytest.approx(100 / 3)


def test_the_matching_has_the_largest_sum_and_is_not_greedy():
    # Greedy: detection 1 takes person 1 (IoU 1), and detection 2 (60 / 100 with person 1) nobody, sum 1.
    # Best: detection 1 to person 2 (2/3), detection 2 to person 1 (.6), sum 1.27.
    assert pairs([PERSON, BESIDE], [PERSON, (0, 0, 6, 10)]) == [2, 2, 2]


def test_the_largest_sum_may_have_fewer_pairs():
    # Three pairs of .51 are possible, two pairs of 1 are more.
    iou = np.array([[0.51, 0, 0], [1, 0.51, 0], [0, 1, 0.51]])
    nowhere = np.zeros(3, dtype=bool)
    overlaps = Overlaps(np.array([0.9, 0.8, 0.7]), iou, nowhere, nowhere)
    assert count_pairs(overlaps, np.array([0.0]))[0].tolist() == [2, 3, 3]


def test_pairs_need_an_iou_above_one_half():
    assert pairs([(0, 0, 10, 20)], [PERSON]) == [0, 1, 1]
    assert pairs([(0, 0, 10, 20)], [(0, 0, 10, 10.001)]) == [1, 1, 1]


def test_unmatched_detections_and_people_in_regions_leave():
    region = [(0, 0, 12, 20)]
    # Person and detection inside, far apart from each other: both leave.
    assert pairs([(0, 0, 5, 5)], [(6, 6, 12, 12)], regions=region) == [0, 0, 0]
    # A pair inside stays; the second detection of the person leaves.
    assert pairs([PERSON], [PERSON, BESIDE], regions=region) == [1, 1, 1]
    # Exactly half inside stays.
    assert pairs([(7, 0, 17, 10)], [(7, 10, 17, 20)], regions=region) == [0, 1, 1]


def test_score_thresholds_are_strict_and_the_best_one_counts():
    # Person at .95, false ones at .35 and .4. Scores > 0 to .3: 1/3; > .4 leaves out .4 itself: only the person, 1.
    boxes = found([PERSON, FAR, (20, 20, 30, 30)], scores=[0.95, 0.35, 0.4])
    result = evaluate_crowd([truth([PERSON])], [boxes])
    assert result.ji == 100 and result.ji_threshold == 0.4
    counts = count_pairs(measure_overlaps(truth([PERSON]), boxes), JI_THRESHOLDS)
    assert counts.tolist() == [[1, 1, 3]] * 4 + [[1, 1, 1]] * 6
    # Above .9 nothing is left: the person alone.
    assert pairs([PERSON], [PERSON], scores=[0.9], threshold=0.9) == [0, 1, 0]
    # A score of 0 is never taken.
    assert pairs([PERSON], [PERSON], scores=[0.0]) == [0, 1, 0]


def test_the_matching_is_done_anew_for_each_threshold():
    # Both: detection 1 to person 2, detection 2 to person 1. Detection 1 alone: one pair.
    overlaps = measure_overlaps(truth([PERSON, BESIDE]), found([PERSON, (0, 0, 6, 10)], scores=[0.9, 0.5]))
    assert count_pairs(overlaps, np.array([0.4, 0.5])).tolist() == [[2, 2, 2], [1, 2, 1]]


def test_images_with_nothing_to_find_and_nothing_found_do_not_count():
    # At 0: (1/1 + 0/1) / 2. At .5 the second image drops out: 1/1.
    images = [truth([PERSON]), truth([], name="b")]
    boxes = [found([PERSON], scores=[0.95]), found([FAR], scores=[0.5], name="b")]
    result = evaluate_crowd(images, boxes)
    assert (result.ji, result.ji_threshold) == (100, 0.5)
    assert jaccard_index(np.array([[[1, 1, 1]] * 10, [[0, 0, 1]] * 10])) == (0.5, 0.0)


def test_an_image_without_detections_counts_as_missed():
    images = [truth([PERSON]), truth([PERSON], name="b")]
    expected = evaluate_crowd(images, [found([PERSON]), found([], name="b")])
    result = evaluate_crowd(images, [found([PERSON])])
    assert result == expected
    assert (result.recall, result.ji, result.mr) == pytest.approx((50, 50, 50))


# ---- Edges


def test_nothing_detected_at_all():
    result = evaluate_crowd([truth([PERSON])], [])
    assert (result.ap, result.mr, result.ji, result.recall) == (0, 100, 0, 0)
    assert (result.images, result.people, result.detections, result.ignored_detections) == (1, 1, 0, 0)
    only_dropped = evaluate_crowd([truth([PERSON], [FAR])], [found([FAR])])
    assert (only_dropped.ap, only_dropped.mr, only_dropped.recall, only_dropped.ignored_detections) == (0, 100, 0, 1)


@pytest.mark.parametrize("boxes", [[], [FAR]])
@pytest.mark.parametrize("images", [[], [[]]])
def test_without_people_the_measures_are_not_numbers(boxes, images):
    result = evaluate_crowd([truth(people) for people in images], [found(boxes)] if images else [])
    values = (result.ap, result.mr, result.ji, result.recall, result.ji_threshold)
    assert all(math.isnan(value) for value in values) and result.people == 0


def test_people_in_regions_that_nobody_looks_for_leave_no_jaccard_index():
    result = evaluate_crowd([truth([(1, 1, 5, 5)], regions=[PERSON])], [])
    assert math.isnan(result.ji) and result.recall == 0
    # The image counts at thresholds at which something is detected: 0 / (0 + 1).
    result = evaluate_crowd([truth([(1, 1, 5, 5)], regions=[PERSON])], [found([FAR], scores=[0.55])])
    assert (result.ji, result.ji_threshold) == (0, 0)


def test_equal_scores_across_images_keep_the_order_of_the_ground_truth():
    # First image false, second hit: recall 0, 1, precision 0, 1/2 -> area 1/4. The other way round: recall 1, 1 -> 0.
    images = [truth([]), truth([PERSON], name="b")]
    boxes = [found([PERSON], scores=[0.5], name="b"), found([FAR], scores=[0.5])]
    assert evaluate_crowd(images, boxes).ap == pytest.approx(25)
    assert evaluate_crowd(images[::-1], boxes).ap == 0


def test_wrong_ids_are_named():
    with pytest.raises(ValueError, match="detections for the image b, which is not in the ground truth"):
        evaluate_crowd([truth([PERSON])], [found([PERSON], name="b")])
    with pytest.raises(ValueError, match="detections for the image a more than once"):
        evaluate_crowd([truth([PERSON])], [found([PERSON]), found([])])
    with pytest.raises(ValueError, match="ground truth has the image a more than once"):
        evaluate_crowd([truth([PERSON]), truth([])], [])
