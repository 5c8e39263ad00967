"""Blocks that put the whole map into every cell; their outputs are what FGD and FKD compare beyond single cells.

Shapes: N images, C channels, (Hl,Wl) level.
"""

import torch
from torch import Tensor, nn


class GcBlock(nn.Module):
    """The global context block of GCNet (Cao et al., ICCV workshops 2019) that FGD's relation loss looks through.

    ``F + W2 ReLU(LN(W1 sum_ij softmax(W_k F)_ij F_ij))``: a softmax over all cells weights the cells of a context
    vector, which two 1x1 convolutions, C -> C/2 -> C, turn into what is added to all cells. The last convolution
    begins at zero, and the block with it as identity.

    Args:
        channels: C, at least 2.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels // 2
        self.weigh = nn.Conv2d(channels, 1, 1)
        self.add = nn.Sequential(
            nn.Conv2d(channels, hidden, 1), nn.LayerNorm([hidden, 1, 1]), nn.ReLU(), nn.Conv2d(hidden, channels, 1)
        )
        nn.init.kaiming_normal_(self.weigh.weight, mode="fan_in", nonlinearity="relu")
        nn.init.zeros_(self.weigh.bias)
        nn.init.zeros_(self.add[-1].weight)
        nn.init.zeros_(self.add[-1].bias)

    def forward(self, features: Tensor) -> Tensor:
        """(N,C,Hl,Wl) -> (N,C,Hl,Wl)."""
        weights = self.weigh(features).flatten(2).softmax(dim=2)
        context = torch.einsum("ncp,nop->nc", features.flatten(2), weights)
        return features + self.add(context[:, :, None, None])


class NonLocalBlock(nn.Module):
    """The dot-product non-local block (Wang et al., CVPR 2018) that FKD's relation loss looks through.

    ``F_i + W_z (1 / HlWl) sum_j (theta(F_i) . phi(F_j)) g(F_j)`` with 1x1 convolutions of C/2 channels. Without a
    softmax the sum over j can be taken first, ``theta (phi^T g)``: the same numbers, at a cost that is linear in the
    number of cells, so that fine levels need no pooling. The last convolution begins at zero, and the block with it as
    identity.

    Args:
        channels: C, at least 2.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels // 2
        self.theta, self.phi, self.g = (nn.Conv2d(channels, hidden, 1) for _ in range(3))
        self.out = nn.Conv2d(hidden, channels, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(N,C,Hl,Wl) -> (N,C,Hl,Wl)."""
        theta, phi, g = (conv(features).flatten(2) for conv in (self.theta, self.phi, self.g))
        related = (g @ phi.transpose(1, 2)) @ theta / theta.shape[2]
        return features + self.out(related.reshape(len(features), -1, *features.shape[2:]))
