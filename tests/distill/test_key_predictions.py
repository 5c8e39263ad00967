"""Key prediction selection: by hand at every threshold, and against a loop over objects."""

import pytest
import torch

from odam_d2.distill import KeyPredictions, select_key_predictions
from odam_d2.distill.key_predictions import matched_iou, student_keys, teacher_keys

GT = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0]])


def predicted(number, *ious):
    """Boxes inside an object's box that cover the given shares of it: their IoU with it."""
    boxes = GT[number].repeat(len(ious), 1)
    boxes[:, 2] = boxes[:, 0] + 10 * torch.tensor(ious)
    return boxes


def of(*values):
    return torch.tensor(values)


def test_iou_pair_by_pair():
    second = torch.tensor([[0.0, 0.0, 10.0, 5.0], [25.0, 0.0, 35.0, 10.0]])
    # 50 / 100; 50 / (100 + 100 - 50).
    assert torch.allclose(matched_iou(GT, second), torch.tensor([1 / 2, 1 / 3]))
    nothing = torch.zeros(2, 4)
    assert torch.equal(matched_iou(nothing, nothing), torch.zeros(2))


def test_teacher_keys_found_their_object():
    # Place 1 belongs to none, place 3 has an IoU of exactly 0.5, place 4 the IoU 0.6 with the wrong object.
    boxes = torch.cat([predicted(0, 0.9, 0.9, 0.51, 0.5), predicted(1, 0.6, 0.7)])
    assert teacher_keys(of(0, -1, 0, 0, 0, 1), boxes, GT).tolist() == [0, 2, 5]


def test_of_each_object_the_best_matched_are_looked_at():
    boxes = torch.cat([predicted(0, 0.6, 0.9, 0.7, 0.8), predicted(1, 0.6, 0.9)])
    assigned = of(0, 0, 0, 0, 1, 1)
    assert teacher_keys(assigned, boxes, GT, top=2).tolist() == [1, 3, 4, 5]
    # By the assignment's own quality places 0 and 2 are best; the object's other places are not asked instead.
    quality = of(0.9, 0.1, 0.8, 0.2, 0.5, 0.5)
    assert teacher_keys(assigned, boxes, GT, quality, top=2).tolist() == [0, 2, 4, 5]
    assert teacher_keys(assigned, boxes, GT, quality, top=2, min_iou=0.65).tolist() == [2, 5]
    # Of equals the earlier place.
    assert teacher_keys(assigned, boxes, GT, torch.ones(6), top=1).tolist() == [0, 4]


def test_ten_places_an_object_by_default():
    boxes = predicted(0, *[0.99 - 0.01 * i for i in range(15)])
    assert teacher_keys(torch.zeros(15, dtype=torch.int64), boxes, GT).tolist() == list(range(10))


def test_student_keys_are_confident_and_beside_their_object():
    # Place 1 is not confident enough, 2 overlaps enough, 3 belongs to none.
    boxes = predicted(0, 0.49, 0.3, 0.5, 0.2, 0.1)
    confidence = of(0.11, 0.1, 0.9, 0.9, 0.5)
    assert student_keys(of(0, 0, 0, -1, 0), confidence, boxes, GT).tolist() == [0, 4]
    # Where there is no object a confidence may be anything.
    assert student_keys(of(-1, -1), of(float("nan"), 1.0), boxes[:2], GT).tolist() == []


def test_a_place_in_both_counts_once_and_focuses_its_object():
    # Place 0: the teacher found it, the student missed it: both. Place 1: teacher's, place 2: student's, 3: neither.
    assigned = of(0, 0, 1, 1)
    teacher = torch.cat([predicted(0, 0.8, 0.9), predicted(1, 0.3, 0.3)])
    student = torch.cat([predicted(0, 0.2, 0.9), predicted(1, 0.3, 0.3)])
    keys = select_key_predictions(assigned, teacher, student, of(0.9, 0.9, 0.9, 0.05), GT)
    assert keys.places.tolist() == [0, 1, 2] and keys.objects.tolist() == [0, 0, 1]
    assert keys.focused.tolist() == [0, 1]


def test_an_object_is_focused_on_levels_where_it_has_a_key_prediction():
    keys = KeyPredictions(of(0, 3, 4, 7), of(1, 1, 0, 2))
    fine, coarse, empty = keys.split([4, 4, 2])
    assert (fine.places.tolist(), fine.focused.tolist()) == ([0, 3], [1])
    assert (coarse.places.tolist(), coarse.focused.tolist()) == ([4, 7], [0, 2])
    assert len(empty.places) == 0 and empty.focused.tolist() == []
    with pytest.raises(ValueError, match=r"place 7 is on none of the levels of \[4, 3\] places"):
        keys.split([4, 3])


@pytest.mark.parametrize("places", [0, 5])
def test_an_image_without_objects_has_none(places):
    boxes, none = torch.zeros(places, 4), torch.full((places,), -1)
    keys = select_key_predictions(none, boxes, boxes, torch.ones(places), torch.zeros(0, 4))
    assert [len(part) for part in keys] == [0, 0] and len(keys.focused) == 0
    assert len(keys.split([2, 3])) == 2


def loop(assigned, teacher, student, confidence, gt_boxes):
    """A place and an object at a time."""

    def iou(a, b):
        width, height = (min(a[k + 2], b[k + 2]) - max(a[k], b[k]) for k in (0, 1))
        shared = max(width, 0) * max(height, 0)
        area = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
        return shared / (sum(area) - shared)

    keys = set()
    for number, box in enumerate(gt_boxes.tolist()):
        own = [p for p in range(len(assigned)) if assigned[p] == number]
        best = sorted(own, key=lambda p: -iou(teacher[p].tolist(), box))[:10]  # noqa: B023
        keys |= {p for p in best if iou(teacher[p].tolist(), box) > 0.5}
        keys |= {p for p in own if confidence[p] > 0.1 and iou(student[p].tolist(), box) < 0.5}
    return sorted(keys)


@pytest.mark.parametrize("seed", range(4))
def test_selection_equals_a_loop(seed):
    generator = torch.Generator().manual_seed(seed)
    corner = 30 * torch.rand(4, 2, generator=generator)
    gt_boxes = torch.cat([corner, corner + 10], dim=1)
    assigned = torch.randint(-1, 4, (120,), generator=generator)
    near = gt_boxes[assigned.clamp(min=0)]
    teacher = near + 2 * torch.randn(120, 4, generator=generator)
    student = near + 3 * torch.randn(120, 4, generator=generator)
    confidence = 0.3 * torch.rand(120, generator=generator)
    keys = select_key_predictions(assigned, teacher, student, confidence, gt_boxes)
    expected = loop(assigned, teacher, student, confidence, gt_boxes)
    assert keys.places.tolist() == expected and 0 < len(expected) < 100
    assert torch.equal(keys.objects, assigned[keys.places])


def test_what_does_not_fit_is_refused():
    boxes = torch.zeros(3, 4)
    with pytest.raises(ValueError, match=r"do not fit: \(2,\), \(3, 4\), \(2, 4\)"):
        teacher_keys(of(0, 0), boxes, GT)
    with pytest.raises(ValueError, match="a place is assigned to object 2 of 2"):
        teacher_keys(of(0, 2, -1), boxes, GT)
    with pytest.raises(ValueError, match=r"confidence has shape \(2,\); it must be \(3,\)"):
        student_keys(of(0, 0, 0), of(0.5, 0.5), boxes, GT)
