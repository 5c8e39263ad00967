"""GID: which instances are chosen, and its four terms by hand."""

import math

import pytest
import torch

from odam_d2.distill import GID, GIDSettings, Responses
from odam_d2.distill.gid import (
    assign_by_iou,
    feature_term,
    general_instances,
    pool_instances,
    relation_of_instances_term,
    response_terms,
)

STRIDES = (8, 16)


def boxes_of(*boxes):
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)


def test_instances_are_where_the_networks_disagree():
    # Scores max_k |P_t - P_s|: 0.5 (class 1), 0.4 (class 0), 0.1, 0.45.
    teacher = torch.tensor([[0.1, 0.7], [0.2, 0.3], [0.9, 0.1], [0.5, 0.1]])
    student = torch.tensor([[0.1, 0.2], [0.6, 0.3], [0.8, 0.1], [0.05, 0.1]])
    own = boxes_of([0, 0, 20, 20], [40, 0, 60, 20], [80, 0, 100, 20], [1, 0, 21, 20])
    others = own + torch.tensor([0.0, 1.0, 0.0, 1.0])
    found = general_instances(student, teacher, own, others, (100, 100), GIDSettings(min_side=5))
    # Place 0 by the teacher (0.7 > 0.2), place 3 overlaps it, place 1 by the student (0.6 > 0.3), 2 by the teacher.
    assert torch.equal(found, torch.stack([others[0], own[1], others[2]]))
    few = general_instances(student, teacher, own, others, (100, 100), GIDSettings(min_side=5, instances=1))
    assert torch.equal(few, others[:1])
    # Two candidates are places 0 and 3, of which NMS leaves one.
    few = general_instances(student, teacher, own, others, (100, 100), GIDSettings(min_side=5, candidates=2))
    assert torch.equal(few, others[:1])


def test_instances_are_cut_at_the_image_and_large_enough():
    scores = torch.tensor([[0.9], [0.8], [0.7]]), torch.zeros(3, 1)
    boxes = boxes_of([-5, 0, 20, 30], [85, 0, 120, 50], [30, 30, 41, 40])
    found = general_instances(*scores, boxes, boxes, (40, 90))
    # The second is 5 wide inside the image; the third is 10 high, and more than 10 is asked for.
    assert torch.equal(found, boxes_of([0, 0, 20, 30]))


@pytest.mark.parametrize("places", [0, 3])
def test_without_places_or_classes_there_is_no_instance(places):
    boxes, scores = torch.zeros(places, 4), torch.zeros(places, 0 if places else 2)
    assert general_instances(scores, scores, boxes, boxes, (50, 50)).shape == (0, 4)


def test_places_are_assigned_by_half_an_overlap():
    anchors = boxes_of([0, 0, 10, 10], [0, 0, 10, 20], [0, 0, 10, 21])
    assert assign_by_iou(anchors, boxes_of([0, 0, 10, 10])).tolist() == [True, True, False]
    assert not assign_by_iou(anchors, boxes_of()).any()


def test_instances_are_pooled_from_the_level_of_their_size():
    # floor(4 + log2(side / 224)): 56 -> 2, 112 -> 3, 448 -> 5; levels of strides 8 and 16 are 3 and 4.
    levels = [torch.full((2, 1, 60, 60), 3.0), torch.full((2, 1, 30, 30), 4.0)]
    levels[0][1] = 13.0
    boxes = [boxes_of([0, 0, 56, 56], [8, 8, 120, 120], [0, 0, 230, 230], [0, 0, 448, 448]), boxes_of([0, 0, 99, 99])]
    pooled = pool_instances(levels, (8, 16), boxes, size=2)
    assert pooled.shape == (5, 1, 2, 2)
    # A box that begins in the corner samples nothing beyond the map: constant maps stay constant.
    assert pooled[:, 0, 0, 0].tolist() == [3.0, 3.0, 4.0, 4.0, 13.0]
    assert pool_instances(levels, (8, 16), [boxes_of(), boxes_of()]).shape == (0, 1, 10, 10)


def test_features_differ_by_bin():
    student, teacher = torch.zeros(2, 3, 2, 2), torch.ones(2, 3, 2, 2)
    teacher[1] = 2.0
    # 12 times 1 and 12 times 4, over two instances of four bins.
    assert feature_term(student, teacher).item() == (12 + 48) / 8
    assert feature_term(student[:0], teacher[:0]).item() == 0


def test_relations_are_relative_distances():
    # Distances 0-1, 0-2, 1-2 on a line at 0, 1, 3: 1, 3, 2, mean 2; at 0, 2, 2: 2, 2, 0, mean 4/3.
    student, teacher = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.0], [2.0], [2.0]])
    # 0.5 1.5 1 against 1.5 1.5 0: differences 1, 0, 1; smooth L1 below 1 is half the square, at 1 it is 0.5.
    assert relation_of_instances_term(student, teacher).item() == pytest.approx((0.5 + 0.5) / 3)
    # Scale does not matter.
    assert relation_of_instances_term(5 * teacher, teacher).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fewer_than_three_instances_have_no_relation(count):
    student = torch.rand(count, 2, requires_grad=True)
    term = relation_of_instances_term(student, torch.rand(count, 2))
    term.backward()
    assert term == 0 and not student.grad.any()


