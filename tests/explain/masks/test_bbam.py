"""BBAM's pieces by hand, its gradient, its optimisation beside a naive one, and toys whose smallest mask is known."""

import numpy as np
import pytest
import torch

from odam_d2.explain.masks.bbam import (
    BBAM,
    Answer,
    blurred,
    enlarge_mask,
    initial_mask,
    mask_stride,
    regression_change,
    regression_values,
    side_change,
    total_variation,
)

# 96 x 96 pixels; this box has (2 / 96)^2 of their area, so that its mask has 16 + 48 * 2 / 96 = 17 pixels a cell, an
# odd number: the pixel in the middle of a cell sees that cell alone.
SIZE, TINY = (96, 96), torch.tensor([10.0, 10.0, 12.0, 12.0])
WHOLE = torch.tensor([0.0, 0.0, 96.0, 96.0])


def middle(cell):
    return 17 * cell + 8


@pytest.mark.parametrize(
    ("box", "stride"),
    [
        ([0, 0, 100, 100], 64),  # 16 + 48
        ([10, 10, 50, 20], 26),  # area .04, 16 + 48 * .2 = 25.6
        ([30, 30, 30, 80], 16),  # no area
        ([-50, 0, 50, 100], 50),  # half of the image: 16 + 48 * .7071 = 49.9
        ([200, 0, 300, 100], 16),  # beyond it
    ],
)
def test_stride_by_hand(box, stride):
    assert mask_stride(torch.tensor(box, dtype=torch.float32), (100, 100)) == stride


def test_the_first_mask_shows_every_cell_that_the_box_or_the_region_overlaps():
    # Cells of 20 pixels: 3 rows, and 5 columns that cover the 95. The first box fills one cell and only touches its
    # neighbours; the second reaches from column 2 into column 4, which ends beyond the image, and over rows 1 and 2.
    boxes = torch.tensor([[20.0, 0.0, 40.0, 20.0], [55.0, 30.0, 300.0, 45.0]])
    assert initial_mask(boxes, (60, 95), 20).tolist() == [[0, 1, 0, 0, 0], [0, 0, 1, 1, 1], [0, 0, 1, 1, 1]]
    assert not initial_mask(torch.tensor([[-30.0, 0.0, -5.0, 20.0]]), (60, 95), 20).any()


def test_a_mask_is_enlarged_between_the_centres_of_its_cells():
    # Cells of 4 pixels, centres at 2 and 6: pixels, at .5, 1.5, ..., keep the first value up to the first centre.
    shown = enlarge_mask(torch.tensor([[0.0, 1.0]]), (3, 8), 4)
    expected = [0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1]
    assert shown.shape == (3, 8) and torch.allclose(shown, torch.tensor(expected).expand(3, 8))
    # A grid that reaches beyond the image is cut.
    assert torch.allclose(enlarge_mask(torch.tensor([[0.0, 1.0]]), (3, 6), 4)[0], torch.tensor(expected[:6]))


def test_total_variation_by_hand():
    # Downwards 1 and 0; sideways .5 and .5, whose third powers are 1/8 each.
    assert total_variation(torch.tensor([[0.0, 0.5], [1.0, 0.5]])) == pytest.approx(1 + 0.25)
    assert total_variation(torch.tensor([[0.0, 1.0, 1.0]])) == pytest.approx(1)
    assert total_variation(torch.ones(3, 4)) == 0 and total_variation(torch.ones(1, 1)) == 0


def test_regression_by_hand():
    # A box 4 right of and 2 above its region's centre (widths 20 and 40, heights 10 and 10).
    region, box = torch.tensor([10.0, 20.0, 30.0, 30.0]), torch.tensor([4.0, 18.0, 44.0, 28.0])
    assert regression_values(box, region).tolist() == pytest.approx([2.0, -2.0, 5 * np.log(2), 0.0])
    # It moves right by 2, and its bottom down by 10.
    moved = torch.tensor([6.0, 18.0, 46.0, 38.0])
    before, after = Answer(torch.tensor(0.9), box), Answer(torch.tensor(0.5), moved)
    # dx 10 * 2 / 20, dy 10 * 5 / 10, dw 0, dh 5 log 2.
    assert regression_change(before, after, region) == pytest.approx((1 + 5 + 5 * np.log(2)) / 4)
    sides = [float(side_change(before, after, region, side)) for side in ("x1", "y1", "x2", "y2")]
    assert sides == pytest.approx([1.0, 0.0, 1.0, 10.0])
    mask = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    # Three cells are shown, and there is one edge each way.
    price = 0.07 * 3 + 0.5 * 2
    bbam = BBAM(smoothness=0.5)
    class_head, box_head = 0.4 / 2, (6 + 5 * np.log(2)) / 8
    assert bbam.loss(mask, before, after, region, "class_score") == pytest.approx(price + class_head)
    assert bbam.loss(mask, before, after, region, "combined") == pytest.approx(price + class_head + box_head)
    assert bbam.loss(mask, before, after, region, "y2") == pytest.approx(price + 10 / 2)


