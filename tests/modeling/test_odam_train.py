"""ODAM-Train in the detectors: which maps are compared, what the losses reach, and batches with little to compare."""

import dataclasses

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn
from torchvision.ops import box_iou

from helpers import DEVICES, random_input, small_cfg, tiny_fcos
from modeling.test_nms_in_detectors import any_detector
from modeling.test_observation import observe_training_batch
from odam_d2.explain import GradientExplainer, target_output
from odam_d2.losses.odam_train import MARGIN
from odam_d2.modeling.odam_train import MAP_STRIDE, ODAMTrain, best_samples
from odam_d2.modeling.positives import Positives
from odam_d2.structures import Grid, HeatMaps

KINDS = ("fcos", "fcos_gn", "retinanet", "faster_rcnn", "cascade")
OBJECTS = [[10.0, 10.0, 60.0, 70.0], [80.0, 30.0, 140.0, 90.0], [30.0, 20.0, 90.0, 80.0]]


def detector(kind, device="cpu", **options):
    """A random network that trains maps; :func:`holder` has its settings."""
    if kind == "fcos_gn":
        torch.manual_seed(0)
        model = tiny_fcos(norm=lambda channels: nn.GroupNorm(2, channels))
    else:
        model = any_detector(kind, "greedy")
    own = holder(model)
    if own is not model:  # more of the small random regions are taken for an object
        for matcher in getattr(own, "proposal_matchers", [own.proposal_matcher]):
            matcher.thresholds[1] = 0.02
        own.batch_size_per_image = 64
    layer = own.batched_layer
    settings = {"explainer": GradientExplainer(layer=layer, path="auto"), **options}
    own.odam_train = ODAMTrain(**settings)
    return model.to(device).train()


def holder(model):
    return getattr(model, "roi_heads", model)


def with_objects(boxes, seed=0, classes=None):
    found = Instances((100, 150))
    found.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).view(-1, 4))
    found.gt_classes = torch.arange(len(boxes)) % 3 if classes is None else torch.tensor(classes)
    return {**random_input(seed=seed), "instances": found}


def losses_of(model, inputs):
    torch.manual_seed(1)
    with EventStorage():
        return model(inputs)


def maps_of(losses):
    return {name: value for name, value in losses.items() if "odam" in name}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("negatives", ["all", "overlapping"])
def test_the_losses_are_those_of_autograds_maps_pair_by_pair(kind, negatives, monkeypatch):
    model = detector(kind, negatives=negatives, weight=0.5, max_samples=5)
    seen = []
    plain = ODAMTrain.losses

    def remember(train, observation, positives):
        seen.append((observation, positives))
        return plain(train, observation, positives)

    monkeypatch.setattr(ODAMTrain, "losses", remember)
    found = losses_of(model, [with_objects(OBJECTS), with_objects(OBJECTS[:1], seed=1)])
    ((observation, positives),) = seen
    assert len(positives[0].places) > 5
    expected = [pair_losses(observation, image, own, negatives) for image, own in enumerate(positives)]
    for name, values in zip(("loss_odam_con", "loss_odam_sep"), zip(*expected)):
        assert found[name].item() == pytest.approx(0.5 * sum(values) / 2, rel=2e-3, abs=1e-6), name
    assert found["loss_odam_sep"].item() > 0


def pair_losses(observation, image, positives, negatives, most=5):
    """Equations (8) and (9) with maps from one backward pass each, a pair at a time."""
    trace = observation.trace(image, *positives[:2])
    boxes = positives.boxes.tolist()
    ious = [box_iou(trace.boxes[i : i + 1].detach(), positives.boxes[i : i + 1]).item() for i in range(len(trace))]
    best = {}
    for i, box in enumerate(boxes):
        if str(box) not in best or ious[i] > ious[best[str(box)]]:
            best[str(box)] = i
    ranked = sorted(range(len(boxes)), key=lambda i: (i not in best.values(), -ious[i], i))
    chosen = sorted(ranked[:most])
    maps = dict(zip(chosen, autograd_maps(trace, chosen)))
    consistency, separation, pairs = 0.0, 0.0, 0
    for first in best.values():
        for i in chosen:
            if i == first:
                continue
            norm = float(maps[first].norm() * maps[i].norm())
            cosine = float((maps[first] * maps[i]).sum()) / norm if norm > 0 else 0.0
            cosine = min(max(cosine, MARGIN), 1 - MARGIN)
            overlap = box_iou(positives.boxes[first : first + 1], positives.boxes[i : i + 1]).item() > 0
            if boxes[i] == boxes[first]:
                consistency -= torch.tensor(cosine).log().item()
            elif negatives == "all" or overlap:
                separation -= torch.tensor(1 - cosine).log().item()
            else:
                continue
            pairs += 1
    return consistency / max(pairs, 1), separation / max(pairs, 1)


