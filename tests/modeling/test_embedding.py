"""Embedding heads: where they sit, what they learn from, and detectors that are Detectron2's without them."""

import pytest
import torch
from detectron2.layers import CycleBatchNormList
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from helpers import random_input, small_cfg, tiny_fcos
from odam_d2.losses.margin import margin_loss
from odam_d2.modeling.embedding import EmbeddingHead

KINDS = ("fcos", "retinanet", "faster_rcnn")
OBJECTS = [[10.0, 10.0, 50.0, 60.0], [40.0, 12.0, 80.0, 70.0], [90.0, 0.0, 150.0, 100.0]]


def build(kind, dim=8, *opts):
    torch.manual_seed(0)
    opts = ["ODAM.EMBEDDING.DIM", str(dim), "MODEL.PROPOSAL_GENERATOR.NAME", "ODAMRPN", *opts]
    return build_model(small_cfg(kind, opts)).train()


def holder(model):
    """The module that has the embedding head."""
    return getattr(model, "roi_heads", model)


def instances(boxes, ignore=()):
    found = Instances((100, 150))
    found.gt_boxes = Boxes(torch.tensor(boxes).view(-1, 4))
    found.gt_classes = torch.zeros(len(boxes), dtype=torch.int64)
    found.gt_ignore = torch.tensor([i in ignore for i in range(len(boxes))], dtype=torch.bool)
    return found


def batch():
    """Two images: three objects one of which is an ignore region, and one object."""
    return [
        {**random_input(seed=0), "instances": instances(OBJECTS, ignore=[2])},
        {**random_input(seed=1), "instances": instances(OBJECTS[1:2])},
    ]


def losses_of(model, inputs):
    torch.manual_seed(1)
    with EventStorage():
        return model(inputs)


def test_embeddings_lie_in_the_order_of_the_predictions():
    # A 1 x 1 world: no tower, and a predictor that writes channel number + 100 * value of the cell.
    head = EmbeddingHead(in_channels=1, num_anchors=2, dim=3, num_convs=0)
    nn.init.zeros_(head.predictor.weight)
    head.predictor.weight.data[:, 0, 1, 1] = 100
    nn.init.zeros_(head.predictor.bias)
    head.predictor.bias.data += torch.arange(6.0)
    first, second = head([torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), torch.tensor([[[[5.0]]]])])
    assert first.shape == (1, 8, 3) and second.shape == (1, 2, 3)
    # Flat index (y*W + x)*A + a: cell (1,0) is the third, its anchor 1 the sixth row.
    assert first[0, 5].tolist() == [303, 304, 305]
    assert second[0, 0].tolist() == [500, 501, 502]


def test_tower_is_made_as_the_class_tower():
    head = EmbeddingHead(8, num_anchors=1, dim=4, num_convs=2, norm="BN", num_levels=3)
    assert [type(m) for m in head.tower] == [nn.Conv2d, CycleBatchNormList, nn.ReLU] * 2
    assert [type(m) for m in EmbeddingHead(8, 1, 4, num_convs=1).tower] == [nn.Conv2d, nn.ReLU]


@pytest.mark.parametrize("kind", KINDS)
def test_without_embeddings_parameter_names_are_detectron2s(kind):
    assert not [name for name in build(kind, 0).state_dict() if "embedding" in name]
    extra = set(build(kind, 8).state_dict()) - set(build(kind, 0).state_dict())
    assert extra and all("embedding_head." in name for name in extra)
    assert "loss_embedding" not in losses_of(build(kind, 0), batch())


