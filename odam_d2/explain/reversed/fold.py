"""The last transposed convolution and the product with the features in one: what detections share is computed once.

A map needs the gradient at the features only in its product with them, H(u) = sum_i A_i(u) dY/dA_i(u). With g the
gradient below which the tower's first convolution lies, of kernel W, and t a tap of it,

    H(u) = sum_t sum_c g_c(u - t) B_tc(u),   B_tc(u) = sum_i W_cit A_i(u),

so that B is one matrix product a cell, whatever number of detections looks at the cell, and a map is left with dot
products. It pays where patches overlap, as those of a crowd do.

Shapes: n detections, C channels above the convolution, Ci below, k side of a patch of g, r side of the kernel, M
margin, (Hl,Wl) level.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from odam_d2.explain.reversed.places import Places
from odam_d2.structures import full_precision

# B is made where patches cover so few cells that it takes at most this part of the arithmetic of a convolution of every
# patch: gathering from it is not free.
WORTH = 0.7
# Patches that are gathered together on a CPU, where what they need then stays in its cache, and on a GPU.
CPU_PATCHES, GPU_PATCHES = 2, 32


class FoldedConvolution:
    """Maps from gradients above a convolution, for the detections of one level.

    Args:
        weight: of the convolution, whatever scales its output folded in, (C,Ci,r,r).
        rows: the features with their margin, from :func:`odam_d2.explain.reversed.places.padded_rows`,
            ((Hl+2M)*(Wl+2M),Ci).
        cells: those of them that some patch of a map covers, each once, (cells,) int64.
    """

    def __init__(self, weight: Tensor, rows: Tensor, cells: Tensor):
        self.kernel = weight.shape[-1]
        taps = weight.permute(2, 3, 0, 1).flatten(0, 2)  # (r*r*C,Ci)
        # (cells*r*r,C)
        self.basis = (rows[cells] @ taps.t()).view(len(cells) * self.kernel**2, weight.shape[0])
        self.position = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        self.position[cells] = torch.arange(len(cells), device=rows.device) * self.kernel**2

    def __call__(self, gradient: Tensor, places: Places) -> Tensor:
        """Products of the grown gradients with the features.

        Args:
            gradient: (n,k,k,C).
            places: of the n detections, among those whose cells were given.

        Returns:
            (n,k+r-1,k+r-1).
        """
        side = gradient.shape[1]
        grown = side + self.kernel - 1
        # Where B of a cell of the grown patch begins, (n,k+r-1,k+r-1).
        begin = self.position[places.cells(grown)]
        # Of a cell of the gradient, the cells that it reaches through each tap, (n,k,k,r*r).
        reached = begin.unfold(1, side, 1).unfold(2, side, 1).permute(0, 3, 4, 1, 2).flatten(3)
        reached = reached + torch.arange(self.kernel**2, device=begin.device)
        sent = []
        together = self._together(gradient)
        for own, at in zip(gradient.split(together), reached.split(together), strict=True):
            seen = self.basis.index_select(0, at.flatten()).view(-1, self.kernel**2, gradient.shape[-1])
            sent.append(torch.bmm(seen, own.reshape(-1, gradient.shape[-1], 1)).view(at.shape))
        by_tap = full_precision(torch.cat(sent)).flatten(1, 2).transpose(1, 2)
        return F.fold(by_tap, (grown, grown), self.kernel)[:, 0]

    @staticmethod
    def _together(gradient: Tensor) -> int:
        """How many patches are gathered at a time."""
        if torch.is_grad_enabled():
            # Backward, every gathering is as large as what all detections share: one is best.
            return max(1, len(gradient))
        return CPU_PATCHES if gradient.device.type == "cpu" else GPU_PATCHES


def covered_cells(places: Places, side: int) -> Tensor:
    """The cells that patches of a side cover, each once, (cells,) int64 in a map with its margin."""
    size = [length + 2 * places.margin for length in places.size]
    covered = torch.zeros(size[0] * size[1], dtype=torch.bool, device=places.y.device)
    covered[places.cells(side).flatten()] = True
    return covered.nonzero()[:, 0]


def is_worth_folding(count: int, cells: int, side: int, weight: Tensor, memory: int) -> bool:
    """Whether folding costs less than a convolution of every patch, and little enough memory.

    Args:
        count: n.
        cells: that the maps' patches cover.
        side: k.
        weight: of the convolution.
        memory: bytes that the shared products may take.
    """
    bytes_needed = cells * weight[:, 0].numel() * weight.element_size()
    return cells <= WORTH * count * side**2 and bytes_needed <= memory
