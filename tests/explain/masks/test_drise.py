"""D-RISE against values worked out by hand, expectations of known detectors, and slow second implementations."""

import pytest
import torch
from torch.nn import functional as F

from helpers import DEVICES
from odam_d2.explain.masks.drise import (
    DRISE,
    Proposals,
    drise_heat_maps,
    enlarge_grids,
    find_class_vectors,
    mask_weights,
    random_masks,
    similarity,
)

SIZE = (12, 16)
# Two detections of SIZE, which a toy detector finds again as well as it sees the inside of their boxes.
BOXES = torch.tensor([[1.0, 2.0, 5.0, 7.0], [9.0, 5.0, 15.0, 11.0]])
VECTORS = torch.tensor([[1.0, 0.0], [0.0, 1.0]])


def image(size=SIZE, device="cpu"):
    return torch.ones(3, *size, device=device)


def see(images, boxes=BOXES, vectors=VECTORS):
    """A detector whose objectness is the mean brightness inside each box, linear in the mask."""
    inside = [(int(x1), int(y1), int(x2), int(y2)) for x1, y1, x2, y2 in boxes.tolist()]
    return [
        Proposals(boxes, vectors, torch.stack([one[:, y1:y2, x1:x2].mean() for x1, y1, x2, y2 in inside]))
        for one in images
    ]


def slow_masks(bits, shifts, size):
    """Whole enlarged grids by PyTorch's own interpolation, then the cut."""
    cells = [-(-pixels // count) for pixels, count in zip(size, bits.shape[1:])]
    whole = F.interpolate(
        bits[:, None],
        size=[(count + 1) * cell for count, cell in zip(bits.shape[1:], cells)],
        mode="bilinear",
        align_corners=False,
    )[:, 0]
    return torch.stack([m[y : y + size[0], x : x + size[1]] for m, (y, x) in zip(whole, shifts.tolist())])


# ---- Similarity


def test_similarity_worked_by_hand():
    # Boxes of 4 pixels share 2 of 6: IoU 1/3. cos([3,4], [4,3]) = 24/25. Objectness .5. Product .16.
    found = Proposals(torch.tensor([[1.0, 0.0, 3.0, 2.0]]), torch.tensor([[4.0, 3.0]]), torch.tensor([0.5]))
    boxes, vectors = torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[3.0, 4.0]])
    assert similarity(boxes, vectors, found).item() == pytest.approx(0.16)
    assert similarity(boxes, vectors, found._replace(objectness=None)).item() == pytest.approx(0.32)


def test_a_detection_is_wholly_similar_to_itself_and_not_at_all_to_others():
    found = Proposals(BOXES, VECTORS)
    assert torch.allclose(similarity(BOXES, VECTORS, found), torch.eye(2))
    # The same place but another class, a box without area, and no probability at all.
    other = Proposals(BOXES[:1].repeat(3, 1), torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]))
    other.boxes[1, 2:] = other.boxes[1, :2]
    assert similarity(BOXES[:1], VECTORS[:1], other).tolist() == [[0.0, 0.0, 0.0]]


def test_the_best_proposal_counts_and_none_counts_nothing():
    strong, weak = Proposals(BOXES, VECTORS, torch.tensor([0.9, 0.3])), Proposals(BOXES[:0], VECTORS[:0], None)
    twice = Proposals(BOXES.repeat(2, 1), VECTORS.repeat(2, 1), torch.tensor([0.1, 0.2, 0.4, 0.8]))
    # A plain tuple does as well.
    weights = mask_weights([strong, weak, tuple(twice)], BOXES, VECTORS)
    assert torch.allclose(weights, torch.tensor([[0.9, 0.0, 0.4], [0.3, 0.0, 0.8]]))


def test_class_vectors_are_those_of_the_proposal_with_the_box_and_the_class():
    vectors = torch.tensor([[0.9, 0.1], [0.2, 0.7], [0.8, 0.1]])
    found = Proposals(BOXES[[0, 0, 1]], vectors, None)
    chosen = find_class_vectors(found, BOXES[[1, 0, 0]], torch.tensor([0, 1, 0]))
    assert torch.equal(chosen, vectors[[2, 1, 0]])
    assert tuple(find_class_vectors(found, BOXES[:0], torch.zeros(0, dtype=torch.int64)).shape) == (0, 2)
    with pytest.raises(ValueError, match="no proposals.*2 detections"):
        find_class_vectors(Proposals(BOXES[:0], vectors[:0]), BOXES, torch.tensor([0, 1]))


# ---- Masks


