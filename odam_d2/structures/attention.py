"""What the queries of a transformer attend to in one image: :class:`Attention`.

Shapes: D predictions, Q queries, T cells of the encoder's map, M heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from odam_d2.structures.trace import Size


@dataclass(frozen=True, eq=False, repr=False)
class Attention:
    """Attention weights of a transformer whose queries attend to every cell of one map, layer by layer, with graph.

    Each row of a matrix is what one query or cell attends to, and sums to 1. They are the tensors that the network
    itself computed with: a slice of one is no part of its graph.

    Args:
        encoder: among cells, each (1,M,T,T).
        decoder: among queries, each (1,M,Q,Q).
        cross: from queries to cells, each (1,M,Q,T); as many as of ``decoder``.
        cells: (h,w) of the encoder's map, h * w = T; cell (i,j) is number i * w + j.
        stride: network-input pixels per cell.
    """

    encoder: Sequence[Tensor]
    decoder: Sequence[Tensor]
    cross: Sequence[Tensor]
    cells: Size
    stride: int

    def __repr__(self) -> str:
        height, width = self.cells
        queries = self.cross[-1].shape[2] if self.cross else 0
        return (
            f"Attention({queries} queries, {height} x {width} cells of stride {self.stride}, "
            f"{len(self.encoder)} layers of the encoder, {len(self.decoder)} of the decoder)"
        )
