"""Where detections are on a level, and the patches of it around them.

Patches lie in memory cell by cell, (n,k,k,C), so that gathering one from a level is copying rows.

Shapes: n detections, C channels, (Hl,Wl) level, k side of a patch, M margin around a level.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from odam_d2.structures import Size


@dataclass(frozen=True)
class Places:
    """Where n detections are on a level: row, column and anchor of each, (n,) int64.

    Args:
        y: row.
        x: column.
        anchor: number of the anchor.
        size: (Hl,Wl).
        margin: M, cells added around the maps of the level.
    """

    y: Tensor
    x: Tensor
    anchor: Tensor
    size: Size
    margin: int

    def cells(self, side: int) -> Tensor:
        """Flat positions, in a map with its margin, of patches around the detections, (n,side,side), side <= 2M+1."""
        cut = self.margin - side // 2
        return self._widest[:, cut : cut + side, cut : cut + side]

    @cached_property
    def _widest(self) -> Tensor:
        """The positions of the largest patches: every layer asks for the middle of them, and a GPU is slow to ask."""
        steps = torch.arange(2 * self.margin + 1, device=self.y.device)
        y, x = self.y[:, None] + steps, self.x[:, None] + steps
        return y[:, :, None] * (self.size[1] + 2 * self.margin) + x[:, None, :]

    def gather(self, rows: Tensor, side: int) -> Tensor:
        """Patches of a map that :func:`padded_rows` prepared, (n,side,side,C)."""
        return rows.index_select(0, self.cells(side).flatten()).view(len(self.y), side, side, -1)

    def scatter(self, patches: Tensor) -> Tensor:
        """Patches (n,k,k,C) put into otherwise empty levels, (n,C,Hl,Wl); what hangs over the border is cut off."""
        height, width = (side + 2 * self.margin for side in self.size)
        count, side, channels = len(patches), patches.shape[1], patches.shape[3]
        first = torch.arange(count, device=patches.device)[:, None, None] * (height * width)
        levels = patches.new_zeros(count * height * width, channels)
        levels = levels.index_copy(0, (first + self.cells(side)).flatten(), patches.flatten(0, 2))
        levels = levels.view(count, height, width, channels).permute(0, 3, 1, 2)
        inner = slice(self.margin, self.margin + self.size[0]), slice(self.margin, self.margin + self.size[1])
        return levels[:, :, inner[0], inner[1]].contiguous()


def padded_rows(level_map: Tensor, margin: int) -> Tensor:
    """Cells of a map with a margin of zeros around it, (1,C,Hl,Wl) -> ((Hl+2M)*(Wl+2M),C)."""
    return F.pad(level_map[0].permute(1, 2, 0), (0, 0, margin, margin, margin, margin)).flatten(0, 1)


# One step of the backward pass on gradients, (n,k,k,C) for patches or (n,C,Hl,Wl) for whole levels.
Step = Callable[[Tensor, Places], Tensor]