def test_a_region_without_width_does_not_divide_by_zero():
    answer = Answer(torch.tensor(0.5), torch.tensor([5.0, 5.0, 9.0, 9.0]))
    region = torch.tensor([5.0, 5.0, 5.0, 5.0])
    assert torch.isfinite(regression_values(answer.box, region)).all()
    assert side_change(answer, answer, region, "x1") == 0


def test_a_blurred_image_keeps_its_brightness_up_to_the_border():
    image = torch.rand(3, 20, 30, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(blurred(torch.full((3, 20, 30), 7.0)), torch.full((3, 20, 30), 7.0))
    # Far wider than the image: its mean everywhere.
    assert torch.allclose(blurred(image, 1e4), image.mean(dim=(1, 2), keepdim=True).expand_as(image), atol=1e-4)


def smooth_ask(image):
    """Every output depends on every pixel."""
    rows = image.mean(dim=(0, 2))
    weights = torch.linspace(-1, 1, len(rows), dtype=image.dtype)
    weighted = (rows * weights).mean()
    low = 10 + 3 * weighted
    return Answer((0.4 + weighted).sigmoid(), torch.stack([low, low, 40 + rows.mean(), 50 + 2 * weighted]))


@pytest.mark.parametrize("target", ["combined", "class_score", "x1", "y2"])
def test_the_gradient_is_that_of_the_loss(target):
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, 40, 50, generator=generator, dtype=torch.float64)
    mask = torch.rand(3, 4, generator=generator, dtype=torch.float64).mul(0.8).add(0.1).requires_grad_()
    region, before = torch.tensor([5.0, 5.0, 35.0, 35.0], dtype=torch.float64), smooth_ask(image)

    def loss(mask):
        shown = enlarge_mask(mask, (40, 50), 16)
        return BBAM(smoothness=0.5).loss(mask, before, smooth_ask(shown * image), region, target)

    assert torch.autograd.gradcheck(loss, mask)


def naive_bbam(image, region, box, steps, stride):
    """Arrays and loops, gradients by central differences; of the class head with 4 cells a side, all shown at first."""
    image, height, width = image.double().numpy(), *image.shape[1:]

    def answer(mask):
        shown = np.zeros_like(image)
        for y in range(height):
            for x in range(width):
                v, u = (np.clip((place + 0.5) / stride - 0.5, 0, 3) for place in (y, x))
                i, j = min(int(v), 2), min(int(u), 2)
                b, a = v - i, u - j
                part = (1 - b) * ((1 - a) * mask[i, j] + a * mask[i, j + 1])
                part += b * ((1 - a) * mask[i + 1, j] + a * mask[i + 1, j + 1])
                shown[:, y, x] = part * image[:, y, x] + (1 - part) * 0.3
        return float(smooth_ask(torch.from_numpy(shown)).probability)

    start = answer(np.ones((4, 4)))

    def loss(mask):
        down = sum(abs(mask[i + 1, j] - mask[i, j]) ** 3 for i in range(3) for j in range(4))
        right = sum(abs(mask[i, j + 1] - mask[i, j]) ** 3 for i in range(4) for j in range(3))
        return 0.07 * np.abs(mask).sum() + 0.5 * (down + right) + abs(answer(mask) - start) / 2

    mask, first, second = np.ones((4, 4)), np.zeros((4, 4)), np.zeros((4, 4))
    for step in range(1, steps + 1):
        gradient = np.zeros((4, 4))
        for i in range(4):
            for j in range(4):
                near = [mask.copy(), mask.copy()]
                near[0][i, j] += 1e-6
                near[1][i, j] -= 1e-6
                gradient[i, j] = (loss(near[0]) - loss(near[1])) / 2e-6
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        mask = mask - 0.02 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        mask = np.clip(mask, 0, 1)
    return mask


@pytest.mark.parametrize("steps", [1, 3])
def test_adam_steps_as_a_naive_implementation(steps):
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    # Without area: 16 pixels a cell, 4 x 4 cells.
    region, box = torch.tensor([0.0, 0.0, 64.0, 64.0]), torch.tensor([9.0, 9.0, 9.0, 9.0])
    outside = torch.tensor(0.3, dtype=torch.float64)
    mask = BBAM(steps, smoothness=0.5)(smooth_ask, image, outside, region, box, "class_score")
    assert torch.allclose(mask, torch.from_numpy(naive_bbam(image, region, box, steps, 16)), atol=1e-4)
    assert mask.max() < 1


