"""ODAM-KD: equations (5) to (7) by hand, every row of Table 7 against a loop, and its limits."""

import math

import pytest
import torch

from odam_d2.distill import FGD, ODAMKD, FGDSettings, LevelFocus, Objects
from odam_d2.distill.odam_kd import top_down_attention

STRIDES = (8, 16)
# foreground, background, attention of rows (1) to (7).
TABLE_7 = (
    ("unfocused", False, "bottom_up"),
    ("focused", False, "bottom_up"),
    ("together", False, "bottom_up"),
    ("focused", False, "odam"),
    ("together", True, "bottom_up"),
    ("focused", True, "odam"),
    ("focused", True, "gradcam"),
)


def numbers(losses):
    return {name.removeprefix("loss_distill_"): value.item() for name, value in losses.items()}


def with_focus(objects, *levels):
    return Objects(objects.boxes, objects.image_sizes, focus=levels)


def test_top_down_attention_is_a_softmax_of_the_larger_map():
    # Larger ones: 0, ln3, ln2, ln2. Softmax 1 : 3 : 2 : 2, eighths, times four cells.
    teacher = torch.tensor([0.0, math.log(3), 0.0, 0.0]).reshape(1, 2, 2)
    student = torch.tensor([0.0, math.log(2), math.log(2), math.log(2)]).reshape(1, 2, 2)
    expected = torch.tensor([0.5, 1.5, 1.0, 1.0]).reshape(1, 2, 2)
    assert torch.allclose(top_down_attention(teacher, student), expected)
    assert torch.allclose(top_down_attention(student, teacher), expected)


def test_without_key_predictions_nothing_is_stressed():
    maps = torch.zeros(2, 3, 5)
    maps[1, 0, 0] = 2.0
    found = top_down_attention(maps, torch.zeros(2, 3, 5))
    assert torch.allclose(found[0], torch.ones(3, 5)) and found[1, 0, 0] > 1 > found[1, 1, 1]


def test_top_down_attention_is_a_constant_in_full_precision():
    maps = torch.rand(1, 2, 2, requires_grad=True)
    found = top_down_attention(maps.bfloat16(), maps.bfloat16())
    assert not found.requires_grad and found.dtype == torch.float32


def test_signed_maps_and_other_shapes_are_refused():
    maps = torch.zeros(1, 2, 2)
    with pytest.raises(ValueError, match="value -0.5; equations"):
        top_down_attention(maps, maps - 0.5)
    with pytest.raises(ValueError, match=r"\(1, 2, 2\) and \(2, 2\)"):
        top_down_attention(maps, maps[0])


def one_level():
    """Cells 0..5 in a row: the first object covers 0 and 1, the second 2 and 3; 4 and 5 are background.

    The boxes' rows 0..1 exist by half: 1/4 of a cell's share is 2 columns x 2 rows. Teacher 0, student 1: M_bu = 1,
    C = 1, squared error 1 at every cell.
    """
    objects = Objects([torch.tensor([[1.0, 1.0, 7.0, 7.0], [17.0, 1.0, 23.0, 7.0]])], [(8, 48)])
    maps = torch.zeros(1, 1, 6)
    maps[0, 0, 0] = math.log(3)  # softmax: 3/8 at cell 0 and 1/8 elsewhere, times 6: 9/4 and 3/4
    return torch.ones(1, 1, 1, 6), torch.zeros(1, 1, 1, 6), objects, maps


@pytest.mark.parametrize(
    ("foreground", "attention", "focused", "expected"),
    [
        ("focused", "bottom_up", [0], 0.5),  # cells 0 and 1: 1/4 + 1/4
        ("unfocused", "bottom_up", [0], 0.5),  # cells 2 and 3
        ("together", "bottom_up", [0], 1.0),
        ("focused", "odam", [0], 0.75),  # 1/4 x 9/4 + 1/4 x 3/4
        ("focused", "gradcam", [0], 0.75),
        ("focused", "odam", [1], 0.375),  # 1/4 x 3/4 twice
        ("unfocused", "odam", [1], 0.75),
        ("together", "odam", [0], 1.125),
        ("focused", "odam", [], 0.0),
    ],
)
def test_foreground_by_hand(foreground, attention, focused, expected):
    student, teacher, objects, maps = one_level()
    settings = FGDSettings(foreground=1.0, background=1.0, attention=0.0, relation=0.0)
    distiller = ODAMKD((8,), 1, settings=settings, foreground=foreground, attention=attention)
    focus = LevelFocus([torch.tensor(focused, dtype=torch.int64)], maps, 0 * maps)
    found = numbers(distiller([student], [teacher], with_focus(objects, focus)))
    # Background are cells 4 and 5 whatever is focused, under bottom-up attention: 1/2 + 1/2.
    assert found == pytest.approx({"foreground": expected, "background": 1.0}, rel=1e-5)


def test_channels_are_weighted_unless_equation_7_is_taken_as_written():
    # Teacher's channel means of magnitudes 0.5 ln3 and 0 with T = 0.5: C = 3/2 and 1/2; errors 4 and 1 at each cell.
    teacher = torch.stack([torch.full((1, 6), 0.5 * math.log(3)), torch.zeros(1, 6)])[None]
    student = teacher + torch.tensor([2.0, 1.0])[:, None, None]
    _, _, objects, _ = one_level()
    settings = FGDSettings(foreground=1.0, background=0.0, attention=0.0, relation=0.0)
    objects = with_focus(objects, LevelFocus([torch.tensor([0])]))
    for weigh, error in ((True, 1.5 * 4 + 0.5 * 1), (False, 4 + 1)):
        distiller = ODAMKD((8,), 2, settings=settings, attention="bottom_up", weigh_channels=weigh)
        assert numbers(distiller([student], [teacher], objects))["foreground"] == pytest.approx(error / 2, rel=1e-5)


