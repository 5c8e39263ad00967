"""FGFI: near-object cells and the imitation term by hand, and against a loop."""

import pytest
import torch

from odam_d2.distill import FGFI, Objects
from odam_d2.distill.fgfi import imitation_term, near_object_masks

SIZES = ((6, 8), (3, 4))
STRIDES = (8, 16)


def boxes_of(*boxes):
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)


def test_cells_with_an_anchor_near_enough():
    # One row of three cells with one anchor each, 10 x 10 at x = 0, 5 and 8; one coarser cell with a 20 x 10 anchor.
    # IoU with the object: 1, 5 / 15 = 0.33, 2 / 18 = 0.11, 10 / 20 = 0.5; the maximum is 1.
    anchors = [boxes_of([0, 0, 10, 10], [5, 0, 15, 10], [8, 0, 18, 10]), boxes_of([0, 0, 20, 10])]
    sizes = [(1, 3), (1, 1)]
    gt_boxes = boxes_of([0, 0, 10, 10])

    def near(ratio):
        return [mask.tolist() for mask in near_object_masks(anchors, gt_boxes, sizes, ratio)]

    assert near(0.6) == [[[True, False, False]], [[False]]]
    assert near(0.5) == [[[True, False, False]], [[False]]]  # 0.5 is not more than 0.5
    assert near(0.4) == [[[True, False, False]], [[True]]]
    assert near(0.2) == [[[True, True, False]], [[True]]]


def test_any_object_and_any_anchor_of_a_cell_will_do():
    # Two anchors a cell; of the second cell the second one is near the second object, whose maximum is its own.
    anchors = [boxes_of([0, 0, 10, 10], [90, 90, 91, 91], [80, 80, 81, 81], [20, 0, 30, 5])]
    gt_boxes = boxes_of([0, 0, 10, 10], [20, 0, 30, 10])
    (mask,) = near_object_masks(anchors, gt_boxes, [(2, 1)])
    assert mask.tolist() == [[True], [True]]


def test_an_object_that_no_anchor_meets_is_near_none():
    (mask,) = near_object_masks([boxes_of([0, 0, 10, 10])], boxes_of([20, 0, 30, 10]), [(1, 1)])
    assert not mask.any()
    (mask,) = near_object_masks([boxes_of([0, 0, 10, 10])], boxes_of(), [(1, 1)])
    assert mask.shape == (1, 1) and not mask.any()


def test_imitation_is_half_the_mean_over_near_cells():
    errors = [torch.tensor([[[3.0, 5.0]]]), torch.tensor([[[7.0]]])]
    masks = [torch.tensor([[[True, False]]]), torch.tensor([[[True]]])]
    assert imitation_term(errors, masks).item() == (3 + 7) / (2 * 2)
    assert imitation_term(errors, [0 * mask for mask in masks]).item() == 0


def test_the_loss_equals_a_loop(make_batch):
    student, teacher, objects = make_batch(2)
    torch.manual_seed(0)
    distiller = FGFI(STRIDES, 4, weight=0.5)
    found = distiller(student, teacher, objects)["loss_distill_imitation"].item()

    def iou(a, b):
        width, height = (max(min(a[k + 2], b[k + 2]) - max(a[k], b[k]), 0) for k in (0, 1))
        area = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
        return width * height / (sum(area) - width * height)

    adapted = [adapter(maps) for adapter, maps in zip(distiller.adapters, student)]
    total, cells = 0.0, set()
    for n, boxes in enumerate(objects.boxes):
        for box in boxes.tolist():
            ious = {
                (level, cell, a): iou(box, objects.anchors[level][2 * cell + a].tolist())
                for level, (height, width) in enumerate(SIZES)
                for cell in range(height * width)
                for a in range(2)
            }
            best = max(ious.values())
            cells |= {(level, n, cell) for (level, cell, _), value in ious.items() if value > 0.5 * best}
    for level, n, cell in cells:
        difference = adapted[level][n].flatten(1)[:, cell] - teacher[level][n].flatten(1)[:, cell]
        total += difference.square().sum().item()
    assert 0 < len(cells) < 2 * (48 + 12)
    assert found == pytest.approx(0.5 * total / (2 * len(cells)), rel=1e-5)


def test_what_does_not_fit_is_refused(make_batch):
    student, teacher, objects = make_batch()
    distiller = FGFI(STRIDES, 4)
    odd = Objects(objects.boxes, objects.image_sizes, [objects.anchors[0][:-1], objects.anchors[1]])
    with pytest.raises(ValueError, match="95 anchors for a level of 6 x 8 cells"):
        distiller(student, teacher, odd)
    with pytest.raises(ValueError, match="anchors of 1 levels; this FGFI has 2"):
        distiller(student, teacher, Objects(objects.boxes, objects.image_sizes, objects.anchors[:1]))
    with pytest.raises(ValueError, match=r"ratio is 1; it must be in \[0,1\)"):
        FGFI(STRIDES, 4, ratio=1)
