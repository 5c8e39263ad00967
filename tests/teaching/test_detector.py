"""A training step beside a teacher: all distillers in all detectors, their parameters, and the student left alone."""

import pytest
import torch
from detectron2.modeling import build_model

from helpers import DEVICES, small_cfg
from odam_d2.distill import DISTILLERS, Objects, build_distiller
from odam_d2.teaching.training_pass import match_places, responses_of
from teaching.conftest import CLASSES, KINDS, OBJECTS, losses_of, with_objects

TERMS = {
    "odam_kd": {"foreground", "background", "attention", "relation"},
    "fgd": {"foreground", "background", "attention", "relation"},
    "fgfi": {"imitation"},
    "gid": {"feature", "relation", "response_class", "response_box"},
    "fkd": {"feature", "attention", "relation"},
    "cwd": {"channel"},
    "pkd": {"pearson"},
}
WIDE = ("MODEL.FPN.OUT_CHANNELS", 48, "MODEL.TIMM.NAME", "test_resnet")


def of_distiller(losses):
    return {name: value for name, value in losses.items() if name.startswith("loss_distill_")}


def batch():
    return [with_objects(OBJECTS), with_objects([], seed=1, size=(90, 120))]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", DISTILLERS)
def test_every_distiller_teaches_every_detector_and_learns_itself(kind, name, make_student):
    if (kind, name) == ("faster_rcnn", "gid"):
        with pytest.raises(ValueError, match="compares responses at anchors, of which ODAMRCNN has none"):
            make_student(kind, "ODAM.KD.DISTILLER", name)
        return
    model = make_student(kind, "ODAM.KD.DISTILLER", name, teacher=WIDE)
    before = {key: value.clone() for key, value in model.teacher.detector.state_dict().items()}
    losses = of_distiller(losses_of(model, batch()))
    assert {key.removeprefix("loss_distill_") for key in losses} == TERMS[name]
    assert all(torch.isfinite(value) and value.dtype == torch.float32 for value in losses.values())
    total = sum(losses.values())
    assert total > 0
    total.backward()
    # Weights on the way to the features learn, and all of the distiller's do, as several processes need it.
    assert all(p.grad is not None for p in model.distiller.parameters())
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in model.student.backbone.bottom_up.parameters())
    assert all(p.grad is None for p in model.teacher.detector.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.teacher.detector.state_dict().items())
    assert not model.teacher.detector.training


