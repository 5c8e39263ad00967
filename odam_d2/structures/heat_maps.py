"""What an explanation is: :class:`HeatMaps`.

Shapes: D detections, (Hl,Wl) level or layer, P side of a pooled region, (H,W) padded network
input, (h,w) network input before padding, (ho,wo) image as the user sees it. Boxes are XYXY in network-input pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from odam_d2.structures.trace import Paste, Size

# Standard deviation of the size-adapted Gaussian, as a fraction of the detection's box side along each axis.
SMOOTHING_FRACTION = 0.1
# Image maps are made for this many elements at a time, so that a 12-megapixel image stays affordable.
CHUNK_ELEMENTS = 64 * 2**20
# Cells of a coarse grid in squares of its short edge: a panorama of more than 8 : 1 gets a coarser one.
COARSE_SQUARES = 8


@dataclass(frozen=True, eq=False, repr=False)
class Grid:
    """Maps that share one sampling grid.

    A map that is zero outside the receptive field of its detection is kept as a patch of it.

    Args:
        maps: (n,gh,gw), non-negative.
        rows: which detections they belong to, (n,) int64.
        stride: network-input pixels per cell; cell (i,j) covers pixels ``[j * stride, (j + 1) * stride)`` of
            row ``[i * stride, ...)``. None when the grid spans a region instead.
        boxes: the regions that the maps span, (n,4), where ``stride`` is None.
        origin: cell (i,j) of the level at which each patch begins, (n,2) int64, possibly outside the level. None where
            maps span the whole level.
        level_size: (Hl,Wl) of the level that patches are part of.
    """

    maps: Tensor
    rows: Tensor
    stride: int | None = None
    boxes: Tensor | None = None
    origin: Tensor | None = None
    level_size: Size | None = None

    def __repr__(self) -> str:
        span = "regions" if self.stride is None else f"stride {self.stride}"
        count, height, width = self.maps.shape
        patches = "" if self.origin is None else " patches"
        return f"Grid({count} maps of {height} x {width}{patches}, {span})"

    def whole(self) -> "Grid":
        """The same maps on the whole level, zero outside their patches."""
        if self.origin is None:
            return self
        (height, width), (gh, gw) = self.level_size, self.maps.shape[1:]
        # Patches may reach over the border by less than their side; cells out there are zero.
        full = self.maps.new_zeros((len(self.maps), height + 2 * gh, width + 2 * gw))
        y = self.origin[:, :1] + gh + torch.arange(gh, device=self.maps.device)
        x = self.origin[:, 1:] + gw + torch.arange(gw, device=self.maps.device)
        number = torch.arange(len(full), device=self.maps.device)[:, None, None]
        full = full.index_put((number, y[:, :, None], x[:, None, :]), self.maps)
        return replace(self, maps=full[:, gh : gh + height, gw : gw + width], origin=None, level_size=None)


def normalize_maps(maps: Tensor) -> Tensor:
    """Scale each map by its maximum into [0,1]; an all-zero map stays all zero.

    Args:
        maps: (n,gh,gw), non-negative.
    """
    peak = maps.flatten(1).amax(1) if maps.numel() else maps.new_zeros(len(maps))
    return maps / torch.where(peak > 0, peak, torch.ones_like(peak))[:, None, None]


def gaussian_blur(maps: Tensor, sigma: Tensor) -> Tensor:
    """Separable Gaussian convolution with zeros outside the grid, each map with its own width.

    Args:
        maps: (n,gh,gw).
        sigma: standard deviations (sigma_y, sigma_x) in cells, (n,2); 0 leaves that axis as it is.
    """
    for axis in (1, 2):
        cells = torch.arange(maps.shape[axis], device=maps.device, dtype=maps.dtype)
        width = sigma[:, axis - 1].to(maps)[:, None, None]
        distance = (cells[:, None] - cells[None, :])[None]
        # The kernel is normalised over the infinite grid: what leaves the grid is lost, nothing is reflected.
        reach = torch.arange(-maps.shape[axis], maps.shape[axis] + 1, device=maps.device, dtype=maps.dtype)
        safe = width.clamp(min=1e-3)
        kernel = torch.exp(-0.5 * (distance / safe) ** 2)
        kernel = kernel / torch.exp(-0.5 * (reach / safe) ** 2).sum(-1, keepdim=True)
        maps = kernel @ maps if axis == 1 else maps @ kernel
    return maps


@dataclass(frozen=True, eq=False, repr=False)
class HeatMaps:
    """One non-negative heat map for each detection, registered to the image.

    Detections come from feature maps of different strides; each map is kept on its own grid (``grids``) so that it is
    interpolated only once, on its way to the image.

    Args:
        grids: the maps, every detection in exactly one grid.
        boxes: (D,4), network-input pixels.
        image_size: (h,w).
        padded_size: (H,W).
        output_size: (ho,wo).
        paste: needed where grids span regions.
        background: value of each map where the image does not matter, (D,); None means 0.
    """

    grids: tuple[Grid, ...]
    boxes: Tensor
    image_size: Size
    padded_size: Size
    output_size: Size
    paste: Paste | None = None
    background: Tensor | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def __repr__(self) -> str:
        height, width = self.output_size
        return f"HeatMaps({len(self)} maps over an image of {height} x {width}; {', '.join(map(repr, self.grids))})"

    @property
    def stride(self) -> int:
        """Network-input pixels per cell of :attr:`maps`: the finest stride among the grids, 4 for region grids."""
        return min((g.stride or 4 for g in self.grids), default=4)

    @property
    def maps(self) -> Tensor:
        """The maps on one grid of :attr:`stride` over the padded input, (D,h',w')."""
        cells = tuple(-(-side // self.stride) for side in self.padded_size)
        extent = tuple(c * self.stride for c in cells)
        return self._sample(cells, extent)

    def resample(self, short_edge: int = 50) -> Tensor:
        """The maps on one coarse grid over the image, the size at which ODAM-NMS compares them (section 6.2).

        A grid that is finer than the network's input would compare what interpolation made up, so there it has a cell
        a pixel; and it has :data:`COARSE_SQUARES` * ``short_edge``^2 cells at most, up to rounding.

        Args:
            short_edge: cells along the image's short edge, at least 1; the long one has as many as keep the aspect
                ratio.

        Returns:
            (D,gh,gw) float32.

        Raises:
            ValueError: no cells.
        """
        if short_edge < 1:
            raise ValueError(f"the grid's short edge has {short_edge} cells; it needs at least 1 (ODAM.NMS.SHORT_EDGE)")
        height, width = self.image_size
        most = (COARSE_SQUARES * short_edge**2 / (height * width)) ** 0.5
        scale = min(short_edge / min(height, width), 1.0, most)
        return self.to_image((max(1, round(height * scale)), max(1, round(width * scale))))

    def to_image(self, size: Size | None = None, rows: Sequence[int] | None = None) -> Tensor:
        """The maps at image pixels: padding cropped, bilinear, pixel centres at half-integers.

        Args:
            size: (height, width) to sample the image at; default ``output_size``.
            rows: only these detections; default all.

        Returns:
            (D,height,width) float32.
        """
        return self._sample(size or self.output_size, self.image_size, rows)

    def to_picture(self, size: Size | None = None) -> Tensor:
        """The maps at image pixels as people look at them: each from its background to its maximum.

        Args:
            size: (height, width) to sample the image at; default ``output_size``.

        Returns:
            (D,height,width) float32 in [0,1].
        """
        return normalize_maps(self._above_background(self.to_image(size)))

    def normalize(self) -> "HeatMaps":
        """Each map without its background, scaled into [0,1] by its maximum."""
        grids = (
            replace(grid, maps=normalize_maps(self._above_background(grid.maps, grid.rows))) for grid in self.grids
        )
        return replace(self, grids=tuple(grids), background=None)

    def smooth(self, fraction: float = SMOOTHING_FRACTION) -> "HeatMaps":
        """Each map convolved with a Gaussian adapted to its detection.

        Args:
            fraction: standard deviation along an axis as a fraction of the box's side along it.
        """

        def blur(grid: Grid) -> Grid:
            grid = grid.whole()
            sides = box_sides_in_cells(self.boxes[grid.rows], grid.maps.shape[1:], grid.stride, grid.boxes)
            return replace(grid, maps=gaussian_blur(grid.maps, fraction * sides))

        return replace(self, grids=tuple(blur(grid) for grid in self.grids))

    def _above_background(self, maps: Tensor, rows: Tensor | None = None) -> Tensor:
        if self.background is None:
            return maps
        own = self.background if rows is None else self.background[rows]
        return (maps - own[:, None, None]).clamp(min=0)

    def _sample(self, size: Size, extent: tuple[int, ...], rows: Sequence[int] | None = None) -> Tensor:
        """Sample the window [0,extent) of the network input, in pixels, at ``size`` points.

        Rows not asked for are left out.
        """
        wanted = range(len(self)) if rows is None else rows
        position = {row: i for i, row in enumerate(wanted)}
        out = self.boxes.new_zeros((len(position), *size), dtype=torch.float32)
        for grid in self.grids:
            kept = [i for i, row in enumerate(grid.rows.tolist()) if row in position]
            step = max(1, CHUNK_ELEMENTS // max(1, size[0] * size[1]))
            for start in range(0, len(kept), step):
                chosen = kept[start : start + step]
                places = [position[row] for row in grid.rows[chosen].tolist()]
                # Positions need more digits than autocast would leave them.
                with torch.autocast(out.device.type, enabled=False):
                    out[places] = _sample_grid(grid, chosen, size, extent, self.paste)
        return out


def box_sides_in_cells(
    boxes: Tensor, shape: Sequence[int], stride: int | None = None, regions: Tensor | None = None
) -> Tensor:
    """Heights and widths of boxes, in cells of the grid their maps lie on.

    Args:
        boxes: (n,4).
        shape: (gh,gw) of the grid.
        stride: network-input pixels per cell, or None where each grid spans a region.
        regions: those regions, (n,4).

    Returns:
        (n,2).
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).flip(1)
    if stride is not None:
        return sides / stride
    region_sides = (regions[:, 2:] - regions[:, :2]).flip(1).clamp(min=1e-6)
    return sides / region_sides * sides.new_tensor(shape)