def watching(cell):
    """A detector whose class depends on one cell, and whose bottom side moves 12 pixels with another."""
    y, x = (middle(place) for place in cell)

    def ask(image):
        low = image.new_zeros(3)
        return Answer(image[0, y, x], torch.cat([low, 90 + 12 * image[:1, middle(0), middle(5)]]))

    return ask


@pytest.mark.parametrize("cell", [(2, 3), (0, 0), (5, 1)])
def test_a_detector_that_looks_at_one_cell_keeps_that_cell(cell):
    # The image is 1 and 0 is shown where it is hidden, so the probability is the cell's mask. Keeping it is worth 1/2,
    # hiding any of the cells .07.
    told = []
    mask = BBAM(200)(
        watching(cell),
        torch.ones(3, *SIZE),
        torch.tensor(0.0),
        WHOLE,
        TINY,
        "class_score",
        lambda *now: told.append(now),
    )
    assert mask.shape == (6, 6) and mask[cell] > 0.9
    mask[cell] = 0
    assert not mask.any()
    assert told == [(step, 200) for step in range(1, 201)]


def test_each_head_keeps_what_it_looks_at():
    # The class is worth 1/2; the side 10 * 12 / 96 / 2 = .63, and as a part of t, by y and height,
    # (10 * 6 / 96 + 5 log(102 / 90)) / 8 = .16: all more than a cell's price of .07.
    def find(target):
        ask = watching((2, 3))
        mask = BBAM(200)(ask, torch.ones(3, *SIZE), torch.tensor(0.0), WHOLE, TINY, target)
        return {tuple(cell) for cell in mask.gt(0.5).nonzero().tolist()}

    assert find("class_score") == {(2, 3)} and find("y2") == {(0, 5)} and find("combined") == {(2, 3), (0, 5)}
    # Nothing moves the left side: nothing has to be shown.
    assert find("x1") == set()


def test_a_detector_that_does_not_look_at_the_image_needs_none_of_it():
    def ask(image):
        return Answer(0.7 + 0 * image.sum(), torch.arange(4.0) + 0 * image.sum())

    mask = BBAM(100)(ask, torch.ones(3, *SIZE), torch.tensor(0.0), WHOLE, TINY)
    assert mask.shape == (6, 6) and not mask.any()


@pytest.mark.parametrize(("change", "kept"), [(0.1, 0), (0.2, 1)])
def test_a_cell_is_kept_that_is_worth_more_than_its_price(change, kept):
    # Half the change of the probability, .05 or .1, beside .07.
    def ask(image):
        return Answer(change * image[0, middle(2), middle(3)], torch.arange(4.0) + 0 * image.sum())

    mask = BBAM(100)(ask, torch.ones(3, *SIZE), torch.tensor(0.0), WHOLE, TINY, "class_score")
    assert mask[2, 3] == pytest.approx(kept, abs=0.1)


def test_nothing_is_cheaper_than_all_without_a_price():
    # Hiding lowers the probability and saves nothing.
    ask = watching((2, 3))
    mask = BBAM(50, sparsity=0, smoothness=0)(ask, torch.ones(3, *SIZE), torch.tensor(0.0), WHOLE, TINY, "class_score")
    assert torch.equal(mask, torch.ones(6, 6))


def test_arguments_stay_and_gradients_need_no_mode():
    image, region, box = torch.ones(3, *SIZE), WHOLE.clone(), TINY.clone().requires_grad_()
    with torch.no_grad():
        mask = BBAM(2)(watching((1, 1)), image, torch.tensor(0.0), region, box)
    assert not mask.requires_grad and torch.equal(image, torch.ones(3, *SIZE)) and box.grad is None
    assert torch.equal(region, WHOLE) and not image.requires_grad


def test_an_answer_that_is_not_finite_is_refused():
    def ask(image):
        return Answer(image.sum() / 0, torch.zeros(4))

    with pytest.raises(ValueError, match="about a masked image is not finite"):
        BBAM(2)(ask, torch.ones(3, *SIZE), torch.tensor(0.0), WHOLE, TINY)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps is 0; at least 1"),
        ({"rate": 0.0}, r"rate is 0\.0; it must be more than 0"),
        ({"rate": float("nan")}, "rate is nan"),
        ({"sparsity": -1.0}, r"sparsity is -1\.0; it must be at least 0"),
        ({"smoothness": float("nan")}, "smoothness is nan"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        BBAM(**options)