@pytest.mark.parametrize("kind", KINDS)
def test_the_students_own_losses_are_those_without_a_teacher(kind, make_student):
    model = make_student(kind)
    found = losses_of(model, batch())
    # Detectron2's dense detectors divide by a running number of positives.
    vars(model.student).pop("loss_normalizer", None)
    plain = losses_of(model.student, batch())
    assert set(found) - set(plain) == set(of_distiller(found))
    assert {name: found[name].item() for name in plain} == {name: value.item() for name, value in plain.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_is_itself_in_evaluation_and_without_autograd(kind, make_student):
    model = make_student(kind)
    with torch.no_grad():
        assert not of_distiller(losses_of(model, batch()))
        found, plain = (one.eval()([with_objects()])[0]["instances"] for one in (model, model.student))
    assert torch.equal(found.scores, plain.scores)
    assert {name.split(".")[0] for name in model.state_dict()} == {"student", "distiller"}
    model.train()
    assert not model.teacher.detector.training and model.student.training
    plain = build_model(small_cfg(kind, CLASSES))
    plain.load_state_dict(model.student.state_dict())


@pytest.mark.parametrize("kind", ["retinanet", "fcos"])
def test_the_losses_are_the_distillers_own_of_both_networks_maps(kind, make_student):
    """FGD once more, with maps from two separate forward passes."""
    model = make_student(kind, "ODAM.KD.DISTILLER", "fgd")
    inputs = batch()
    found = of_distiller(losses_of(model, inputs))
    levels = []
    for detector in (model.student, model.teacher.detector):
        outputs = detector.backbone(detector.preprocess_image(inputs).tensor)
        levels.append([outputs[name] for name in ("p3", "p4", "p5", "p6", "p7")])
    other = build_distiller("fgd", (8, 16, 32, 64, 128), 32, settings=model.distiller.settings)
    other.load_state_dict(model.distiller.state_dict())
    objects = Objects([one["instances"].gt_boxes.tensor for one in inputs], [(100, 150), (90, 120)])
    for name, value in other(*levels, objects).items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_that_is_its_teacher_has_nothing_to_learn(kind, make_student):
    # In training mode frozen batch statistics and frozen weights give the same maps.
    model = make_student(kind)
    model.student.load_state_dict(model.teacher.detector.state_dict())
    losses = of_distiller(losses_of(model, batch()))
    # Rounding alone, of differences of maps, is squared: else these are 1e-5 to 1e-3.
    assert max(losses["loss_distill_foreground"].item(), losses["loss_distill_background"].item()) < 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_batches_without_any_object_are_learned_from(kind, make_student):
    model = make_student(kind)
    losses = of_distiller(losses_of(model, [with_objects(), with_objects(seed=1)]))
    assert losses["loss_distill_foreground"].item() == 0 < losses["loss_distill_background"].item()
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_regions_to_ignore_are_no_objects(make_student):
    model = make_student("fcos", "ODAM.KD.DISTILLER", "fgd")
    plain, marked = with_objects(OBJECTS[:1]), with_objects(OBJECTS[:2])
    marked["instances"].gt_ignore = torch.tensor([False, True])
    one, other = (of_distiller(losses_of(model, [own])) for own in (plain, marked))
    assert {key: value.item() for key, value in one.items()} == {key: value.item() for key, value in other.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_odam_train_at_once_changes_no_loss_of_distillation(kind, make_student):
    both, alone = (losses_of(make_student(kind, "ODAM.TRAIN.ENABLED", on), batch()) for on in (True, False))
    assert set(both) - set(alone) == {"loss_odam_con", "loss_odam_sep"}
    for name, value in alone.items():
        assert both[name].item() == pytest.approx(value.item(), rel=1e-5, abs=1e-9), name
    sum(both.values()).backward()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["odam_kd", "fgd", "gid", "fkd"])
def test_autocast_gives_finite_losses_near_those_of_full_precision(device, name, make_student):
    model = make_student("retinanet", "ODAM.KD.DISTILLER", name, "MODEL.DEVICE", device)
    full = of_distiller(losses_of(model, batch()))
    with torch.autocast(device, dtype=torch.bfloat16 if device == "cpu" else torch.float16):
        half = losses_of(model, batch())
    sum(half.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    for key, value in of_distiller(half).items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(full[key].item(), rel=0.3), key


@pytest.mark.parametrize("kind", KINDS)
def test_places_of_an_observation_are_matched_as_its_detector_matches_them(kind, make_student):
    model = make_student(kind).student.eval()
    inputs = [with_objects(OBJECTS), with_objects(seed=1)]
    observation = model.observe(inputs)
    found, none = match_places(observation, [one["instances"] for one in inputs])
    assert len(none.places) == 0 < len(found.places)
    assert set(map(tuple, found.boxes.tolist())) <= set(map(tuple, OBJECTS))
    classes = dict(zip(map(tuple, OBJECTS), (0, 1, 2)))
    assert found.classes.tolist() == [classes[tuple(box)] for box in found.boxes.tolist()]
    assert len(observation.trace(0, found.places, found.classes)) == len(found.places)


@pytest.mark.parametrize("kind", ["retinanet", "fcos"])
def test_responses_are_all_logits_boxes_and_what_the_boxes_are_made_of(kind, make_student):
    model = make_student(kind).student.eval()
    if kind == "fcos":  # some of the distances below 0, where they mean a side at the point itself
        torch.nn.init.zeros_(model.head.bbox_pred.bias)
    observation = model.observe([with_objects(OBJECTS), with_objects(seed=1)], ("fpn",))
    found = responses_of(observation)
    for image in range(2):
        assert torch.equal(found.boxes[image], observation.predictions(image).boxes[:, 0])
        assert torch.allclose(found.logits[image].sigmoid(), observation.predictions(image).class_vectors)
    assert not found.boxes.requires_grad and found.deltas.requires_grad
    assert (found.deltas.min() < 0) == (kind == "retinanet") and (kind == "retinanet" or (found.deltas == 0).any())
