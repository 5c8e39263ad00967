"""Traces and heat maps: registration, scaling, smoothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers import DEVICES, make_trace
from odam_d2.structures import Grid, HeatMaps, gaussian_blur, normalize_maps


def heat_maps(maps, stride, image_size, output_size=None, boxes=None):
    padded = (maps.shape[1] * stride, maps.shape[2] * stride)
    boxes = torch.zeros(len(maps), 4) if boxes is None else boxes
    grid = Grid(maps, torch.arange(len(maps)), stride=stride)
    return HeatMaps((grid,), boxes, image_size, padded, output_size or image_size)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("output_size", [(100, 150), (200, 300), (437, 655), (50, 75)])
def test_map_of_cell_centres_becomes_pixel_centres_of_the_image(output_size, device):
    # Cell (i,j) of stride 8 is centred at ((i+.5)*8, (j+.5)*8); a ramp over those centres, read at output pixel (u,v),
    # must give that pixel's centre in network pixels. 100 x 150 is padded to 128 x 160: the crop must not rescale.
    rows = (torch.arange(16, device=device) + 0.5) * 8
    columns = (torch.arange(20, device=device) + 0.5) * 8
    ramps = torch.stack([rows[:, None].expand(16, 20), columns[None, :].expand(16, 20)])
    out = heat_maps(ramps, 8, (100, 150), output_size, torch.zeros(2, 4, device=device)).to_image().cpu()
    y = (torch.arange(output_size[0]) + 0.5) * 100 / output_size[0]
    x = (torch.arange(output_size[1]) + 0.5) * 150 / output_size[1]
    inner_y, inner_x = (y > 4) & (y < 124), (x > 4) & (x < 156)
    error_y = (out[0] - y[:, None])[inner_y].abs().max()
    error_x = (out[1] - x[None, :])[:, inner_x].abs().max()
    assert error_y < 1e-3 and error_x < 1e-3


def test_padding_is_cropped_not_squeezed():
    # All heat lies in the padding; none of it may reach the image.
    maps = torch.zeros(1, 4, 4)
    maps[0, 3, 3] = 1.0
    assert heat_maps(maps, 8, (16, 16)).to_image().abs().max() == 0


def test_level_that_overhangs_the_padded_size_keeps_its_stride():
    # 96 padded pixels are 1.5 cells of stride 64: its 2 rows cover 128 pixels and must not be squeezed.
    maps = torch.tensor([[[0.0], [1.0]]])
    padded = HeatMaps((Grid(maps, torch.tensor([0]), stride=64),), torch.zeros(1, 4), (96, 64), (96, 64), (96, 64))
    column = padded.to_image()[0, :, 0]
    # Between the cell centres at 32 and 96 the value rises linearly: pixel 63 is centred at 63.5.
    assert column[63].item() == pytest.approx((63.5 - 32) / 64, abs=1e-5)
    assert column[31].item() == 0


def test_maps_of_several_strides_share_one_grid_and_keep_their_place():
    fine, coarse = torch.zeros(1, 4, 4), torch.zeros(1, 2, 2)
    fine[0, 1, 2], coarse[0, 1, 0] = 1.0, 1.0
    both = HeatMaps(
        (Grid(coarse, torch.tensor([0]), stride=16), Grid(fine, torch.tensor([1]), stride=8)),
        torch.zeros(2, 4),
        (32, 32),
        (32, 32),
        (32, 32),
    )
    assert both.stride == 8
    assert tuple(both.maps.shape) == (2, 4, 4)
    assert torch.equal(both.maps[1], fine[0])
    # Coarse cell (1,0) covers fine rows 2-3 and columns 0-1; bilinear weights of cell centres are .75 and .25.
    expected = torch.tensor([0.0, 0.25, 0.75, 1.0])[:, None] * torch.tensor([1.0, 0.75, 0.25, 0.0])[None, :]
    assert torch.allclose(both.maps[0], expected, atol=1e-6)


def test_rows_chooses_detections_in_the_order_asked_for():
    maps = torch.arange(3.0)[:, None, None].expand(3, 2, 2)
    out = heat_maps(maps, 8, (16, 16)).to_image(rows=[2, 0])
    assert out[:, 0, 0].tolist() == [2.0, 0.0]


def test_chunked_sampling_equals_sampling_at_once(monkeypatch):
    maps = heat_maps(torch.rand(5, 4, 6), 8, (30, 45))
    whole = maps.to_image()
    monkeypatch.setattr("odam_d2.structures.heat_maps.CHUNK_ELEMENTS", 1)
    assert torch.equal(maps.to_image(), whole)


def test_normalize_divides_by_the_maximum_and_leaves_zero_maps_zero():
    maps = torch.tensor([[[0.0, 2.0], [4.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]])
    expected = torch.tensor([[[0.0, 0.5], [1.0, 0.25]], [[0.0, 0.0], [0.0, 0.0]]])
    assert torch.equal(normalize_maps(maps), expected)
    assert torch.equal(heat_maps(maps, 8, (16, 16)).normalize().maps, expected)
    assert normalize_maps(torch.zeros(0, 3, 3)).shape == (0, 3, 3)


def test_pictures_begin_at_the_background():
    # Backgrounds 1 and 2: (x - 1) / 3 and (x - 2) / 2, and nothing below.
    maps = torch.tensor([[[1.0, 4.0], [2.5, 0.5]], [[4.0, 2.0], [3.0, 2.0]]])
    expected = torch.tensor([[[0.0, 1.0], [0.5, 0.0]], [[1.0, 0.0], [0.5, 0.0]]])
    whole = replace(heat_maps(maps, 8, (16, 16)), background=torch.tensor([1.0, 2.0]))
    assert torch.equal(whole.to_picture((2, 2)), expected)
    assert torch.equal(whole.normalize().to_image((2, 2)), expected)
    # The raw map keeps it.
    assert torch.equal(whole.to_image((2, 2)), maps)
    # Grids hold detections in any order.
    grids = tuple(Grid(maps[[row]], torch.tensor([row]), 8) for row in (1, 0))
    assert torch.equal(replace(whole, grids=grids).normalize().maps, expected)
    assert torch.equal(heat_maps(maps, 8, (16, 16)).to_picture((2, 2)), normalize_maps(maps))


@pytest.mark.parametrize(
    ("image_size", "short_edge", "grid"),
    [
        ((800, 1216), 50, (50, 76)),
        ((1216, 800), 50, (76, 50)),
        ((100, 800), 50, (50, 400)),
        # No finer than the network's input.
        ((30, 45), 50, (30, 45)),
        ((800, 8), 50, (800, 8)),
        ((30, 45), 20, (20, 30)),
        # 8 * 50^2 = 20,000 cells: 100 x 4000 scaled by sqrt(20,000 / 400,000) = .2236.
        ((100, 4000), 50, (22, 894)),
        ((4000, 100), 50, (894, 22)),
        # 8 * 10^2 = 800 cells: 1 x 3000 scaled by sqrt(800 / 3000) = .516, and never without a cell.
        ((1, 3000), 10, (1, 1549)),
    ],
)
def test_the_coarse_grid_is_bounded(image_size, short_edge, grid):
    cells = [-(-side // 8) for side in image_size]
    coarse = heat_maps(torch.ones(1, *cells), 8, image_size).resample(short_edge)
    assert tuple(coarse.shape) == (1, *grid) and torch.allclose(coarse, torch.ones(()))


def test_a_coarse_grid_at_the_pixels_of_the_input_is_the_map_at_pixels():
    maps = heat_maps(torch.rand(2, 4, 6, generator=torch.Generator().manual_seed(0)), 8, (30, 45))
    assert torch.equal(maps.resample(50), maps.to_image((30, 45)))
    with pytest.raises(ValueError, match="has 0 cells.*ODAM.NMS.SHORT_EDGE"):
        maps.resample(0)


def test_gaussian_blur_of_an_impulse_is_the_sampled_kernel():
    maps = torch.zeros(1, 21, 21)
    maps[0, 10, 10] = 1.0
    blurred = gaussian_blur(maps, torch.tensor([[2.0, 1.0]]))[0]
    cells = np.arange(-40, 41)
    kernel = {s: np.exp(-(cells**2) / (2 * s**2)) / np.exp(-(cells**2) / (2 * s**2)).sum() for s in (2.0, 1.0)}
    expected = np.outer(kernel[2.0][30:51], kernel[1.0][30:51])
    assert np.allclose(blurred.numpy(), expected, atol=1e-6)


def test_gaussian_blur_with_zero_width_changes_nothing_and_loses_what_leaves_the_grid():
    maps = torch.rand(2, 5, 7)
    assert torch.allclose(gaussian_blur(maps, torch.zeros(2, 2)), maps)
    corner = torch.zeros(1, 9, 9)
    corner[0, 0, 0] = 1.0
    # A quarter of the kernel, and half of its central row and column, stays inside; the rest is not reflected back.
    assert gaussian_blur(corner, torch.tensor([[1.0, 1.0]])).sum() < 0.5


def test_smooth_is_as_wide_as_the_box_asks_for():
    # A box 80 x 40 pixels is 10 x 5 cells of stride 8: sigma is 1 cell along y and 0.5 along x.
    maps = torch.zeros(1, 15, 15)
    maps[0, 7, 7] = 1.0
    boxes = torch.tensor([[0.0, 0.0, 40.0, 80.0]])
    smooth = heat_maps(maps, 8, (120, 120), boxes=boxes).smooth(0.1).maps
    assert torch.allclose(smooth, gaussian_blur(maps, torch.tensor([[1.0, 0.5]])))


def test_operations_return_new_objects():
    maps = torch.rand(2, 4, 4)
    before = maps.clone()
    original = heat_maps(maps, 8, (32, 32), boxes=torch.tensor([[0.0, 0, 16, 16]] * 2))
    original.normalize(), original.smooth(), original.to_image()
    assert torch.equal(maps, before) and torch.equal(original.maps, before)


def test_no_detections_give_empty_maps_of_the_right_shape():
    empty = HeatMaps((), torch.zeros(0, 4), (32, 48), (32, 64), (64, 96))
    assert tuple(empty.to_image().shape) == (0, 64, 96)
    assert len(empty.normalize()) == len(empty.smooth()) == 0
    assert empty.maps.shape[0] == 0


def test_trace_whose_parts_disagree_is_refused():
    features = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match="class_vectors.*3"):
        make_trace(features, {"class_score": torch.zeros(3)}, torch.zeros(2, 4))
