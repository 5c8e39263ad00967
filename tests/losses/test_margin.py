"""The margin loss: values by hand, gradients that are numbers, and what does not matter."""

import pytest
import torch

from helpers import DEVICES
from odam_d2.losses.margin import margin_loss


def line(*positions):
    """Embeddings of length 1: distances are differences."""
    return torch.tensor(positions, dtype=torch.float64)[:, None].requires_grad_()


def of(*objects):
    return torch.tensor(objects)


def test_same_objects_pay_what_they_are_farther_apart_than_the_boundary_less_the_margin():
    # 1.3 apart: 0.2 + (1.3 - 1) = 0.5.
    assert margin_loss(line(0, 1.3), of(4, 4)).item() == pytest.approx(0.5)
    # 0.9 apart: 0.2 - 0.1 = 0.1. 0.7 apart: nothing.
    assert margin_loss(line(0, 0.9), of(4, 4)).item() == pytest.approx(0.1)
    assert margin_loss(line(0, 0.7), of(4, 4)).item() == 0


def test_different_objects_pay_what_they_are_closer_than_the_boundary_and_the_margin():
    # 0.5 apart: 0.2 - (0.5 - 1) = 0.7. 1.1 apart: 0.1. 1.3 apart: nothing.
    assert margin_loss(line(0, 0.5), of(0, 1)).item() == pytest.approx(0.7)
    assert margin_loss(line(0, 1.1), of(0, 1)).item() == pytest.approx(0.1)
    assert margin_loss(line(0, 1.3), of(0, 1)).item() == 0


def test_pairs_without_a_loss_do_not_thin_out_the_others_and_both_kinds_weigh_alike():
    # Objects: 0 at 0 and 1.3, 1 at 1.1, 2 at 9. Same: 0.5. Different: |0-1.1| costs 0.1, |1.3-1.1| costs 1.0, the three
    # pairs with 9 nothing. 0.5 + (0.1 + 1.0) / 2 = 1.05.
    loss = margin_loss(line(0, 1.3, 1.1, 9), of(0, 0, 1, 2))
    assert loss.item() == pytest.approx(1.05)


def test_margin_and_boundary_are_what_they_say():
    # 0.5 apart with boundary 2 and margin 0.1: different pay 0.1 - (0.5 - 2) = 1.6; same, 3 apart, 0.1 + 1 = 1.1.
    assert margin_loss(line(0, 0.5), of(0, 1), margin=0.1, boundary=2.0).item() == pytest.approx(1.6)
    assert margin_loss(line(0, 3), of(1, 1), margin=0.1, boundary=2.0).item() == pytest.approx(1.1)


def test_gradient_pulls_the_same_together_and_pushes_the_different_apart():
    points = line(0, 1.3)
    margin_loss(points, of(0, 0)).backward()
    assert points.grad[:, 0].tolist() == [-1, 1]
    points = line(0, 0.5)
    margin_loss(points, of(0, 1)).backward()
    assert points.grad[:, 0].tolist() == [1, -1]


@pytest.mark.parametrize("device", DEVICES)
def test_equal_embeddings_have_a_loss_and_a_finite_gradient(device):
    points = torch.ones(3, 4, device=device, requires_grad=True)
    loss = margin_loss(points, torch.tensor([0, 0, 1], device=device))
    assert loss.item() == pytest.approx(1.2)
    loss.backward()
    assert torch.equal(points.grad, torch.zeros_like(points))


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_samples_give_a_connected_zero(count):
    points = torch.ones(count, 4, requires_grad=True)
    loss = margin_loss(points, torch.zeros(count, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(points.grad, torch.zeros(count, 4))


def test_order_and_names_of_objects_do_not_matter():
    torch.manual_seed(0)
    points, objects = torch.randn(12, 3), torch.randint(0, 4, (12,))
    expected = margin_loss(points, objects)
    order = torch.randperm(12)
    assert torch.allclose(margin_loss(points[order], objects[order]), expected)
    assert torch.allclose(margin_loss(points, 100 - objects), expected)


def test_loss_equals_that_of_a_loop_over_pairs():
    torch.manual_seed(0)
    points, objects = torch.randn(9, 2), torch.randint(0, 3, (9,))
    costs = {True: [], False: []}
    for i in range(9):
        for j in range(i):
            distance = (points[i] - points[j]).norm().item()
            same = bool(objects[i] == objects[j])
            cost = 0.2 + (distance - 1) * (1 if same else -1)
            costs[same] += [cost] if cost > 0 else []
    expected = sum(sum(values) / len(values) for values in costs.values())
    assert margin_loss(points, objects).item() == pytest.approx(expected, rel=1e-5)


def test_a_subset_is_drawn_by_torchs_generator():
    torch.manual_seed(0)
    points, objects = torch.randn(40, 3), torch.randint(0, 4, (40,))

    def draw(seed, cap):
        torch.manual_seed(seed)
        return margin_loss(points, objects, max_samples=cap).item()

    assert draw(1, 10) == draw(1, 10) != draw(2, 10)
    assert draw(1, 40) == draw(2, 0)


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"\(3, 2\) and \(4,\)"):
        margin_loss(torch.zeros(3, 2), torch.zeros(4, dtype=torch.int64))


def test_half_precision_embeddings_are_compared_in_full_precision():
    points = torch.rand(6, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    objects = of(0, 0, 1, 1, 2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = margin_loss(points, objects)
    assert found.dtype == torch.float32 and found.item() == margin_loss(points.float(), objects).item()
