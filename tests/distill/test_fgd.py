"""FGD: its terms weighted and summed over levels, its presets, and its context blocks."""

import math
from dataclasses import replace

import pytest
import torch

from odam_d2.distill import FGD, FGD_FCOS, FGD_PRESETS, FGD_RETINANET, FGD_TWO_STAGE, FGDSettings, Objects
from odam_d2.distill.terms import (
    attention_term,
    background_mask,
    channel_attention,
    foreground_mask,
    masked_term,
    spatial_attention,
    squared_error,
)

STRIDES = (8, 16)


def numbers(losses):
    return {name.removeprefix("loss_distill_"): value.item() for name, value in losses.items()}


def test_values_by_hand():
    # One channel, level of 1 x 2 cells of 8 pixels, an object on the left cell: x 0..4 covers cells 0..1 and y 0..4
    # cells 0..1, of which only one row exists: share 1/4 at both cells, and no background.
    # Teacher 0 and T ln3: S = 1/2 and 3/2, C = 1. Student one more: squared error 1 at both.
    # Foreground: 1/4 x 1/2 + 1/4 x 3/2 = 1/2. The student's attention is the same: 0. Relation: 1 + 1 = 2.
    teacher = torch.tensor([0.0, 0.5 * math.log(3)]).reshape(1, 1, 1, 2)
    settings = FGDSettings(foreground=10.0, background=20.0, attention=30.0, relation=0.0)
    distiller = FGD((8,), 1, settings=settings)
    objects = Objects([torch.tensor([[0.0, 0.0, 4.0, 4.0]])], [(8, 16)])
    found = numbers(distiller([teacher + 1], [teacher], objects))
    assert found == pytest.approx({"foreground": 5.0, "background": 0.0, "attention": 0.0}, abs=1e-5)
    # Without the object both cells are background of share 1/2: 1/2 x 1/2 + 1/2 x 3/2 = 1.
    found = numbers(distiller([teacher + 1], [teacher], Objects([torch.zeros(0, 4)], [(8, 16)])))
    assert found == pytest.approx({"foreground": 0.0, "background": 20.0, "attention": 0.0}, abs=1e-5)
    # A student of zeros: S = 1 and 1: |1 - 1/2| + |1 - 3/2| = 1, channels alike.
    found = numbers(distiller([0 * teacher], [teacher], objects))
    assert found["attention"] == pytest.approx(30.0, rel=1e-5)


def test_published_weights():
    def values(settings):
        return tuple(vars(settings).values())

    assert values(FGD_RETINANET) == (0.5, 1e-3, 5e-4, 5e-4, 5e-6)
    assert values(FGD_FCOS) == (0.8, 1.6e-3, 8e-4, 8e-4, 8e-6)
    assert values(FGD_TWO_STAGE) == (0.5, 5e-5, 2.5e-5, 5e-5, 5e-7)
    assert FGD_PRESETS == {"retinanet": FGD_RETINANET, "fcos": FGD_FCOS, "two_stage": FGD_TWO_STAGE}


@pytest.mark.parametrize("settings", [FGD_RETINANET, FGD_FCOS], ids=["retinanet", "fcos"])
def test_levels_add_up(make_batch, settings):
    student, teacher, objects = make_batch(dtype=torch.float64)
    found = numbers(FGD(STRIDES, 4, settings=settings).double()(student, teacher, objects))
    expected = dict.fromkeys(("foreground", "background", "attention", "relation"), 0.0)
    temperature = settings.temperature
    for stride, own, aim in zip(STRIDES, student, teacher):
        own_attention, attention = (
            (spatial_attention(x, temperature), channel_attention(x, temperature)) for x in (own, aim)
        )
        mask = foreground_mask(objects.boxes, objects.image_sizes, stride, own.shape[2:])
        error = squared_error(own, aim, attention[1])
        expected["foreground"] += settings.foreground * masked_term(error, attention[0], mask)
        expected["background"] += settings.background * masked_term(error, attention[0], background_mask(mask))
        expected["attention"] += settings.attention * attention_term(own_attention, attention)
        # The context blocks begin as identity.
        expected["relation"] += settings.relation * (own - aim).square().sum() / 2
    assert found == pytest.approx({name: float(value) for name, value in expected.items()}, rel=1e-9)


def test_a_student_like_its_teacher_has_no_loss(make_batch):
    student, _, objects = make_batch()
    assert set(numbers(FGD(STRIDES, 4)(student, student, objects)).values()) == {0.0}


def test_terms_without_weight_are_left_out(make_batch):
    student, teacher, objects = make_batch()
    distiller = FGD(STRIDES, 4, settings=replace(FGD_RETINANET, background=0.0, relation=0.0))
    assert list(numbers(distiller(student, teacher, objects))) == ["foreground", "attention"]
    assert not list(distiller.parameters())


def test_every_parameter_is_learned(make_batch):
    student, teacher, objects = make_batch(student_channels=6)
    distiller = FGD(STRIDES, 6, 4)
    for block in (*distiller.student_blocks, *distiller.teacher_blocks):
        torch.nn.init.normal_(block.add[-1].weight)
    sum(distiller(student, teacher, objects).values()).backward()
    # A softmax does not see its logits' common offset.
    still = [name for name, x in distiller.named_parameters() if not x.grad.any() and not name.endswith("weigh.bias")]
    assert not still


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="temperature is 0; it must be more than 0"):
        FGDSettings(temperature=0)
    with pytest.raises(ValueError, match="the weight relation is -1; it must not be negative"):
        FGDSettings(relation=-1)