def autograd_maps(trace, rows):
    """Maps of the class logits, on the grid at which they are compared."""
    output, maps = target_output(trace, "class_logit"), []
    for row in rows:
        regions = trace.regions
        source, image = (
            trace.source(trace.levels[row]) if regions is None else (regions.features[-1], regions.rows[row])
        )
        (gradient,) = torch.autograd.grad(output[row], source, retain_graph=True)
        heat = (gradient[image] * source[image]).sum(dim=0).relu().detach()[None]
        one = torch.zeros(1, dtype=torch.int64)
        if regions is None:
            grid = Grid(heat, one, trace.strides[trace.levels[row]])
        else:
            grid = Grid(heat, one, boxes=regions.boxes[row : row + 1].detach())
        paste = None if regions is None else regions.paste
        sizes = trace.image_size, trace.padded_size, trace.output_size
        heat_maps = HeatMaps((grid,), trace.boxes[row : row + 1].detach(), *sizes, paste)
        maps.append(heat_maps.to_image(tuple(round(side / MAP_STRIDE) for side in trace.image_size))[0])
    return maps


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("second_order", [True, False])
def test_the_losses_reach_the_backbone_and_the_classifier_if_gradients_count(kind, second_order):
    model = detector(kind, second_order=second_order)
    losses = maps_of(losses_of(model, [with_objects(OBJECTS), with_objects(OBJECTS[1:], seed=1)]))
    sum(losses.values()).backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert any(name.startswith("backbone") for name in reached)
    assert any("cls_score.weight" in name for name in reached) == second_order
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("kind", ["fcos", "retinanet", "faster_rcnn", "cascade"])
def test_without_it_training_is_detectron2s_and_with_it_the_other_losses_are_the_same(kind):
    inputs = [with_objects(OBJECTS), with_objects(OBJECTS[1:], seed=1)]
    trained = losses_of(detector(kind), inputs)
    model = detector(kind)
    holder(model).odam_train = None
    plain = losses_of(model, inputs)
    assert set(trained) - set(plain) == {"loss_odam_con", "loss_odam_sep"}
    assert {name: trained[name].item() for name in plain} == {name: value.item() for name, value in plain.items()}


@pytest.mark.parametrize("kind", ["fcos", "retinanet", "faster_rcnn", "cascade"])
@pytest.mark.parametrize(
    "boxes",
    [
        [],
        OBJECTS[:1],
        [[-50.0, -40.0, 30.0, 40.0], [100.0, 60.0, 400.0, 300.0]],
        [[x, y, x + 9.0, y + 9.0] for x in range(0, 140, 7) for y in range(0, 90, 4)][:500],
        [[0.0, 0.0, 150.0, 100.0]],
    ],
    ids=["none", "one", "outside", "many", "all on one level"],
)
def test_any_number_of_objects_anywhere_gives_finite_losses_and_gradients(kind, boxes):
    model = detector(kind, max_samples=40)
    losses = losses_of(model, [with_objects(boxes), with_objects(OBJECTS[:1], seed=1)])
    assert all(torch.isfinite(value) for value in losses.values())
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("kind", ["fcos", "faster_rcnn"])
def test_a_batch_without_any_object_costs_nothing(kind):
    found = maps_of(losses_of(detector(kind), [with_objects([]), with_objects([], seed=1)]))
    assert found == {"loss_odam_con": 0, "loss_odam_sep": 0}


def test_boxes_that_a_stage_of_a_cascade_makes_empty_are_no_reason_to_fail():
    model = detector("cascade")
    deltas = model.roi_heads.box_predictor[0].bbox_pred
    nn.init.zeros_(deltas.weight)
    with torch.no_grad():
        deltas.bias.copy_(torch.tensor([-20.0, 0, 0, 0]))  # all boxes leave the image on its left
    losses = losses_of(model, [with_objects(OBJECTS), with_objects([], 1)])
    assert len(maps_of(losses)) == 2
    sum(losses.values()).backward()
    assert all(torch.isfinite(value) for value in losses.values())


@pytest.mark.parametrize("kind", KINDS)
def test_without_autograd_a_detector_in_training_mode_has_the_other_losses_alone(kind):
    model = detector(kind)
    with torch.no_grad():
        losses = losses_of(model, [with_objects(OBJECTS)])
    assert losses and not maps_of(losses)


@pytest.mark.parametrize("kind", ["fcos", "faster_rcnn", "cascade"])
def test_what_is_not_frozen_learns(kind):
    model = detector(kind)
    for part in (model.backbone, getattr(model, "proposal_generator", nn.Identity())):
        part.requires_grad_(False)
    losses = maps_of(losses_of(model, [with_objects(OBJECTS)]))
    assert sum(losses.values()) > 0
    sum(losses.values()).backward()
    learned = [name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0]
    assert learned and not any(name.startswith(("backbone", "proposal_generator")) for name in learned)