def _sample_grid(grid: Grid, chosen: list[int], size: Size, extent: tuple[int, ...], paste: Paste | None) -> Tensor:
    maps = grid.maps[chosen].float()
    if grid.boxes is not None:
        if paste is None:
            raise ValueError("heat maps of pooled regions need a paste operator to reach the image")
        scale = maps.new_tensor([size[1] / extent[1], size[0] / extent[0]] * 2)
        return paste(maps, grid.boxes[chosen] * scale, *size)
    cells = grid.level_size or maps.shape[1:]
    for axis, (points, length, pixels) in enumerate(zip(size, cells, extent)):
        weights = bilinear_weights(points, length, pixels / grid.stride, maps)
        if grid.origin is not None:
            # Only the cells of each patch: (n,points,side), zero where the patch hangs over the border.
            place = grid.origin[chosen, axis, None] + torch.arange(maps.shape[axis + 1], device=maps.device)
            inside = (place >= 0) & (place < length)
            weights = (weights[:, place.clamp(0, length - 1)] * inside).transpose(0, 1)
        maps = weights @ maps if axis == 0 else maps @ weights.transpose(-1, -2)
    return maps


def bilinear_weights(points: int, cells: int, extent: float, like: Tensor) -> Tensor:
    """What every cell contributes to every sample of linear interpolation, (points,cells).

    Args:
        points: number of samples, at the centres of equal parts of [0, extent).
        cells: number of cells, of side 1, whose values are at their centres and go on unchanged beyond the last ones.
        extent: length of the sampled interval.
        like: gives type and device.
    """
    place = (torch.arange(points, device=like.device, dtype=torch.float64) + 0.5) * (extent / points) - 0.5
    distance = (place.clamp(0, cells - 1)[:, None] - torch.arange(cells, device=like.device)).abs()
    return (1 - distance).clamp(min=0).to(like)