def softmax_of(values):
    total = sum(math.exp(x) for x in values.values())
    return {cell: len(values) * math.exp(x) / total for cell, x in values.items()}


def loop(student, teacher, objects, foreground, attention, temperature):
    """Foreground and background term of all levels, one number at a time."""
    total = [0.0, 0.0]
    for level, stride in enumerate(STRIDES):
        images, channels, height, width = student[level].shape
        cells = [(i, j) for i in range(height) for j in range(width)]
        focus = objects.focus[level]
        for n in range(images):
            own, aim = student[level][n], teacher[level][n]
            bottom_up = softmax_of({c: float(aim[:, c[0], c[1]].abs().mean()) / temperature for c in cells})
            channel = softmax_of({k: float(aim[k].abs().mean()) / temperature for k in range(channels)})
            top_down = softmax_of(
                {c: max(float(focus.teacher_attention[n][c]), float(focus.student_attention[n][c])) for c in cells}
            )
            mask, occupied = dict.fromkeys(cells, 0.0), set()
            for number, (x1, y1, x2, y2) in enumerate(objects.boxes[n].tolist()):
                x1, x2 = (min(max(x, 0), objects.image_sizes[n][1]) / stride for x in (x1, x2))
                y1, y2 = (min(max(y, 0), objects.image_sizes[n][0]) / stride for y in (y1, y2))
                rows = range(math.floor(y1), math.ceil(y2) + 1)
                columns = range(math.floor(x1), math.ceil(x2) + 1)
                inside = [c for c in cells if c[0] in rows and c[1] in columns]
                occupied |= set(inside)
                is_focused = number in focus.focused[n].tolist()
                if foreground == "together" or is_focused == (foreground == "focused"):
                    for c in inside:
                        mask[c] = max(mask[c], 1 / (len(rows) * len(columns)))
            for i, j in cells:
                error = sum(channel[k] * float(own[k, i, j] - aim[k, i, j]) ** 2 for k in range(channels))
                stressed = bottom_up[i, j] * (1 if attention == "bottom_up" else top_down[i, j])
                total[0] += mask[i, j] * stressed * error / images
                if (i, j) not in occupied:
                    total[1] += bottom_up[i, j] * error / (len(cells) - len(occupied)) / images
    return total


@pytest.mark.parametrize(("foreground", "background", "attention"), TABLE_7)
def test_every_row_of_table_7_equals_a_loop(make_batch, foreground, background, attention):
    student, teacher, objects = make_batch(3, dtype=torch.float64)
    options = {"foreground": foreground, "background": background, "attention": attention}
    distiller = ODAMKD(STRIDES, 4, **options).double()
    found = numbers(distiller(student, teacher, objects))
    expected = loop(student, teacher, objects, foreground, attention, 0.5)
    assert found["foreground"] == pytest.approx(1e-3 * expected[0], rel=1e-6) and expected[0] > 0
    assert ("background" in found) == background
    if background:
        assert found["background"] == pytest.approx(5e-4 * expected[1], rel=1e-6) and expected[1] > 0


def test_row_5_is_fgd_and_needs_no_key_predictions(make_batch):
    student, teacher, objects = make_batch()
    baseline = ODAMKD(STRIDES, 4, foreground="together", attention="bottom_up")
    fgd = FGD(STRIDES, 4)
    fgd.load_state_dict(baseline.state_dict())
    objects = Objects(objects.boxes, objects.image_sizes)
    assert baseline.needs == ()
    assert numbers(baseline(student, teacher, objects)) == numbers(fgd(student, teacher, objects))


def test_with_all_objects_focused_and_zero_maps_it_is_fgd(make_batch):
    student, teacher, objects = make_batch()
    focus = [
        LevelFocus([torch.arange(len(boxes)) for boxes in objects.boxes], zero, zero)
        for zero in (torch.zeros(2, 6, 8), torch.zeros(2, 3, 4))
    ]
    found = numbers(ODAMKD(STRIDES, 4)(student, teacher, with_focus(objects, *focus)))
    assert found == pytest.approx(numbers(FGD(STRIDES, 4)(student, teacher, objects)), rel=1e-5)


def test_what_does_not_fit_is_refused(make_batch):
    student, teacher, objects = make_batch()
    distiller = ODAMKD(STRIDES, 4)
    with pytest.raises(ValueError, match="a focus for 1 levels; this ODAMKD has 2"):
        distiller(student, teacher, with_focus(objects, objects.focus[0]))
    fine, coarse = objects.focus
    with pytest.raises(ValueError, match="focused objects of 1 images on level 0, of 2"):
        distiller(student, teacher, with_focus(objects, fine._replace(focused=[torch.arange(1)]), coarse))
    with pytest.raises(ValueError, match=r"needs maps \(2, 6, 8\) of teacher and student on level 0, not None and"):
        distiller(student, teacher, with_focus(objects, fine._replace(teacher_attention=None), coarse))
    with pytest.raises(ValueError, match="foreground is 'all'; valid values are focused, unfocused, together"):
        ODAMKD(STRIDES, 4, foreground="all")
    with pytest.raises(ValueError, match="attention is 'none'; valid values are bottom_up, odam, gradcam"):
        ODAMKD(STRIDES, 4, attention="none")
