"""What all distillers have in common: how they are called, what reaches whom, and what they refuse."""

import pytest
import torch

from helpers import DEVICES
from odam_d2.distill import DISTILLERS, FGD, Objects, build_distiller
from odam_d2.distill.objects import LevelFocus, Responses

STRIDES = (8, 16)
NAMES = tuple(DISTILLERS)


def build(name, *args, **options):
    torch.manual_seed(0)
    distiller = build_distiller(name, STRIDES, *args, **options)
    # Blocks that begin as identity hide their parameters' part in a loss.
    for parameter in distiller.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return distiller


def without_boxes(objects):
    """No object in any image."""
    focus = [LevelFocus([torch.arange(0)] * 2, *(0 * x for x in level[1:])) for level in objects.focus]
    return Objects(
        [torch.zeros(0, 4)] * 2,
        objects.image_sizes,
        objects.anchors,
        focus,
        objects.student_responses,
        objects.teacher_responses,
    )


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_named_scalars_with_a_gradient_for_the_student_alone(make_batch, name):
    student, teacher, objects = make_batch()
    for maps in (*student, *teacher):
        maps.requires_grad_()
    for responses in (objects.student_responses, objects.teacher_responses):
        for values in responses:
            values.requires_grad_()
    distiller = build(name, 4)
    losses = distiller(student, teacher, objects)
    assert all(key.startswith("loss_distill_") and x.shape == () and x > 0 for key, x in losses.items())
    sum(losses.values()).backward()
    reached = [bool(maps.grad.any()) for maps in student]
    # GID pools small instances, and there are no others here, from the fine level.
    assert reached == ([True, False] if name == "gid" else [True, True])
    assert all(maps.grad is None for maps in teacher)
    assert all(x.grad is None for x in objects.teacher_responses)
    assert all(parameter.grad is not None for parameter in distiller.parameters())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("teacher_channels", [3, 6])
def test_other_widths_are_adapted(make_batch, name, teacher_channels):
    student, teacher, objects = make_batch(teacher_channels=teacher_channels)
    distiller = build(name, 4, teacher_channels)
    assert all(torch.isfinite(x) for x in distiller(student, teacher, objects).values())
    assert distiller.adapters[0].weight.shape[:2] == (teacher_channels, 4)


def test_an_adapter_is_a_convolution_of_its_level(make_batch):
    student, teacher, objects = make_batch(student_channels=6)
    distiller = build("fgd", 6, 4)
    adapted = [adapter(maps) for adapter, maps in zip(distiller.adapters, student)]
    plain = FGD(STRIDES, 4)
    plain.load_state_dict(
        {name: value for name, value in distiller.state_dict().items() if not name.startswith("adapters")}
    )
    found, expected = distiller(student, teacher, objects), plain(adapted, teacher, objects)
    assert {name: x.item() for name, x in found.items()} == {name: x.item() for name, x in expected.items()}


@pytest.mark.parametrize("name", NAMES)
def test_images_without_objects_are_welcome(make_batch, name):
    for first, second in ((3, 0), (0, 0)):
        student, teacher, objects = make_batch(first=first, second=second)
        objects = objects if first else without_boxes(objects)
        for maps in student:
            maps.requires_grad_()
        losses = build(name, 4)(student, teacher, objects)
        sum(losses.values()).backward()
        assert all(torch.isfinite(x) for x in losses.values())
        assert all(torch.isfinite(maps.grad).all() for maps in student)


@pytest.mark.parametrize("name", ("fgd", "odam_kd"))
def test_without_objects_all_is_background(make_batch, name):
    student, teacher, objects = make_batch()
    losses = build(name, 4)(student, teacher, without_boxes(objects))
    assert losses["loss_distill_foreground"] == 0 and losses["loss_distill_background"] > 0


def test_without_objects_nothing_is_imitated_by_fgfi(make_batch):
    student, teacher, objects = make_batch()
    assert build("fgfi", 4)(student, teacher, without_boxes(objects)) == {"loss_distill_imitation": 0}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_maps_give_full_precision_losses(make_batch, name, dtype, device):
    student, teacher, objects = make_batch()
    own, others = (
        Responses(*(x.to(device, dtype) for x in responses))
        for responses in (objects.student_responses, objects.teacher_responses)
    )
    focus = [LevelFocus(level.focused, *(x.to(device, dtype) for x in level[1:])) for level in objects.focus]
    boxes = [x.to(device) for x in objects.boxes]
    anchors = [x.to(device) for x in objects.anchors]
    distiller = build(name, 4).to(device)

    def losses(convert):
        return distiller(
            [convert(x.to(device, dtype)) for x in student],
            [convert(x.to(device, dtype)) for x in teacher],
            Objects(
                boxes,
                objects.image_sizes,
                anchors,
                [LevelFocus(level.focused, *map(convert, level[1:])) for level in focus],
                *(Responses(*map(convert, responses)) for responses in (own, others)),
            ),
        )

    with torch.autocast(device, dtype=dtype):
        found = losses(lambda x: x)
    assert all(x.dtype == torch.float32 and torch.isfinite(x) for x in found.values())
    # The same numbers as those of the maps' values in full precision.
    expected = losses(lambda x: x.float())
    assert {key: x.item() for key, x in found.items()} == pytest.approx(
        {key: x.item() for key, x in expected.items()}, rel=1e-5
    )


