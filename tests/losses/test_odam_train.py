"""ODAM-Train's losses: values by hand, gradients by differences, and a loop over pairs."""

import math

import pytest
import torch

from helpers import DEVICES
from odam_d2.losses import odam_train_losses
from odam_d2.losses.odam_train import MARGIN

HALF = math.sqrt(0.5)  # cosine of 45 degrees


def maps_of(*vectors, **options):
    """Each vector as a map of one row."""
    return torch.tensor(vectors, **options)[:, None, :]


def of(*values):
    return torch.tensor(values)


def test_maps_of_one_object_are_compared_with_the_best_of_them():
    # The second has the highest IoU; the first is 45 degrees from it, the third the same direction: cosine 1 - MARGIN.
    maps = maps_of([1.0, 1.0], [2.0, 0.0], [5.0, 0.0])
    found = odam_train_losses(maps, of(7, 7, 7), of(0.6, 0.9, 0.8))
    assert found.pairs == 2 and found.separation == 0
    expected = (-math.log(HALF) - math.log(1 - MARGIN)) / 2
    assert found.consistency.item() == pytest.approx(expected, rel=1e-5)


def test_maps_of_different_objects_are_compared_with_the_best_of_either():
    # Object 1: best a; object 2: best c, also b. a-b 45 degrees, a-c 90 degrees; c-a 90 degrees; same: c-b 45 degrees.
    maps = maps_of([1.0, 0.0], [3.0, 3.0], [0.0, 2.0])
    found = odam_train_losses(maps, of(1, 2, 2), of(0.5, 0.7, 0.8))
    assert found.pairs == 4  # b-c agree; a-b, a-c and c-a differ
    assert found.consistency.item() == pytest.approx(-math.log(HALF) / 4, rel=1e-5)
    expected = (-math.log(1 - HALF) - 2 * math.log(1 - MARGIN)) / 4
    assert found.separation.item() == pytest.approx(expected, rel=1e-4)


def test_overlapping_negatives_are_those_of_objects_whose_boxes_overlap():
    maps = maps_of([1.0, 0.0], [1.0, 1.0], [1.0, 1.0])
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [5.0, 0.0, 15.0, 10.0], [10.0, 0.0, 20.0, 10.0]])
    everything = odam_train_losses(maps, of(1, 2, 3), of(0.5, 0.5, 0.5), boxes)
    found = odam_train_losses(maps, of(1, 2, 3), of(0.5, 0.5, 0.5), boxes, negatives="overlapping")
    # The first and the third box only touch: of six ordered pairs four are left, two of them 45 degrees apart and two
    # the same direction, clamped.
    assert (everything.pairs, found.pairs) == (6, 4)
    expected = (2 * -math.log(1 - HALF) + 2 * -math.log(MARGIN)) / 4
    assert found.separation.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("count", [0, 1])
def test_without_pairs_the_loss_is_0_and_can_be_learned_from(count):
    maps = torch.ones(count, 2, 3, requires_grad=True)
    found = odam_train_losses(maps, torch.zeros(count, dtype=torch.int64), torch.ones(count))
    assert found.pairs == 0 and found.consistency == 0 and found.separation == 0
    (found.consistency + found.separation).backward()
    assert torch.equal(maps.grad, torch.zeros(count, 2, 3))


def test_zero_maps_and_equal_maps_have_finite_gradients():
    maps = maps_of([0.0, 0.0], [1.0, 2.0], [1.0, 2.0], [0.0, 0.0]).requires_grad_()
    found = odam_train_losses(maps, of(0, 0, 1, 1), of(0.9, 0.8, 0.7, 0.6))
    (found.consistency + found.separation).backward()
    assert torch.isfinite(maps.grad).all()
    # A zero map is the best of object 0: its other map disagrees with it as much as can be.
    assert found.consistency.item() == pytest.approx(-math.log(MARGIN) * 2 / found.pairs, rel=1e-5)


