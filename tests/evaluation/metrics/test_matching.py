"""Well-detected objects: cases worked out by hand, limit cases, and a plain loop."""

import numpy as np
import pytest

from odam_d2.evaluation.metrics.matching import box_iou, well_detected

# 100 x 10 objects: a detection that is 95 long has IoU .95.
OBJECTS = np.array([[0.0, 0.0, 100.0, 10.0], [0.0, 50.0, 100.0, 60.0]])


def long(length, top=0):
    return [0, top, length, top + 10]


def test_iou_worked_by_hand():
    # 5 x 10 of 10 x 10 + 10 x 10 - 5 x 10; then touching, and without area.
    boxes = [[5, 0, 15, 10], [10, 0, 20, 10], [3, 3, 3, 3]]
    assert box_iou([[0, 0, 10, 10]], boxes).tolist() == [[50 / 150, 0, 0]]
    assert box_iou([[3, 3, 3, 3]], [[3, 3, 3, 3]]).tolist() == [[0]]
    assert box_iou([], boxes).shape == (0, 3)


def test_each_object_is_paired_with_the_detection_that_fits_best():
    boxes = [long(95, 50), long(93), long(97)]
    assert well_detected(OBJECTS, [1, 1], boxes, [0.5, 0.9, 0.2], [1, 1, 1]).tolist() == [[0, 2], [1, 0]]


def test_pairs_are_one_to_one_and_the_best_iou_goes_first():
    # IoUs: object 0 (100 long) 96/100 and 92/100, object 1 (98 long) 96/98 and 92/98. 96/98 is the best and takes
    # detection 0; object 0 is left with 92/100.
    objects, boxes = [long(100), long(98)], [long(96), long(92)]
    assert well_detected(objects, [0, 0], boxes, [0.5, 0.5], [0, 0]).tolist() == [[0, 1], [1, 0]]


def test_classes_must_agree():
    assert well_detected(OBJECTS[:1], [1], [long(99), long(95)], [0.9, 0.9], [2, 1]).tolist() == [[0, 1]]


def test_thresholds_are_strict():
    # IoU exactly 1/2, score exactly .25.
    arguments = ([long(100)], [0], [long(50)], [0.25], [0])
    assert well_detected(*arguments, iou_threshold=0.5, score_threshold=0.2).shape == (0, 2)
    assert well_detected(*arguments, iou_threshold=0.4, score_threshold=0.25).shape == (0, 2)
    assert well_detected(*arguments, iou_threshold=0.4, score_threshold=0.2).tolist() == [[0, 0]]


def test_crowd_regions_are_no_objects():
    objects = OBJECTS[[0, 0]]
    found = well_detected(objects, [0, 0], [long(100)], [0.9], [0], gt_crowd=[True, False])
    assert found.tolist() == [[1, 0]]


def test_of_equal_ious_the_higher_score_goes_first():
    assert well_detected(OBJECTS[:1], [0], [long(95)] * 3, [0.3, 0.8, 0.8], [0, 0, 0]).tolist() == [[0, 1]]


def test_nothing_gives_no_pairs():
    for objects, boxes in (([], []), ([], [long(9)]), ([long(9)], [])):
        found = well_detected(objects, [0] * len(objects), boxes, [0.9] * len(boxes), [0] * len(boxes))
        assert found.shape == (0, 2) and found.dtype == np.int64


def test_pairs_equal_a_plain_loop():
    paired = 0
    for seed in range(40):
        generator = np.random.default_rng(seed)
        objects = np.round(generator.uniform(0, 6, (12, 4))) + [0, 0, 30, 30]
        boxes = np.round(generator.uniform(0, 6, (20, 4))) + [0, 0, 30, 30]
        gt_classes, classes = generator.integers(2, size=12), generator.integers(2, size=20)
        scores, crowd = generator.permutation(20) / 20, generator.random(12) < 0.2
        left = {}
        for g in range(12):
            for d in range(20):
                wide = min(objects[g, 2], boxes[d, 2]) - max(objects[g, 0], boxes[d, 0])
                high = min(objects[g, 3], boxes[d, 3]) - max(objects[g, 1], boxes[d, 1])
                areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (objects[g], boxes[d])]
                iou = wide * high / (areas[0] + areas[1] - wide * high)
                if gt_classes[g] == classes[d] and not crowd[g] and iou > 0.8 and scores[d] > 0.1:
                    left[g, d] = (iou, scores[d], -g)
        expected = []
        while left:
            g, d = max(left, key=left.get)
            expected.append([g, d])
            left = {pair: rank for pair, rank in left.items() if pair[0] != g and pair[1] != d}
        found = well_detected(objects, gt_classes, boxes, scores, classes, 0.8, gt_crowd=crowd)
        assert found.tolist() == sorted(expected)
        paired += len(expected)
    assert paired > 80


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="2 objects have 1 classes"):
        well_detected(OBJECTS, [0], [], [], [])
    with pytest.raises(ValueError, match="1 detections have 2 scores"):
        well_detected([], [], [long(9)], [0.1, 0.2], [0])
    with pytest.raises(ValueError, match="NaN"):
        well_detected([], [], [long(9)], [np.nan], [0])
    with pytest.raises(ValueError, match="nan"):
        box_iou([[0, 0, np.nan, 1]], [])