def test_equal_instances_have_a_finite_gradient():
    student = torch.ones(4, 2, requires_grad=True)
    relation_of_instances_term(student, torch.rand(4, 2)).backward()
    assert torch.isfinite(student.grad).all()


def test_responses_of_the_places_of_instances():
    # Two of three places. BCE of logit 0 is ln2 whatever the aim: 2 places x 2 classes, over 2 places.
    student = Responses(torch.zeros(1, 3, 2), torch.zeros(1, 3, 4), torch.zeros(1, 3, 4))
    teacher = Responses(torch.randn(1, 3, 2), torch.zeros(1, 3, 4), torch.full((1, 3, 4), -0.5))
    mask = torch.tensor([[True, False, True]])
    found = response_terms(student, teacher, mask)
    assert found["response_class"].item() == pytest.approx(2 * math.log(2))
    assert found["response_box"].item() == pytest.approx(4 * 0.5)
    # Logit ln3 of the student with the teacher's probability 1: -ln(3/4).
    sure = Responses(torch.full((1, 1, 1), math.log(3)), None), Responses(torch.full((1, 1, 1), 50.0), None)
    assert response_terms(*sure, mask[:, :1]) == {"response_class": pytest.approx(-math.log(3 / 4), rel=1e-5)}
    nothing = response_terms(student, teacher, torch.zeros(1, 3, dtype=torch.bool))
    assert [x.item() for x in nothing.values()] == [0, 0]


def test_the_loss_is_made_of_these(make_batch):
    student, teacher, objects = make_batch(first=0, second=0)
    torch.manual_seed(0)
    settings = GIDSettings(instances=4, pool_size=3, feature=2.0, relation=3.0, response_class=5.0, response_box=7.0)
    distiller = GID(STRIDES, 4, settings=settings)
    found = {name: value.item() for name, value in distiller(student, teacher, objects).items()}
    own, others = objects.student_responses, objects.teacher_responses
    instances = [
        general_instances(
            own.logits[n].sigmoid(), others.logits[n].sigmoid(), own.boxes[n], others.boxes[n], size, settings
        )
        for n, size in enumerate(objects.image_sizes)
    ]
    assert [len(boxes) for boxes in instances] == [4, 4]
    adapted = [distiller.adapters[0](maps) for maps in student]
    pooled = [pool_instances(maps, STRIDES, instances, 3, 2) for maps in (adapted, teacher)]
    mask = torch.stack([assign_by_iou(torch.cat(objects.anchors), boxes) for boxes in instances])
    responses = response_terms(own, others, mask)
    assert found == pytest.approx(
        {
            "loss_distill_feature": 2 * feature_term(*pooled).item(),
            "loss_distill_relation": 3 * relation_of_instances_term(*pooled).item(),
            "loss_distill_response_class": 5 * responses["response_class"].item(),
            "loss_distill_response_box": 7 * responses["response_box"].item(),
        }
    )
    # A detector that assigns places otherwise says so.
    nothing = GID(STRIDES, 4, assign=lambda anchors, boxes: torch.zeros(len(anchors), dtype=torch.bool))
    assert nothing(student, teacher, objects)["loss_distill_response_class"] == 0


def test_terms_have_the_gradients_of_small_differences():
    torch.manual_seed(0)
    maps = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    aim = torch.randn(3, 2, 2, 2, dtype=torch.float64)
    boxes = [boxes_of([0, 0, 16, 16], [5, 3, 30, 20], [10, 10, 31, 31])]

    def pool(x):
        return pool_instances([x], (8,), boxes, size=2)

    for term in (feature_term, relation_of_instances_term):
        assert torch.autograd.gradcheck(lambda x, term=term: term(pool(x), aim), maps)
    logits, deltas = (torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    teacher = Responses(*(torch.randn(1, 3, 4, dtype=torch.float64) for _ in range(3)))
    mask = torch.tensor([[True, False, True]])

    def respond(logits, deltas):
        return tuple(response_terms(Responses(logits, None, deltas), teacher, mask).values())

    assert torch.autograd.gradcheck(respond, (logits, deltas))


def test_what_does_not_fit_is_refused(make_batch):
    student, teacher, objects = make_batch()
    with pytest.raises(ValueError, match=r"strides are \(8, 32\); each must be twice the one before"):
        GID((8, 32), 4)
    objects.anchors.pop()
    with pytest.raises(ValueError, match=r"logits \(2, 120, 3\) .* do not fit 2 images of 96 anchors"):
        GID(STRIDES, 4)(student, teacher, objects)
