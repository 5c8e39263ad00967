"""FGD's attention, masks and terms: values by hand, and a loop over images, boxes, cells and channels."""

import math

import pytest
import torch

from helpers import DEVICES
from odam_d2.distill.terms import (
    attention_term,
    background_mask,
    channel_attention,
    foreground_mask,
    masked_term,
    relation_term,
    spatial_attention,
    spatial_softmax,
    squared_error,
)

LN3 = math.log(3)


def boxes_of(*boxes):
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)


def test_a_spatial_softmax_has_the_mean_1():
    # e^0 : e^ln3 = 1 : 3, that is 1/4 and 3/4, times two cells.
    maps = torch.tensor([[[0.0, LN3]], [[5.0, 5.0]]])
    assert torch.allclose(spatial_softmax(maps), torch.tensor([[[0.5, 1.5]], [[1.0, 1.0]]]))
    # Half the temperature doubles the difference: 1 : 9, so 1/10 and 9/10.
    assert torch.allclose(spatial_softmax(maps, 0.5)[0], torch.tensor([[0.2, 1.8]]))


def test_attention_is_a_softmax_of_mean_magnitudes():
    # Channel means of |F| at the two cells: 0 and ln3 / 2; divided by T = 1/2: 0 and ln3.
    features = torch.tensor([[0.0, -LN3], [0.0, 0.0]]).reshape(1, 2, 1, 2)
    assert torch.allclose(spatial_attention(features, 0.5), torch.tensor([[[0.5, 1.5]]]))
    # Cell means of |F| of the two channels: ln3 / 2 and 0: 3 : 1, times two channels.
    assert torch.allclose(channel_attention(features, 0.5), torch.tensor([[1.5, 0.5]]))


def test_a_box_spreads_one_over_the_cells_it_touches():
    # Columns 8/8 = 1 to 16/8 = 2, rows 0 to 2, both included: 6 cells.
    mask = foreground_mask([boxes_of([8, 0, 16, 16])], [(32, 40)], 8, (4, 5))
    expected = torch.zeros(1, 4, 5)
    expected[0, 0:3, 1:3] = 1 / 6
    assert torch.allclose(mask, expected)
    # Columns floor(9/8) = 1 to ceil(15/8) = 2: the same ones.
    assert torch.equal(foreground_mask([boxes_of([9, 1, 15, 15])], [(32, 40)], 8, (4, 5)), mask)


def test_the_largest_share_counts_where_boxes_meet():
    # Cells 0..4 in either axis, 25 of which 20 exist; and cells 1..2 in either axis.
    mask = foreground_mask([boxes_of([0, 0, 32, 32], [8, 8, 16, 16])], [(32, 40)], 8, (4, 5))
    expected = torch.full((1, 4, 5), 1 / 25)
    expected[0, 1:3, 1:3] = 1 / 4
    assert torch.allclose(mask, expected)


def test_boxes_are_cut_at_the_image_and_nothing_is_left_outside():
    # (0,0,4,4) is left: cells 0..1 in either axis, share 1/4.
    left = foreground_mask([boxes_of([-10, -10, 4, 4])], [(32, 40)], 8, (4, 5))
    assert torch.equal(left.nonzero(), torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]]))
    assert left.amax() == 1 / 4
    # (32,24,40,32) is left: columns 4..5 and rows 3..4, of whose four cells one exists.
    right = foreground_mask([boxes_of([32, 24, 50, 60])], [(32, 40)], 8, (4, 5))
    assert right[0, 3, 4] == 1 / 4 and right.count_nonzero() == 1
    # Beyond the image, in its padding, before it; and a box without width.
    gone = boxes_of([60, 0, 70, 8], [42, 0, 47, 8], [-9, 0, 0, 8], [8, 8, 8, 16])
    assert not foreground_mask([gone], [(32, 40)], 8, (4, 8)).any()


def test_images_have_masks_of_their_own_and_may_be_empty():
    masks = foreground_mask([boxes_of(), boxes_of([0, 0, 8, 8])], [(16, 16), (16, 16)], 8, (2, 2))
    assert not masks[0].any() and torch.equal(masks[1], torch.full((2, 2), 1 / 4))
    background = background_mask(masks)
    # Four cells without an object share 1; where there is no such cell there is no background.
    assert torch.equal(background[0], torch.full((2, 2), 1 / 4)) and not background[1].any()


def test_boxes_are_left_as_they_are():
    boxes = boxes_of([-10, -10, 400, 400])
    foreground_mask([boxes], [(32, 40)], 8, (4, 5))
    assert torch.equal(boxes, boxes_of([-10, -10, 400, 400]))


def test_errors_are_weighted_by_channel_then_by_cell():
    student = torch.tensor([[1.0, 2.0], [0.0, 3.0]]).reshape(1, 2, 1, 2)
    teacher = torch.tensor([[0.0, 2.0], [2.0, 1.0]]).reshape(1, 2, 1, 2)
    # Squares: channel 0: 1, 0; channel 1: 4, 4.
    assert torch.equal(squared_error(student, teacher), torch.tensor([[[5.0, 4.0]]]))
    error = squared_error(student, teacher, torch.tensor([[2.0, 0.5]]))
    assert torch.equal(error, torch.tensor([[[4.0, 2.0]]]))  # 2 + 2 and 0 + 2
    # 0.5 x 2 x 4 + 0.25 x 3 x 2 = 5.5
    term = masked_term(error, torch.tensor([[[2.0, 3.0]]]), torch.tensor([[[0.5, 0.25]]]))
    assert term.item() == 5.5