def test_maps_of_any_scale_are_the_same_directions():
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(6, 4, 5, generator=generator)
    scale = torch.tensor([1.0, 1e-25, 1e25, 1e-30, 3.0, 1e12])[:, None, None]
    objects, ious = of(0, 0, 1, 1, 2, 2), torch.rand(6, generator=generator)
    for first, second in zip(odam_train_losses(maps, objects, ious), odam_train_losses(scale * maps, objects, ious)):
        assert float(first) == pytest.approx(float(second), rel=1e-5)


def plain_loop(maps, objects, ious, boxes, negatives):
    """Equations (8) and (9), a pair at a time."""
    consistency = separation = pairs = 0
    flat = [m.flatten() for m in maps]

    def cosine(a, b):
        return min(max(float(a @ b / (a.norm() * b.norm())), MARGIN), 1 - MARGIN)

    for name in set(objects.tolist()):
        own = [i for i in range(len(flat)) if objects[i] == name]
        best = max(own, key=lambda i: (float(ious[i]), -i))
        for i in range(len(flat)):
            if i in own and i != best:
                consistency -= math.log(cosine(flat[best], flat[i]))
                pairs += 1
            elif i not in own:
                ax1, ay1, ax2, ay2 = boxes[best].tolist()
                bx1, by1, bx2, by2 = boxes[i].tolist()
                overlap = min(ax2, bx2) > max(ax1, bx1) and min(ay2, by2) > max(ay1, by1)
                if negatives == "all" or overlap:
                    separation -= math.log(1 - cosine(flat[best], flat[i]))
                    pairs += 1
    return consistency / pairs, separation / pairs, pairs


def random_positives(seed, count=25):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(count, 6, 7, generator=generator, dtype=torch.float64) ** 4
    objects = torch.randint(5, (count,), generator=generator)
    corners = 20 * torch.rand(5, 2, generator=generator)
    boxes = torch.cat([corners, corners + 8], dim=1)[objects]
    return maps, objects, torch.rand(count, generator=generator).round(decimals=1), boxes


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("negatives", ["all", "overlapping"])
@pytest.mark.parametrize("device", DEVICES)
def test_the_losses_equal_a_loop_over_pairs(seed, negatives, device):
    positives = random_positives(seed)
    found = odam_train_losses(*(x.to(device) for x in positives), negatives=negatives)
    expected = plain_loop(*positives, negatives)
    assert [float(value) for value in found] == pytest.approx(expected, rel=1e-10)


def test_the_gradient_is_that_of_small_differences():
    maps, objects, ious, boxes = random_positives(9, 8)
    for which in range(2):
        for negatives in ("all", "overlapping"):

            def loss(x, which=which, negatives=negatives):
                return odam_train_losses(x, objects, ious, boxes, negatives)[which]

            assert torch.autograd.gradcheck(loss, maps.requires_grad_())
            assert torch.autograd.gradgradcheck(loss, maps.requires_grad_())


def test_half_precision_maps_are_compared_in_full_precision():
    maps, objects, ious, _ = random_positives(3)
    expected = odam_train_losses(maps.bfloat16().float(), objects, ious)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = odam_train_losses(maps.bfloat16(), objects, ious)
    assert found.consistency.dtype == torch.float32
    assert float(found.consistency) == pytest.approx(float(expected.consistency), rel=1e-5)
    assert float(found.separation) == pytest.approx(float(expected.separation), rel=1e-5)


def test_what_does_not_fit_is_refused():
    maps, objects, ious, boxes = random_positives(0, 4)
    with pytest.raises(ValueError, match="do not fit"):
        odam_train_losses(maps.flatten(1), objects, ious)
    with pytest.raises(ValueError, match="do not fit"):
        odam_train_losses(maps, objects[:3], ious)
    with pytest.raises(ValueError, match="'some'; valid values are all, overlapping"):
        odam_train_losses(maps, objects, ious, boxes, "some")
    with pytest.raises(ValueError, match=r"needs the objects' boxes \(4,4\), not None"):
        odam_train_losses(maps, objects, ious, negatives="overlapping")
