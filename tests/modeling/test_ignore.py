"""Ignore regions: nothing inside them is background, and without them training is Detectron2's to the bit."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from helpers import random_input, small_cfg, tiny_fcos
from odam_d2.modeling.ignore import drop_ignored, ignored_boxes, ignored_points, split_ignored

KINDS = {
    "fcos": ("fcos",),
    "retinanet": ("retinanet",),
    "faster_rcnn": ("faster_rcnn", "MODEL.PROPOSAL_GENERATOR.NAME", "ODAMRPN"),
    "cascade": (
        *("faster_rcnn", "MODEL.PROPOSAL_GENERATOR.NAME", "ODAMRPN"),
        *("MODEL.ROI_HEADS.NAME", "ODAMCascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True"),
    ),
}
DETECTRON2 = {
    "retinanet": ("MODEL.META_ARCHITECTURE", "RetinaNet"),
    "faster_rcnn": ("MODEL.PROPOSAL_GENERATOR.NAME", "RPN", "MODEL.ROI_HEADS.NAME", "StandardROIHeads"),
    "cascade": ("MODEL.PROPOSAL_GENERATOR.NAME", "RPN", "MODEL.ROI_HEADS.NAME", "CascadeROIHeads"),
}
OBJECTS = [[10.0, 10.0, 50.0, 60.0], [40.0, 12.0, 80.0, 70.0]]
REGION = [90.0, 0.0, 150.0, 100.0]


def build(kind, *opts):
    torch.manual_seed(0)
    return build_model(small_cfg(KINDS[kind][0], [*KINDS[kind][1:], *opts])).train()


def instances(boxes, ignore=None):
    """Ground truth of class 0 in an image of 100 x 150; ``ignore`` None: no such field."""
    found = Instances((100, 150))
    found.gt_boxes = Boxes(torch.tensor(boxes).view(-1, 4))
    found.gt_classes = torch.zeros(len(boxes), dtype=torch.int64)
    if ignore is not None:
        found.gt_ignore = torch.tensor(ignore, dtype=torch.bool)
    return found


def losses_of(model, *ground_truth):
    """Losses with gradients in the parameters; random samples are the same each time."""
    model.zero_grad()
    torch.manual_seed(1)
    batch = [{**random_input(seed=i), "instances": own} for i, own in enumerate(ground_truth)]
    with EventStorage() as storage:
        losses = model(batch)
        sum(losses.values()).backward()
    return losses, storage


def test_boxes_are_ignored_if_more_than_half_of_them_lies_in_one_region():
    # Of 10 x 10 pixels the regions hold all, 60, 50 and none; the last box has no area.
    boxes = torch.tensor([[0, 0, 10, 10], [14, 0, 24, 10], [15, 0, 25, 10], [40, 40, 50, 50], [5, 5, 5, 5]]).float()
    regions = torch.tensor([[0.0, 0.0, 20.0, 30.0]])
    assert ignored_boxes(boxes, regions).tolist() == [True, True, False, False, False]
    assert ignored_boxes(boxes, regions, threshold=0.7).tolist() == [True, False, False, False, False]
    # Two regions that hold 40 each do not add up.
    halves = torch.tensor([[0.0, 0.0, 4.0, 10.0], [6.0, 0.0, 10.0, 10.0]])
    assert ignored_boxes(boxes[:1], halves).tolist() == [False]
    assert ignored_boxes(boxes, regions[:0]).tolist() == [False] * 5
    assert ignored_boxes(boxes[:0], regions).tolist() == []


def test_points_are_ignored_strictly_inside_a_region():
    # Centres (4,4), (12,4) on the region's side, and (20,4).
    boxes = torch.tensor([[0, 0, 8, 8], [8, 0, 16, 8], [16, 0, 24, 8]]).float()
    regions = torch.tensor([[0.0, 0.0, 12.0, 8.0]])
    assert ignored_points(boxes, regions).tolist() == [True, False, False]
    assert ignored_points(boxes, regions[:0]).tolist() == [False] * 3


def test_ground_truth_is_parted_and_left_as_it_was():
    ground_truth = instances([*OBJECTS, REGION], [False, False, True])
    objects, regions = split_ignored(ground_truth)
    assert objects.gt_boxes.tensor.tolist() == OBJECTS and not objects.has("gt_ignore")
    assert regions.tolist() == [REGION]
    assert len(ground_truth) == 3 and ground_truth.has("gt_ignore")
    unmarked = instances(OBJECTS)
    assert split_ignored(unmarked) == (unmarked, None)


@pytest.mark.parametrize("kind", ["fcos", "retinanet"])
def test_anchors_are_labelled_as_without_the_region_but_for_background_inside_it(kind):
    model = build(kind)
    features = model.backbone(torch.zeros(1, 3, 128, 160))
    anchors = model.anchor_generator([features[f] for f in model.head_in_features])
    ground_truth = [
        instances([*OBJECTS, REGION], [False, False, True]),
        instances(OBJECTS),
        instances([REGION], [True]),
        instances([], []),
    ]
    labels, boxes = model.label_anchors(anchors, ground_truth)
    plain = [instances(OBJECTS), instances(OBJECTS), instances([]), instances([])]
    expected, expected_boxes = super(type(model).__mro__[2], model).label_anchors(anchors, plain)
    flat = torch.cat([a.tensor for a in anchors])
    inside = (ignored_points if kind == "fcos" else ignored_boxes)(flat, torch.tensor([REGION]))
    for i, has_region in enumerate([True, False, True, False]):
        unwanted = inside & (expected[i] == model.num_classes) & has_region
        assert unwanted.any() == has_region
        assert torch.equal(labels[i], expected[i].masked_fill(unwanted, -1))
        assert torch.equal(boxes[i], expected_boxes[i])


def test_an_object_inside_a_region_stays_an_object():
    model = build("fcos")
    features = model.backbone(torch.zeros(1, 3, 128, 160))
    anchors = model.anchor_generator([features[f] for f in model.head_in_features])
    both = instances([OBJECTS[0], [0.0, 0.0, 150.0, 100.0]], [False, True])
    (labels,), _ = model.label_anchors(anchors, [both])
    (expected,), _ = model.label_anchors(anchors, [instances(OBJECTS[:1])])
    assert (expected == 0).any()
    assert torch.equal(labels == 0, expected == 0)


def test_ignored_points_of_fcos_have_no_loss_and_no_gradient():
    model = tiny_fcos(num_classes=2)
    anchors = [Boxes(torch.tensor([[0.0, 0, 8, 8], [8, 0, 16, 8]])), Boxes(torch.tensor([[0.0, 0, 16, 16]]))]
    boxes = [torch.tensor([[0.0, 0, 8, 8]]).repeat(3, 1)]

    def run(labels):
        torch.manual_seed(0)
        logits = [torch.randn(1, 2, 2, requires_grad=True), torch.randn(1, 1, 2, requires_grad=True)]
        deltas = [torch.ones(1, 2, 4, requires_grad=True), torch.ones(1, 1, 4, requires_grad=True)]
        centerness = [torch.zeros(1, 2, 1, requires_grad=True), torch.zeros(1, 1, 1, requires_grad=True)]
        model.loss_normalizer = 1.0
        with EventStorage():
            losses = model.losses(anchors, logits, [torch.tensor(labels)], deltas, boxes, centerness)
        sum(losses.values()).backward()
        return losses, logits

    # Point 0 is an object, point 1 (first level) ignored, point 2 (second level) background.
    ignored, logits = run([0, -1, 2])
    assert torch.equal(logits[0].grad[0, 1], torch.zeros(2))
    assert (logits[0].grad[0, 0] != 0).all() and (logits[1].grad != 0).all()
    background, full = run([0, 2, 2])
    assert torch.equal(logits[0].grad[0, 0], full[0].grad[0, 0]) and torch.equal(logits[1].grad, full[1].grad)
    # What is missing is the focal loss of point 1: 0.75 p^2 log(1 / (1 - p)), over the normalizer 1.0 * 0.9 + 1 * 0.1.
    p = full[0].detach()[0, 1].sigmoid()
    difference = background["loss_fcos_cls"] - ignored["loss_fcos_cls"]
    assert difference.item() == pytest.approx((0.75 * p**2 * -(1 - p).log()).sum().item(), rel=1e-4)
    for name in ("loss_fcos_loc", "loss_fcos_ctr"):
        assert torch.equal(ignored[name], background[name])


def test_rpn_never_samples_background_inside_a_region():
    model = build("faster_rcnn", "MODEL.RPN.BATCH_SIZE_PER_IMAGE", "100000").proposal_generator
    features = [torch.zeros(1, 32, 128 // s, 160 // s) for s in (8, 16, 32, 64)]
    anchors = model.anchor_generator(features)
    ground_truth = [instances([*OBJECTS, REGION], [False, False, True]), instances([REGION], [True])]
    labels, _ = model.label_and_sample_anchors(anchors, ground_truth)
    expected, _ = model.label_and_sample_anchors(anchors, [instances(OBJECTS), instances([])])
    inside = ignored_boxes(torch.cat([a.tensor for a in anchors]), torch.tensor([REGION]))
    for own, plain in zip(labels, expected):
        assert torch.equal(own, plain.masked_fill(inside & (plain == 0), -1))
        assert (own != plain).any() and (own == 0).any()
    assert model._ignored is None


def proposals_of(*boxes):
    found = Instances((100, 150))
    found.proposal_boxes = Boxes(torch.tensor(boxes))
    found.objectness_logits = torch.zeros(len(boxes))
    return found


# On the first object, background outside, background inside, half inside.
PROPOSALS = ([10.0, 10, 50, 60], [0.0, 70, 20, 100], [100.0, 10, 140, 90], [70.0, 10, 110, 50])


def test_proposals_in_regions_are_dropped_unless_they_show_an_object():
    heads = build("faster_rcnn").roi_heads
    targets = [instances([*OBJECTS, REGION], [False, False, True]), instances([[0.0, 0, 150, 100]], [True])]
    given = [proposals_of(*PROPOSALS), proposals_of(*PROPOSALS)]
    remaining, objects = drop_ignored(given, targets, heads.proposal_matcher)
    assert remaining[0].proposal_boxes.tensor.tolist() == [PROPOSALS[i] for i in (0, 1, 3)]
    assert [len(x) for x in remaining] == [3, 0]
    assert [len(x) for x in objects] == [2, 0]
    assert len(given[0]) == 4


@pytest.mark.parametrize("kind", ["faster_rcnn", "cascade"])
def test_heads_neither_sample_nor_count_what_is_ignored_and_append_real_objects_only(kind):
    heads = build(kind).roi_heads
    ground_truth = instances([*OBJECTS, REGION], [False, False, True])
    with EventStorage() as storage:
        (sampled,) = heads.label_and_sample_proposals([proposals_of(*PROPOSALS)], [ground_truth])
        counted = {name: value for name, (value, _) in storage.latest().items()}
    found = sorted(zip(sampled.proposal_boxes.tensor.tolist(), sampled.gt_classes.tolist()))
    assert found == sorted([*((b, 0) for b in OBJECTS), (PROPOSALS[0], 0), (PROPOSALS[1], 80), (PROPOSALS[3], 80)])
    assert counted == {"roi_head/num_fg_samples": 3, "roi_head/num_bg_samples": 2}


def test_later_stages_of_a_cascade_drop_what_is_ignored():
    heads = build("cascade").roi_heads
    ground_truth = instances([*OBJECTS, REGION], [False, False, True])
    with EventStorage() as storage:
        (labelled,) = heads._match_and_label_boxes([proposals_of(*PROPOSALS)], 1, [ground_truth])
        counted = {name: value for name, (value, _) in storage.latest().items()}
    assert labelled.proposal_boxes.tensor.tolist() == [PROPOSALS[i] for i in (0, 1, 3)]
    assert labelled.gt_classes.tolist() == [0, 80, 80]
    assert counted == {"stage1/roi_head/num_fg_samples": 1, "stage1/roi_head/num_bg_samples": 2}


@pytest.mark.parametrize("kind", DETECTRON2)
def test_without_the_field_losses_and_gradients_are_detectron2s_to_the_bit(kind):
    ours, theirs = build(kind), build(kind, *DETECTRON2[kind])
    theirs.load_state_dict(ours.state_dict())
    ground_truth = [instances(OBJECTS), instances([])]
    losses, _ = losses_of(ours, *ground_truth)
    expected, _ = losses_of(theirs, *ground_truth)
    assert losses.keys() == expected.keys()
    assert all(torch.equal(losses[name], expected[name]) for name in expected)
    for (name, own), (_, other) in zip(ours.named_parameters(), theirs.named_parameters()):
        assert torch.equal(own.grad, other.grad), name


def test_without_the_field_fcos_loses_as_detectron2s_to_the_bit():
    from detectron2.modeling.meta_arch.fcos import FCOS

    model = tiny_fcos().train()
    names = ("backbone", "head", "head_in_features", "num_classes")
    plain = FCOS(**{name: getattr(model, name) for name in names}, pixel_mean=[0.0] * 3, pixel_std=[64.0] * 3).train()
    ground_truth = [instances(OBJECTS), instances([])]
    losses, _ = losses_of(model, *ground_truth)
    expected, _ = losses_of(plain, *ground_truth)
    assert losses.keys() == expected.keys()
    assert all(torch.equal(losses[name], expected[name]) for name in expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("whole", [False, True])
def test_images_whose_instances_are_all_ignored_can_be_trained_on(kind, whole):
    box = [0.0, 0.0, 150.0, 100.0] if whole else REGION
    model = build(kind)
    for ground_truth in ([instances([box], [True])], [instances([box], [True]), instances(OBJECTS, [False, False])]):
        losses, _ = losses_of(model, *ground_truth)
        assert all(loss.isfinite() for loss in losses.values())
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