def test_attentions_and_relations_are_sums_over_an_image():
    spatial = torch.tensor([[[1.0, 2.0]], [[0.0, 0.0]]]), torch.tensor([[[0.0, 4.0]], [[1.0, 0.0]]])
    channel = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [5.0]])
    # (1 + 2 + 1) / 2 images + 3 / 2 images
    assert attention_term((spatial[0], channel[0]), (spatial[1], channel[1])).item() == 3.5
    # (1 + 4 + 1) / 2 images
    assert relation_term(spatial[0][:, None], spatial[1][:, None]).item() == 3.0


def loop(student, teacher, boxes, image_sizes, stride, temperature):
    """Foreground, background and attention term, one number at a time."""
    images, channels, height, width = student.shape

    def attentions(maps):
        spatial = [[[0.0] * width for _ in range(height)] for _ in range(images)]
        channel = [[0.0] * channels for _ in range(images)]
        for n in range(images):
            at = {
                (i, j): math.exp(sum(abs(float(maps[n, c, i, j])) for c in range(channels)) / channels / temperature)
                for i in range(height)
                for j in range(width)
            }
            of = [
                math.exp(
                    sum(abs(float(maps[n, c, i, j])) for i in range(height) for j in range(width))
                    / (height * width)
                    / temperature
                )
                for c in range(channels)
            ]
            for (i, j), value in at.items():
                spatial[n][i][j] = height * width * value / sum(at.values())
            channel[n] = [channels * value / sum(of) for value in of]
        return spatial, channel

    (s_t, c_t), (s_s, c_s) = attentions(teacher), attentions(student)
    foreground = background = attention = 0.0
    for n in range(images):
        mask = {(i, j): 0.0 for i in range(height) for j in range(width)}
        for x1, y1, x2, y2 in boxes[n].tolist():
            x1, x2 = (min(max(x, 0), image_sizes[n][1]) for x in (x1, x2))
            y1, y2 = (min(max(y, 0), image_sizes[n][0]) for y in (y1, y2))
            if x1 >= x2 or y1 >= y2:
                continue
            columns = range(math.floor(x1 / stride), math.ceil(x2 / stride) + 1)
            rows = range(math.floor(y1 / stride), math.ceil(y2 / stride) + 1)
            for cell in mask:
                if cell[0] in rows and cell[1] in columns:
                    mask[cell] = max(mask[cell], 1 / (len(rows) * len(columns)))
        outside = sum(value == 0 for value in mask.values())
        for (i, j), share in mask.items():
            attention += abs(s_s[n][i][j] - s_t[n][i][j])
            for c in range(channels):
                error = float(student[n, c, i, j] - teacher[n, c, i, j]) ** 2 * s_t[n][i][j] * c_t[n][c]
                foreground += share * error
                background += error / outside if share == 0 else 0.0
        attention += sum(abs(a - b) for a, b in zip(c_s[n], c_t[n]))
    return foreground / images, background / images, attention / images


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("seed", range(3))
def test_terms_equal_a_loop(make_batch, seed, device):
    (student, _), (teacher, _), objects = make_batch(seed, dtype=torch.float64)
    expected = loop(student, teacher, objects.boxes, objects.image_sizes, 8, 0.5)
    student, teacher = student.to(device), teacher.to(device)
    boxes = [x.to(device) for x in objects.boxes]
    attentions = [(spatial_attention(x, 0.5), channel_attention(x, 0.5)) for x in (student, teacher)]
    spatial, channel = attentions[1]
    mask = foreground_mask(boxes, objects.image_sizes, 8, student.shape[2:])
    error = squared_error(student, teacher, channel)
    found = (
        masked_term(error, spatial, mask),
        masked_term(error, spatial, background_mask(mask)),
        attention_term(*attentions),
    )
    # Masks are float32.
    assert [x.item() for x in found] == pytest.approx(expected, rel=1e-6)
    assert min(expected) > 0


def test_terms_have_the_gradients_of_small_differences(make_batch):
    (_, student), (_, teacher), objects = make_batch(dtype=torch.float64)
    mask = foreground_mask(objects.boxes, objects.image_sizes, 16, student.shape[2:])
    spatial, channel = spatial_attention(teacher, 0.5), channel_attention(teacher, 0.5)

    def focal(maps):
        return masked_term(squared_error(maps, teacher, channel), spatial, mask)

    def attention(maps):
        return attention_term((spatial_attention(maps, 0.5), channel_attention(maps, 0.5)), (spatial, channel))

    for term in (focal, attention, lambda maps: relation_term(maps, teacher)):
        assert torch.autograd.gradcheck(term, student.requires_grad_())
