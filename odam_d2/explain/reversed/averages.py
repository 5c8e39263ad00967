"""What the averages of GroupNorms add to maps: where patches take statistics as constants, this makes them exact.

With dy the gradient at a GroupNorm's output after gamma and x' its normalised input, its averages subtract
(S_g + T_g x'_c) / (N sigma_g) at every cell and channel c of group g, where S and T are the sums of dy and dy x' over a
group and N its size. What this does further down, to the features and to the map, is linear in S and T: a detection
needs but two numbers a group, times maps that all detections of the level share, its basis.

Shapes: n detections, C channels of the GroupNorm, Ci of the features, G groups, r side of a kernel, k side of a patch,
(Hl,Wl) level.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from odam_d2.explain.reversed.places import Places, Step, padded_rows
from odam_d2.structures import full_precision

# Fields that go down a level together.
CHUNK = 16


class Averages:
    """The averages of one GroupNorm on one level.

    Args:
        groups: G.
        gamma: (C,).
        normalised: x', (1,C,Hl,Wl).
        basis: what S and T of every group add to a map, (2G,Hl*Wl).
        margin: M, of patches.
    """

    def __init__(self, groups: int, gamma: Tensor, normalised: Tensor, basis: Tensor, margin: int):
        self.groups, self.gamma, self.basis = groups, gamma, basis
        self.normalised = padded_rows(normalised, margin)
        self.size = tuple(normalised.shape[-2:])

    def __call__(self, gradient: Tensor, places: Places) -> Tensor:
        """Gradient (n,k,k,C) at the GroupNorm's output -> addition to the maps, (n,Hl,Wl)."""
        dy = gradient * self.gamma
        moments = (dy * places.gather(self.normalised, gradient.shape[1])).sum(dim=(1, 2))
        sums = torch.cat([x.unflatten(1, (self.groups, -1)).sum(dim=2) for x in (dy.sum(dim=(1, 2)), moments)], dim=1)
        return (sums @ self.basis).view(-1, *self.size)


def level_products(weight: Tensor, features: Tensor) -> Tensor:
    """B of the folded convolution (see :mod:`odam_d2.explain.reversed.fold`) on a whole level, seen from above it.

    Args:
        weight: of the convolution right above the features, (C,Ci,r,r).
        features: A, (1,Ci,Hl,Wl).

    Returns:
        for every tap t and at every cell v of the gradient, B_t at the cell v + t that v reaches through it, 0 where
        that is no cell, (r*r,Hl,Wl,C).
    """
    kernel, (height, width) = weight.shape[-1], features.shape[-2:]
    reach = kernel // 2
    cells = F.pad(full_precision(features[0]).permute(1, 2, 0), (0, 0, *(reach,) * 4))
    products = (cells @ weight.permute(1, 2, 3, 0).flatten(1)).unflatten(2, (kernel**2, -1))
    # Taken apart at once: backward, every one that is picked by its number would be as large as all.
    corners = itertools.product(range(kernel), repeat=2)
    return torch.stack(
        [own[i : i + height, j : j + width] for (i, j), own in zip(corners, products.unbind(2), strict=True)]
    )


def fold_level(gradient: Tensor, products: Tensor) -> Tensor:
    """Maps from gradients above the convolution right above the features.

    Args:
        gradient: (f,C,Hl,Wl).
        products: from :func:`level_products`.

    Returns:
        (f,Hl,Wl).
    """
    # All taps of a cell in one matrix product, (Hl*Wl,f,r*r).
    sent = gradient.permute(2, 3, 0, 1).flatten(0, 1) @ products.permute(1, 2, 3, 0).flatten(0, 1)
    return _collect(sent.unflatten(0, gradient.shape[-2:]).permute(2, 3, 0, 1))


def basis_of_first(groups: int, normalised: Tensor, inverse_sigma: Tensor, products: Tensor) -> Tensor:
    """Basis of a GroupNorm right above the convolution right above the features.

    Args:
        groups: G.
        normalised: x', (1,C,Hl,Wl).
        inverse_sigma: (C,).
        products: from :func:`level_products`.

    Returns:
        (2G,Hl*Wl).
    """
    # Column g holds the factors of group g's channels: what they send is summed group by group in a matrix product.
    factor = _factor(groups, normalised, inverse_sigma)
    group = torch.arange(groups, device=factor.device).repeat_interleave(len(factor) // groups)
    share = factor.new_zeros(len(factor), groups).scatter(1, group[:, None], factor[:, None])
    varying = products * normalised[0].permute(1, 2, 0).contiguous()
    sent = torch.stack([products @ share, varying @ share])  # (2,r*r,Hl,Wl,G)
    return _collect(sent.permute(0, 4, 1, 2, 3).flatten(0, 1)).flatten(1)


def _collect(sent: Tensor) -> Tensor:
    """What every cell sent through every tap, (f,r*r,Hl,Wl), summed where it arrives, (f,Hl,Wl)."""
    kernel = round(sent.shape[1] ** 0.5)
    return F.fold(sent.flatten(2), sent.shape[-2:], kernel, padding=kernel // 2)[:, 0]


def basis_through(
    groups: int,
    normalised: Tensor,
    inverse_sigma: Tensor,
    weight: Tensor,
    steps: Sequence[Step],
    places: Places,
    products: Tensor,
) -> Tensor:
    """Basis of a GroupNorm above a convolution with further layers below it, which see the fields of every group.

    Args:
        groups: G.
        normalised: x', (1,C,Hl,Wl).
        inverse_sigma: (C,).
        weight: of the convolution below the GroupNorm, (C,Cm,r,r).
        steps: the backward pass on whole levels from below that convolution to above the one right above the features.
        places: of no detections, on this level.
        products: from :func:`level_products`.

    Returns:
        (2G,Hl*Wl).
    """
    # A group's fields are zero in other groups' channels: a grouped convolution does what all channels take, once.
    fields = F.conv_transpose2d(
        _fields(groups, normalised, inverse_sigma), weight, padding=weight.shape[-1] // 2, groups=groups
    )
    fields = fields.unflatten(1, (groups, -1)).flatten(0, 1)
    basis = []
    for part in fields.split(CHUNK):
        for step in steps:
            part = step(part, places)
        basis.append(fold_level(part, products))
    return torch.cat(basis).flatten(1)


def _fields(groups: int, normalised: Tensor, inverse_sigma: Tensor) -> Tensor:
    """What S = 1 and T = 1 of every group add at the GroupNorm's input, (2,C,Hl,Wl)."""
    factor = _factor(groups, normalised, inverse_sigma)[:, None, None]
    return torch.cat([factor.expand_as(normalised[0])[None], factor * normalised])


def _factor(groups: int, normalised: Tensor, inverse_sigma: Tensor) -> Tensor:
    """-1 / (N sigma_g) of every channel, (C,)."""
    return -inverse_sigma / (normalised.numel() / groups)