@pytest.mark.parametrize("kind", ["fcos", "retinanet", "faster_rcnn"])
def test_all_zero_maps_have_finite_losses_and_gradients(kind):
    model = detector(kind)
    predictor = holder(model).box_predictor if kind == "faster_rcnn" else model.head
    nn.init.zeros_(predictor.cls_score.weight)
    losses = losses_of(model, [with_objects(OBJECTS)])
    assert losses["loss_odam_con"] > 1 and losses["loss_odam_sep"] < 1e-3
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["fcos", "faster_rcnn"])
@pytest.mark.parametrize("second_order", [True, False])
def test_autocast_gives_finite_losses_near_those_of_full_precision(kind, device, second_order):
    model = detector(kind, device, second_order=second_order)
    inputs = [with_objects(OBJECTS)]
    full = maps_of(losses_of(model, inputs))
    if kind == "fcos":
        with torch.autocast(device, dtype=torch.bfloat16):
            # Detectron2's own box loss does not run in half precision on a CPU.
            images = model.preprocess_image(inputs)
            assert torch.isfinite(images.tensor).all()
            observation, positives, _ = observe_training_batch(model, inputs)
            boxes = [torch.tensor(OBJECTS[:2], device=device)[rows % 2] for rows, _ in positives]
            own = [Positives(rows, classes, box) for (rows, classes), box in zip(positives, boxes)]
            half = model.odam_train.losses(observation, own)
    else:
        with torch.autocast(device, dtype=torch.bfloat16):
            half = maps_of(losses_of(model, inputs))
    sum(half.values()).backward()
    assert all(torch.isfinite(value) and value.dtype == torch.float32 for value in half.values())
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    if kind == "faster_rcnn":
        assert half["loss_odam_sep"].item() == pytest.approx(full["loss_odam_sep"].item(), rel=0.2, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fcos", "faster_rcnn"])
@pytest.mark.parametrize("second_order", [True, False])
def test_the_losses_fall_while_one_batch_is_learned(kind, second_order):
    model = detector(kind, second_order=second_order)
    inputs = [with_objects(OBJECTS), with_objects(OBJECTS[:2], seed=1)]
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    history = []
    for _ in range(25):
        loss = sum(maps_of(losses_of(model, inputs)).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert min(history[-5:]) < 0.8 * history[0]


def test_samples_with_the_highest_iou_are_taken_and_every_objects_best_before():
    objects = torch.tensor([0, 0, 0, 1, 2, 2])
    ious = torch.tensor([0.9, 0.8, 0.9, 0.1, 0.3, 0.2])
    assert best_samples(objects, ious, 3).tolist() == [0, 3, 4]
    assert best_samples(objects, ious, 4).tolist() == [0, 2, 3, 4]
    assert best_samples(objects, ious, 5).tolist() == [0, 1, 2, 3, 4]
    # Fewer than there are objects: the best of the bests.
    assert best_samples(objects, ious, 2).tolist() == [0, 4]


@pytest.mark.parametrize("kind", ["fcos", "retinanet", "faster_rcnn"])
def test_the_config_decides(kind):
    assert holder(build_model(small_cfg(kind))).odam_train is None
    opts = "ODAM.TRAIN.ENABLED True ODAM.TRAIN.WEIGHT 0.3 ODAM.TRAIN.NEGATIVES overlapping ODAM.TRAIN.SECOND_ORDER "
    opts += "False ODAM.TRAIN.MAX_SAMPLES 7 ODAM.TRAIN.PATH auto"
    train = holder(build_model(small_cfg(kind, opts.split()))).odam_train
    assert (train.weight, train.negatives, train.second_order, train.max_samples) == (0.3, "overlapping", False, 7)
    assert train.explainer.path == "auto"
    assert train.explainer.layer == ("roi_pool" if kind == "faster_rcnn" else "fpn")


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("WEIGHT", 0.0, "WEIGHT is 0.0; it must be more than 0"),
        ("NEGATIVES", "some", "NEGATIVES is 'some'; valid values are all, overlapping"),
        ("MAX_SAMPLES", 1, "MAX_SAMPLES is 1; a pair needs at least 2"),
        ("PATH", "fast", "unknown path 'fast'"),
    ],
)
def test_a_value_out_of_range_is_refused(key, value, words):
    with pytest.raises(ValueError, match=words):
        build_model(small_cfg("fcos", ["ODAM.TRAIN.ENABLED", True, f"ODAM.TRAIN.{key}", value]))
    assert dataclasses.is_dataclass(ODAMTrain)


def test_heads_that_do_not_say_what_they_sampled_are_refused():
    opts = ["ODAM.TRAIN.ENABLED", True, "MODEL.ROI_HEADS.NAME", "ODAMRes5ROIHeads"]
    with pytest.raises(ValueError, match="ODAMRes5ROIHeads cannot train maps; set ODAM.TRAIN.ENABLED to False"):
        build_model(small_cfg("faster_rcnn", opts))