def test_fcos_state_is_that_of_detectron2s_fcos():
    from detectron2.modeling.meta_arch.fcos import FCOS

    model = tiny_fcos()
    names = ("backbone", "head", "head_in_features", "num_classes")
    plain = FCOS(**{name: getattr(model, name) for name in names}, pixel_mean=[0.0] * 3, pixel_std=[1.0] * 3)
    assert list(model.state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize("kind", ["retinanet", "faster_rcnn"])
def test_state_is_that_of_detectron2s_detector(kind):
    names = {"MODEL.ROI_HEADS.NAME": "StandardROIHeads", "MODEL.META_ARCHITECTURE": "GeneralizedRCNN"}
    if kind == "retinanet":
        names = {"MODEL.META_ARCHITECTURE": "RetinaNet"}
    plain = build_model(small_cfg(kind, [word for pair in names.items() for word in pair]))
    assert list(build(kind, 0).state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize("kind", ["fcos", "retinanet"])
def test_there_is_an_embedding_for_every_anchor(kind):
    model = build(kind)
    maps = model.backbone(torch.zeros(2, 3, 128, 160))
    features = [maps[f] for f in model.head_in_features]
    embeddings = model.embed(features)
    assert [tuple(e.shape) for e in embeddings] == [(2, len(a), 8) for a in model.anchor_generator(features)]


def test_there_is_an_embedding_for_every_region():
    heads = build("faster_rcnn").roi_heads
    features = heads.box_head(torch.rand(5, 32, 7, 7))
    assert heads.embed(features).shape == (5, 8)
    assert heads.embed(features[:0]).shape == (0, 8)


@pytest.mark.parametrize("kind", KINDS)
def test_a_detector_without_the_head_says_so(kind):
    with pytest.raises(ValueError, match="DIM > 0"):
        holder(build(kind, 0)).embed([])


def test_heads_and_lengths_that_cannot_be_are_named():
    with pytest.raises(ValueError, match="DIM is -1"):
        build("fcos", -1)
    for name in ("ODAMCascadeROIHeads", "ODAMRes5ROIHeads"):
        with pytest.raises(ValueError, match=f"{name}.*ODAMROIHeads"):
            build("faster_rcnn", 8, "MODEL.ROI_HEADS.NAME", name)


def test_loss_is_the_mean_over_images_of_each_ones_margin_loss():
    """By hand: image 1 has the pairs of the margin loss's test, image 2 a single positive, which costs nothing."""
    model = tiny_fcos(num_classes=2, embedding_head=nn.Identity(), embedding_loss_weight=3.0)
    embeddings = [torch.tensor([[0.0], [1.3], [1.1], [0.5], [0.6]]), torch.tensor([[0.0], [5.0], [0.0], [0.0], [0.0]])]
    first, second = torch.tensor(OBJECTS[0]), torch.tensor(OBJECTS[1])
    # Background (2) and ignored (-1) samples count for nothing, whatever box they were matched to.
    labels = [torch.tensor([0, 0, 1, 2, -1]), torch.tensor([2, 1, 2, 2, 2])]
    boxes = [torch.stack([first, first, second, first, second]), first.repeat(5, 1)]
    losses = model._embedding_losses(embeddings, labels, boxes)
    assert losses["loss_embedding"].item() == pytest.approx(3.0 * (1.05 + 0) / 2)


@pytest.mark.parametrize("kind", ["fcos", "retinanet"])
def test_positives_of_dense_detectors_are_those_detectron2_matches(kind, monkeypatch):
    model = build(kind)
    seen = []
    model.embedding_loss = lambda embeddings, objects: (
        seen.append((embeddings, objects)) or margin_loss(embeddings, objects)
    )
    captured = {}
    original = model.label_anchors

    def label_anchors(*args):
        captured["result"] = original(*args)
        return captured["result"]

    monkeypatch.setattr(model, "label_anchors", label_anchors)
    losses_of(model, batch())
    for (embeddings, objects), labels, boxes in zip(seen, *captured["result"]):
        positive = (labels >= 0) & (labels < model.num_classes)
        assert len(embeddings) == len(objects) == positive.sum() > 0
        named = {(int(o), tuple(b.tolist())) for o, b in zip(objects, boxes[positive])}
        # One name for each object and one object for each name.
        assert len(named) == len({o for o, _ in named}) == len({b for _, b in named})
    assert len(seen[0][1].unique()) == 2 and len(seen[1][1].unique()) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_detached_head_learns_and_leaves_the_detector_alone(kind):
    model = build(kind)
    losses_of(model, batch())["loss_embedding"].backward()
    for name, parameter in model.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        assert reached == ("embedding_head." in name), name


@pytest.mark.parametrize("kind", KINDS)
def test_joint_training_reaches_the_backbone(kind):
    model = build(kind, 8, "ODAM.EMBEDDING.DETACH", "False")
    losses_of(model, batch())["loss_embedding"].backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.backbone.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_other_losses_are_as_without_the_head(kind):
    model, plain = build(kind), build(kind, 0)
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if "embedding_head" not in k})
    losses, expected = losses_of(model, batch()), losses_of(plain, batch())
    assert set(losses) - set(expected) == {"loss_embedding"}
    assert all(torch.equal(losses[name], expected[name]) for name in expected)


@pytest.mark.parametrize("kind", KINDS)
def test_images_without_an_object_give_a_connected_zero(kind):
    model = build(kind)
    inputs = [{**random_input(), "instances": own} for own in (instances([]), instances(OBJECTS, ignore=[0, 1, 2]))]
    losses = losses_of(model, inputs)
    assert losses["loss_embedding"].item() == 0
    losses["loss_embedding"].backward()
    assert all((p.grad == 0).all() for p in holder(model).embedding_head.parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("detach", ["True", "False"])
def test_loss_falls_while_one_batch_is_learned(kind, detach):
    """The head alone on a detector at rest, or both together; steps are small so that proposals stay the same."""
    model = build(kind, 8, "ODAM.EMBEDDING.DETACH", detach)
    if detach == "True":
        # A linear layer on few features needs longer steps than a tower.
        learner, rate = holder(model).embedding_head, 2e-2 if kind == "faster_rcnn" else 5e-3
    else:
        learner, rate = model, 5e-4
    optimizer = torch.optim.Adam(learner.parameters(), lr=rate)
    history = []
    for _ in range(12):
        losses = losses_of(model, batch())
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        history.append(losses["loss_embedding"].item())
    assert max(history[-3:]) < 0.7 * history[0]


@pytest.mark.parametrize("kind", KINDS)
def test_two_steps_of_training_keep_all_losses_finite(kind):
    model = build(kind)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(2):
        losses = losses_of(model, batch())
        assert "loss_embedding" in losses and all(loss.isfinite() for loss in losses.values())
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_detections_are_as_without_the_head(kind):
    model, plain = build(kind).eval(), build(kind, 0).eval()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if "embedding_head" not in k})
    with torch.no_grad():
        (ours,), (theirs,) = model([random_input()]), plain([random_input()])
    assert torch.equal(ours["instances"].scores, theirs["instances"].scores)
    assert torch.equal(ours["instances"].pred_boxes.tensor, theirs["instances"].pred_boxes.tensor)