# FKD's masks are constants of its loss, which differences do not know: its terms are checked in test_fkd.py.
@pytest.mark.parametrize("name", [name for name in NAMES if name != "fkd"])
def test_gradients_are_those_of_small_differences(make_batch, name):
    student, teacher, objects = make_batch(teacher_channels=3, dtype=torch.float64)
    distiller = build(name, 4, 3).double()
    # Weights of one size, so that no term hides behind another.
    if hasattr(distiller, "settings") and name != "gid":
        ones = dict.fromkeys(("foreground", "background", "attention", "relation"), 1.0)
        distiller.settings = type(distiller.settings)(**ones)
    # Of a part of each map: the rest is more of the same.
    part = (slice(1), slice(2), slice(1, 3), slice(1, 3))
    parts = [maps[part].clone().requires_grad_() for maps in student]

    def losses(*parts):
        levels = [maps.clone() for maps in student]
        for maps, values in zip(levels, parts):
            maps[part] = values
        return tuple(distiller(levels, teacher, objects).values())

    assert torch.autograd.gradcheck(losses, parts)


@pytest.mark.parametrize("name", NAMES)
def test_calling_changes_nothing(make_batch, name):
    student, teacher, objects = make_batch()
    copies = [x.clone() for x in (*student, *teacher, *objects.boxes, *objects.anchors)]
    distiller = build(name, 4)
    first = distiller(student, teacher, objects)
    assert all(torch.equal(a, b) for a, b in zip(copies, (*student, *teacher, *objects.boxes, *objects.anchors)))
    assert first == distiller(student, teacher, objects)


@pytest.mark.parametrize("name", NAMES)
def test_missing_fields_are_named(make_batch, name):
    student, teacher, objects = make_batch()
    distiller = build(name, 4)
    bare = Objects(objects.boxes, objects.image_sizes)
    if not distiller.needs:
        assert distiller(student, teacher, bare)
        return
    with pytest.raises(ValueError, match=rf"{type(distiller).__name__} needs Objects\({distiller.needs[0]}=\.\.\.\)"):
        distiller(student, teacher, bare)


def test_what_does_not_fit_is_refused(make_batch):
    student, teacher, objects = make_batch()
    distiller = FGD(STRIDES, 4)
    with pytest.raises(ValueError, match="1 levels of the student and 2 of the teacher; this FGD was made for 2"):
        distiller(student[:1], teacher, objects)
    with pytest.raises(ValueError, match=r"maps \(2, 4, 6, 8\) of the student and \(2, 4, 5, 8\) of the teacher"):
        distiller(student, [teacher[0][:, :, 1:], teacher[1]], objects)
    with pytest.raises(ValueError, match="do not fit 2 images, 4 and 4 channels"):
        distiller(student, [teacher[0][:, 1:], teacher[1]], objects)
    with pytest.raises(ValueError, match="do not fit 1 images"):
        distiller(student, teacher, Objects(objects.boxes[:1], objects.image_sizes[:1]))
    with pytest.raises(
        ValueError, match="an image of 40 x 60 pixels reaches beyond a level of 6 x 8 cells of 4 pixels"
    ):
        FGD((4, 8), 4)(student, teacher, objects)
    with pytest.raises(ValueError, match=r"strides are \(\); name the positive stride of every level"):
        FGD((), 4)
    with pytest.raises(
        ValueError, match="unknown distiller 'kd'; valid names are odam_kd, fgd, fgfi, gid, fkd, cwd, pkd"
    ):
        build_distiller("kd", STRIDES, 4)


def test_objects_are_checked_and_shown(make_batch):
    _, _, objects = make_batch()
    assert repr(objects) == "Objects(3, 1 in 2 images, anchors, focus, student_responses, teacher_responses)"
    assert repr(Objects([], [])) == "Objects( in 0 images)"
    with pytest.raises(ValueError, match="boxes of 1 images and sizes of 2; give one each"):
        Objects(objects.boxes[:1], objects.image_sizes)
    with pytest.raises(ValueError, match=r"the boxes of image 1 have shape \(0,\); they must be \(G,4\)"):
        Objects([objects.boxes[0], torch.zeros(0)], objects.image_sizes)
