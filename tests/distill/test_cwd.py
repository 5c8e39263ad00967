"""CWD: the divergence by hand, its invariances and its gradient."""

import math

import pytest
import torch
from torch.nn import functional as F

from odam_d2.distill import CWD
from odam_d2.distill.cwd import channel_divergence

STRIDES = (8, 16)


def maps_of(*channels):
    return torch.tensor(channels)[None, :, None, :]


def test_divergence_by_hand():
    # Teacher 1/4 and 3/4, student 1/2 each: 1/4 ln(1/2) + 3/4 ln(3/2); the second channel agrees. C = 2, N = 1.
    teacher, student = maps_of([0.0, math.log(3)], [1.0, 1.0]), maps_of([7.0, 7.0], [1.0, 1.0])
    expected = (0.25 * math.log(0.5) + 0.75 * math.log(1.5)) / 2
    assert channel_divergence(student, teacher).item() == pytest.approx(expected)
    # Twice as large maps at twice the temperature: the same distributions, times T^2 = 4.
    assert channel_divergence(2 * student, 2 * teacher, 2.0).item() == pytest.approx(4 * expected)


def test_divergence_is_that_of_torch_and_ignores_offsets():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    logs = [F.log_softmax(x.flatten(2) / 3, dim=2) for x in (student, teacher)]
    expected = 9 / 3 * F.kl_div(*logs, reduction="sum", log_target=True) / 2
    assert channel_divergence(student, teacher, 3.0).item() == pytest.approx(expected.item(), rel=1e-5)
    moved = student + torch.randn(2, 3, 1, 1)
    assert channel_divergence(moved, teacher, 3.0).item() == pytest.approx(expected.item(), rel=1e-4)


def test_levels_add_up(make_batch):
    student, teacher, objects = make_batch()
    found = CWD(STRIDES, 4, temperature=2.0, weight=3.0)(student, teacher, objects)
    expected = 3 * sum(channel_divergence(s, t, 2.0).item() for s, t in zip(student, teacher))
    assert {name: x.item() for name, x in found.items()} == {"loss_distill_channel": pytest.approx(expected)}


def test_the_gradient_is_that_of_small_differences():
    torch.manual_seed(0)
    student, teacher = (torch.randn(2, 3, 2, 3, dtype=torch.float64) for _ in range(2))
    assert torch.autograd.gradcheck(lambda x: channel_divergence(x, teacher, 1.5), student.requires_grad_())


def test_a_temperature_of_0_is_refused():
    with pytest.raises(ValueError, match="temperature is 0; it must be more than 0"):
        CWD(STRIDES, 4, temperature=0)