def test_enlarged_grids_worked_by_hand():
    # Cells of 2 pixels; 2 cells on 6 pixels, whose centres are at -1/3, 0, 1/3, 2/3, 1, 4/3 cells. [0, 1] enlarged is
    # [0, 0, 1/3, 2/3, 1, 1], of which 4 pixels are cut.
    bits = torch.tensor([[[0.0, 1.0]], [[0.0, 1.0]]])
    masks = enlarge_grids(bits, torch.tensor([[0, 0], [0, 1]]), (1, 4))
    expected = torch.tensor([[[0.0, 0.0, 1 / 3, 2 / 3]], [[0.0, 1 / 3, 2 / 3, 1.0]]])
    assert torch.allclose(masks, expected, atol=1e-6)


@pytest.mark.parametrize("size", [(48, 64), (45, 61), (5, 100)])
def test_enlarged_grids_equal_interpolation_of_the_whole_and_a_cut(size):
    bits = (torch.rand(7, 6, 8, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    cells = -(-size[0] // 6), -(-size[1] // 8)
    shifts = torch.tensor([[i % cells[0], (3 * i) % cells[1]] for i in range(6)] + [[cells[0] - 1, cells[1] - 1]])
    assert torch.allclose(enlarge_grids(bits, shifts, size), slow_masks(bits, shifts, size), atol=1e-5)


def test_masks_have_values_from_0_to_1_and_the_mean_that_was_asked_for():
    masks = random_masks(range(4000), SIZE, (4, 4), 0.3)
    assert tuple(masks.shape) == (4000, *SIZE)
    assert 0 <= masks.min() and masks.max() <= 1
    # The standard deviation of a bit is sqrt(.3 * .7) = .46, of a mean of 4000 at most .0073: four of those.
    assert (masks.mean(dim=0) - 0.3).abs().max() < 0.03
    assert masks.mean().item() == pytest.approx(0.3, abs=0.005)


@pytest.fixture
def drawn(monkeypatch):
    """Bits and shifts of 3000 masks of 4 x 4 cells on 12 x 20 pixels."""
    seen = []
    monkeypatch.setattr(
        "odam_d2.explain.masks.drise.enlarge_grids", lambda bits, shifts, size: seen.extend((bits, shifts))
    )
    random_masks(range(3000), (12, 20), (4, 4), 0.5)
    return seen


def test_masks_are_shifted_by_every_distance_within_a_cell(drawn):
    bits, shifts = drawn
    # Cells of 3 x 5 pixels: every shift comes equally often, 1000 and 600 times, five standard deviations either way.
    assert shifts[:, 0].bincount().sub(1000).abs().max() < 130 and shifts[:, 0].bincount().numel() == 3
    assert shifts[:, 1].bincount().sub(600).abs().max() < 110 and shifts[:, 1].bincount().numel() == 5
    assert set(bits.unique().tolist()) == {0.0, 1.0}


def test_the_bits_of_a_mask_and_of_masks_do_not_depend_on_each_other(drawn):
    bits, shifts = drawn
    columns = torch.cat([bits.flatten(1), shifts], dim=1)
    # Each number with the others of its mask, then with all of the next mask. Correlations of 3000 numbers that have
    # none have a standard deviation of .018; of 500, none should reach five times that.
    within = torch.corrcoef(columns.t()).fill_diagonal_(0)
    between = torch.corrcoef(torch.cat([columns[:-1], columns[1:]], dim=1).t())[:18, 18:]
    assert within.abs().max() < 0.09 and between.abs().max() < 0.09


def test_a_mask_depends_on_its_seed_and_number_alone():
    together = random_masks(range(6), SIZE, (4, 4), 0.5, seed=3)
    for i in range(6):
        assert torch.equal(random_masks([i], SIZE, (4, 4), 0.5, seed=3)[0], together[i])
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    assert not torch.equal(random_masks(range(6), SIZE, (4, 4), 0.5, seed=4), together)
    assert torch.equal(torch.rand(1), expected)  # the user's random numbers are left alone


# ---- Saliency


def test_saliency_of_masks_of_one_cell_worked_by_hand():
    # A grid of one cell shows all or nothing, bit b: the weight is b, so S = sum b * b / (N p), the same everywhere.
    shown = random_masks(range(20), SIZE, (1, 1), 0.25)[:, 0, 0].sum().item()
    assert 0 < shown < 20
    maps = DRISE(20, (1, 1), 0.25)(see, image(), BOXES, VECTORS)
    assert torch.allclose(maps, torch.full((2, *SIZE), shown / (20 * 0.25)))


def test_masks_that_hide_nothing_give_the_weight_itself():
    maps = DRISE(5, (3, 3), 1.0)(see, 0.6 * image(), BOXES, VECTORS)
    assert torch.allclose(maps, torch.full((2, *SIZE), 0.6))


def test_saliency_of_a_linear_detector_tends_to_its_expectation():
    # w = sum_q a(q) M(q), so E[S(x)] = sum_q a(q) E[M(q) M(x)] / p. With bits that do not depend on each other
    # M = sum_c W_c b_c and E[b_c b_c'] = p^2, or p for c = c'. The shift takes each of 3 x 4 values alike.
    size, grid, p = (9, 12), (3, 3), 0.5
    box = torch.tensor([[2.0, 1.0, 7.0, 5.0]])
    share = torch.zeros(size)
    share[1:5, 2:7] = 1 / 20
    units = torch.eye(9).view(9, *grid)
    expected = torch.zeros(size)
    for y in range(3):
        for x in range(4):
            influence = slow_masks(units, torch.tensor([[y, x]]).expand(9, 2), size)
            expected += (influence * (influence * share).sum(dim=(1, 2), keepdim=True)).sum(dim=0)
    expected = p + (1 - p) * expected / 12
    found = DRISE(6000, grid, p, batch=100)(
        lambda images: see(images, box, VECTORS[:1]), image(size), box, VECTORS[:1]
    )[0]
    # Four standard deviations of a mean of 6000 products w M / p, each at most 2.
    assert (found - expected).abs().max() < 4 * 0.5 / 6000**0.5
    assert expected.max() > 0.6 > 0.51 > expected.min()


@pytest.mark.parametrize("device", DEVICES)
def test_saliency_peaks_where_the_detector_looks_and_is_flat_elsewhere(device):
    size = (48, 64)
    box = torch.tensor([[8.0, 8.0, 24.0, 24.0]], device=device)
    vector = VECTORS[:1].to(device)
    maps = DRISE(3000, (8, 8), batch=50)(lambda images: see(images, box, vector), image(size, device), box, vector)[
        0
    ].cpu()
    y, x = divmod(int(maps.argmax()), size[1])
    assert 8 <= y < 24 and 8 <= x < 24
    # More than two cells (of 6 x 8 pixels) away the mask says nothing about the weight: the mean weight, 1/2.
    far = torch.ones(size, dtype=torch.bool)
    far[:36, :40] = False
    assert (maps[far] - 0.5).abs().max() < 0.05
    assert maps.max() > 0.6


def test_saliency_equals_a_slow_second_implementation():
    drise = DRISE(11, (3, 4), 0.4, batch=4, seed=7)
    dark = torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(0))
    # Vectors that are not orthogonal, so that every proposal matters to every detection.
    boxes, vectors = (
        torch.tensor([[1.0, 2.0, 10.0, 9.0], [4.0, 3.0, 15.0, 11.0]]),
        torch.tensor([[0.8, 0.1], [0.3, 0.6]]),
    )
    found = drise(lambda images: see(images, boxes, vectors), dark, boxes, vectors)
    total = torch.zeros(2, *SIZE)
    for i in range(11):
        mask = random_masks([i], SIZE, (3, 4), 0.4, seed=7)[0]
        for d in range(2):
            best = 0.0
            for j in range(2):
                (a1, b1, a2, b2), (c1, d1, c2, d2) = boxes[d].tolist(), boxes[j].tolist()
                shared = max(0, min(a2, c2) - max(a1, c1)) * max(0, min(b2, d2) - max(b1, d1))
                iou = shared / ((a2 - a1) * (b2 - b1) + (c2 - c1) * (d2 - d1) - shared)
                cosine = float(vectors[d] @ vectors[j] / (vectors[d].norm() * vectors[j].norm()))
                seen = float((dark * mask)[:, int(d1) : int(d2), int(c1) : int(c2)].mean())
                best = max(best, iou * cosine * seen)
            total[d] += best * mask
    assert torch.allclose(found, total / (11 * 0.4), atol=1e-5)


def test_hidden_pixels_are_black_and_shown_ones_unchanged():
    seen = []

    def detect(images):
        seen.append(images.clone())
        return see(images)

    photo = 255 * torch.rand(3, *SIZE)
    DRISE(6, (4, 4), batch=4)(detect, photo, BOXES, VECTORS)
    assert [len(images) for images in seen] == [4, 2]
    assert torch.equal(torch.cat(seen), photo * random_masks(range(6), SIZE, (4, 4), 0.5)[:, None])


def test_the_same_seed_gives_the_same_maps_and_another_one_others():
    one, same, other = (DRISE(20, (4, 4), seed=s)(see, image(), BOXES, VECTORS) for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other, atol=1e-3)


@pytest.mark.parametrize("batch", [1, 3, 50])
def test_the_batch_size_does_not_matter(batch):
    expected = DRISE(20, (4, 4), batch=8)(see, image(), BOXES, VECTORS)
    assert torch.allclose(DRISE(20, (4, 4), batch=batch)(see, image(), BOXES, VECTORS), expected, atol=1e-6)


def test_maps_do_not_depend_on_the_other_detections():
    drise = DRISE(20, (4, 4))
    together = drise(see, image(), BOXES, VECTORS)
    for d in range(2):
        alone = drise(see, image(), BOXES[d : d + 1], VECTORS[d : d + 1])
        assert torch.allclose(alone[0], together[d], atol=1e-6)


def test_maps_are_not_negative_and_nothing_found_gives_zeros():
    maps = DRISE(10, (4, 4))(lambda images: [Proposals(BOXES[:0], VECTORS[:0])] * len(images), image(), BOXES, VECTORS)
    assert tuple(maps.shape) == (2, *SIZE) and not maps.any()
    assert DRISE(10, (4, 4))(see, image(), BOXES, VECTORS).min() >= 0


def test_no_detections_need_no_forward_pass():
    def detect(images):
        raise AssertionError("called")

    maps = DRISE(10)(detect, image(), BOXES[:0], VECTORS[:0])
    assert tuple(maps.shape) == (0, *SIZE)
    assert tuple(drise_heat_maps(maps, BOXES[:0]).to_image().shape) == (0, *SIZE)


def test_no_graph_is_recorded_and_arguments_stay_as_they_are():
    photo = image().requires_grad_()
    before = photo.detach().clone(), BOXES.clone(), VECTORS.clone()
    maps = DRISE(3, (4, 4))(see, photo, BOXES, VECTORS)
    assert not maps.requires_grad and photo.grad is None
    assert all(torch.equal(a, b) for a, b in zip((photo, BOXES, VECTORS), before))


# ---- Borders


@pytest.mark.parametrize(
    "options, words",
    [
        ({"masks": 0}, "masks is 0"),
        ({"batch": 0}, "batch is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"grid": (16, 0)}, r"grid is \(16, 0\)"),
        ({"grid": (16,)}, r"grid is \(16,\)"),
        ({"probability": 0.0}, "probability is 0.0"),
        ({"probability": 1.5}, "probability is 1.5"),
    ],
)
def test_values_out_of_range_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        DRISE(**options)


def test_shapes_that_do_not_fit_and_values_that_are_not_finite_are_errors_that_say_so():
    drise = DRISE(4, (4, 4))
    with pytest.raises(ValueError, match=r"\(1, 3, 12, 16\).*need"):
        drise(see, image()[None], BOXES, VECTORS)
    with pytest.raises(ValueError, match="2 boxes have 1 class vectors"):
        drise(see, image(), BOXES, VECTORS[:1])
    with pytest.raises(ValueError, match="1 images; it got 4"):
        drise(lambda images: see(images)[:1], image(), BOXES, VECTORS)
    with pytest.raises(ValueError, match="not finite"):
        drise(lambda images: see(images * float("nan")), image(), BOXES, VECTORS)


# ---- Heat maps


def test_heat_maps_are_the_saliency_pixel_for_pixel():
    maps = DRISE(10, (4, 4))(see, image(), BOXES, VECTORS)
    heat_maps = drise_heat_maps(maps, BOXES)
    assert heat_maps.stride == 1 and len(heat_maps) == 2
    assert torch.allclose(heat_maps.maps, maps, atol=1e-6)
    assert torch.allclose(heat_maps.to_image(), maps, atol=1e-6)
    assert torch.allclose(heat_maps.normalize().maps.amax(dim=(1, 2)), torch.ones(2))


def test_heat_maps_reach_the_users_image():
    # Every pixel of the network's input covers 2 x 2 of the photograph: the mean of those is the pixel's own value
    # where the map is a plane.
    plane = (torch.arange(12.0)[:, None] + 2 * torch.arange(16.0))[None]
    shown = drise_heat_maps(plane, BOXES[:1], output_size=(24, 32)).to_image()
    assert tuple(shown.shape) == (1, 24, 32)
    means = F.avg_pool2d(shown, 2)
    assert torch.allclose(means[:, 1:-1, 1:-1], plane[:, 1:-1, 1:-1], atol=1e-4)
