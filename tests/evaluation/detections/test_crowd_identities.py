"""CrowdHuman's measures: identities, and the whole evaluation as plain Python loops."""

import math
from dataclasses import asdict

import numpy as np
import pytest
from crowds import FAR, PERSON, crowd, found, truth

from odam_d2.evaluation.detections.crowd_matching import (
    DROPPED,
    FALSE,
    HIT,
    count_pairs,
    match_by_score,
    measure_overlaps,
)
from odam_d2.evaluation.detections.crowdhuman import evaluate_crowd


def test_perfect_detections_are_perfect():
    ground_truth = [truth([PERSON, FAR]), truth([FAR], name="b")]
    result = evaluate_crowd(ground_truth, [found([PERSON, FAR]), found([FAR], name="b")])
    # Three points of precision 1 from recall 1/3 to 1.
    assert result.ap == pytest.approx(200 / 3)
    assert (result.mr, result.ji, result.recall, result.ji_threshold) == (0, 100, 100, 0)


def test_detections_in_regions_change_nothing():
    ground_truth, results = crowd(0)
    ground_truth = [truth(g.boxes[~g.ignored], [*g.boxes[g.ignored], (60, 40, 64, 54)], g.id) for g in ground_truth]
    more = [found([*r.boxes, (61, 41, 63, 43)], [*r.scores, 0.77], r.id, (55, 65)) for r in results]
    before, after = evaluate_crowd(ground_truth, results), evaluate_crowd(ground_truth, more)
    assert after.ignored_detections == before.ignored_detections + len(results)
    assert (after.ap, after.mr, after.ji, after.recall) == (before.ap, before.mr, before.ji, before.recall)


def test_the_order_of_detection_lines_does_not_matter_and_arguments_are_left_alone():
    ground_truth, results = crowd(1)
    arrays = [array for g, r in zip(ground_truth, results) for array in (g.boxes, g.ignored, r.boxes, r.scores)]
    before = [array.copy() for array in arrays]
    assert evaluate_crowd(ground_truth, results) == evaluate_crowd(ground_truth, results[::-1])
    assert all(np.array_equal(a, b) for a, b in zip(arrays, before))


# ---- Plain Python


def slow_area(box):
    return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)


def slow_shared(a, b):
    return slow_area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))


def slow_iou(a, b):
    shared = slow_shared(a, b)
    return shared / (slow_area(a) + slow_area(b) - shared) if shared else 0.0


def slow_clip(box, height, width):
    limits = (width - 1, height - 1, width, height)
    return [max(0, min(value, limit)) for value, limit in zip(box, limits)]


def slow_inside(box, regions):
    return any(slow_shared(box, region) > 0.5 * slow_area(box) for region in regions)


def slow_greedy(people, regions, boxes):
    taken, outcome = set(), []
    for box in boxes:
        best, best_iou = None, 0.5
        for p, person in enumerate(people):
            if p not in taken and slow_iou(box, person) > best_iou:
                best, best_iou = p, slow_iou(box, person)
        if best is not None:
            taken.add(best)
        outcome.append(1 if best is not None else None if slow_inside(box, regions) else 0)
    return outcome


def slow_matching(people, boxes):
    """Every way to give the detections, one after the other, a free person or nobody; the best per set of people."""
    ways = {frozenset(): (0.0, ())}
    for d, box in enumerate(boxes):
        new = dict(ways)
        for used, (weight, chosen) in ways.items():
            for p, person in enumerate(people):
                iou = slow_iou(box, person)
                if p not in used and iou > 0.5:
                    key, value = used | {p}, (weight + iou, (*chosen, (d, p)))
                    if key not in new or value[0] > new[key][0]:
                        new[key] = value
        ways = new
    return max(ways.values())[1]


def slow_evaluation(ground_truth, results):
    points, indices, total = [], {t: [] for t in range(10)}, 0
    for image, result in zip(ground_truth, results):
        clipped = [slow_clip(box, result.height, result.width) for box in image.boxes]
        people = [box for box, ignored in zip(clipped, image.ignored) if not ignored]
        regions = [box for box, ignored in zip(clipped, image.ignored) if ignored]
        ranked = sorted(zip(result.scores, result.boxes.tolist()), key=lambda pair: -pair[0])
        boxes = [slow_clip(box, result.height, result.width) for _, box in ranked]
        scores = [score for score, _ in ranked]
        total += len(people)
        points += list(zip(scores, slow_greedy(people, regions, boxes)))
        for t in range(10):
            above = [box for box, score in zip(boxes, scores) if score > t / 10]
            chosen = slow_matching(people, above)
            detected, hit = {d for d, _ in chosen}, {p for _, p in chosen}
            n = sum(d in detected or not slow_inside(box, regions) for d, box in enumerate(above))
            m = sum(p in hit or not slow_inside(box, regions) for p, box in enumerate(people))
            if m or n:
                indices[t].append(len(chosen) / (m + n - len(chosen)))
    hits = [hit for _, hit in sorted(points, key=lambda point: -point[0]) if hit is not None]
    curve = [(sum(hits[: i + 1]), i + 1 - sum(hits[: i + 1])) for i in range(len(hits))]
    ap = sum((t2 - t1) / total * (t1 / (t1 + f1) + t2 / (t2 + f2)) / 2 for (t1, f1), (t2, f2) in zip(curve, curve[1:]))
    logs = []
    for reference in (0.01, 0.0178, 0.0316, 0.0562, 0.1, 0.1778, 0.3162, 0.5623, 1.0):
        true, _ = next((point for point in curve if point[1] / len(ground_truth) >= reference), curve[-1])
        logs.append(math.log(1 - true / total) if true < total else -math.inf)
    ji = max(sum(values) / len(values) for values in indices.values() if values)
    return 100 * ap, 100 * math.exp(sum(logs) / 9), 100 * ji, 100 * sum(hits) / total


def test_the_evaluation_equals_plain_loops_on_random_crowds():
    values = []
    for seed in range(60):
        ground_truth, results = crowd(seed)
        result = evaluate_crowd(ground_truth, results)
        values.append((result.ap, result.mr, result.ji, result.recall))
        assert values[-1] == pytest.approx(slow_evaluation(ground_truth, results), rel=1e-9), seed
    # The crowds are neither trivial nor hopeless.
    assert all(10 < mean < 95 for mean in np.mean(values, axis=0))


def test_random_crowds_exercise_every_rule():
    seen = {HIT: 0, FALSE: 0, DROPPED: 0}
    not_greedy = 0
    for seed in range(60):
        for image, result in zip(*crowd(seed)):
            overlaps = measure_overlaps(image, result)
            outcome = match_by_score(overlaps).tolist()
            for verdict in seen:
                seen[verdict] += outcome.count(verdict)
            not_greedy += outcome.count(HIT) != count_pairs(overlaps, np.array([-1.0]))[0, 0]
    assert min(seen.values()) > 50 and not_greedy > 5


def test_the_result_can_be_stored_as_json_numbers():
    result = asdict(evaluate_crowd(*crowd(0)))
    assert all(type(value) in (float, int) for value in result.values())
