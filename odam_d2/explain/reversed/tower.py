"""One subnet of a dense head, run backward for many detections of one level, on patches or on the whole level.

What the detections share is prepared once: weights with the norms' factors folded in, masks of the ReLUs, normalised
inputs. Patches lie in memory cell by cell, (n,k,k,C), so that gathering one from a level is copying rows.

Shapes: n detections, C channels, G groups, A anchors per location, V values at an anchor, (Hl,Wl) level, k side of a
patch, M margin around a level.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from odam_d2.explain.reversed.fold import CACHED_PATCHES, FoldedConvolution, covered_cells, is_worth_folding
from odam_d2.explain.reversed.modules import affine_scale, full_precision, group_statistics, tower_radius
from odam_d2.explain.reversed.places import Places, padded_rows
from odam_d2.structures import Size, Subnet

# One step of the backward pass on gradients, (n,k,k,C) for patches or (n,C,Hl,Wl) for whole levels.
Step = Callable[[Tensor, Places], Tensor]


class ReversedTower:
    """Backward pass of a subnet on one level.

    Args:
        subnet: of modules that :func:`odam_d2.explain.reversed.modules.check_reversible` accepts.
        level: name of the level.
        features: the level's feature map A, the subnet's input, (1,C,Hl,Wl).
        margin: radius of the patches that come out, at least the subnet's own.
        plan: ``patch``, ``corrected`` or ``whole``, see :mod:`odam_d2.explain.reversed.head`.
    """

    def __init__(self, subnet: Subnet, level: str, features: Tensor, margin: int, plan: str):
        self.whole = plan == "whole"
        self.margin = margin
        self.radius = tower_radius(subnet)
        self.size: Size = tuple(features.shape[-2:])
        self.device = features.device
        modules = [*subnet.tower, *(conv for conv, _ in subnet.predictors)]
        self.channels = max(module.in_channels for module in modules if isinstance(module, nn.Conv2d))
        self.correction: Correction | None = None
        self.correct_before = -1  # the step before which the correction takes its sums
        self.steps: list[Step] = []
        self.first: Tensor | None = None  # kernel of a convolution right above the features, which is the last step
        self.folded: FoldedConvolution | None = None
        inputs = (features, *subnet.seen[level])
        position = list(subnet.seen).index(level)
        # Factors of norms that were passed but not yet applied: they commute with masks, and fold into weights.
        scale = full_precision(features).new_ones(subnet.predictors[0][0].in_channels)
        clean = self.whole  # whether gradients beyond the border of the level are zero by now
        for number in reversed(range(len(subnet.tower))):
            module = subnet.tower[number]
            first_norm = number == 1 and isinstance(subnet.tower[0], nn.Conv2d)
            if isinstance(module, (nn.Conv2d, nn.GroupNorm)) and not clean:
                self._cut_border()
                clean = True
            if isinstance(module, nn.ReLU):
                self._mask(inputs[number + 1] > 0)
                clean = True
            elif isinstance(module, nn.Conv2d):
                weight = module.weight * scale[:, None, None, None]
                if number == 0 and not self.whole:
                    self.first = weight
                self._convolution(weight)
                scale = scale.new_ones(module.in_channels)
                clean = self.whole
            elif isinstance(module, nn.GroupNorm):
                normalised, inverse_sigma = group_statistics(module, full_precision(inputs[number]))
                gamma = scale if module.weight is None else scale * module.weight
                scale = gamma * inverse_sigma
                if self.whole:
                    self._group_norm(module.num_groups, gamma, normalised, inverse_sigma)
                    scale = torch.ones_like(scale)
                elif plan == "corrected" and first_norm:
                    self.correct_before = len(self.steps)
                    self.correction = Correction(
                        module.num_groups, gamma, normalised, inverse_sigma, subnet.tower[0].weight, features, margin
                    )
            elif not isinstance(module, nn.Identity):
                scale = scale * affine_scale(module, position)
        factor = full_precision(features)
        if not (subnet.tower and isinstance(subnet.tower[0], nn.Conv2d)):
            # A norm in front of the first convolution acts on the gradient channel by channel, as A does.
            factor = factor * scale[:, None, None]
        self.features = factor if self.whole else padded_rows(factor, margin)

    def fold(self, places: Places, memory: int) -> None:
        """Prepare the first convolution for all detections of the level together, where that is worth it.

        Args:
            places: of all of them.
            memory: bytes that what they share may take.
        """
        if self.first is None:
            return
        radius = self.first.shape[-1] // 2
        cells = covered_cells(places, 2 * self.radius + 1)
        if is_worth_folding(len(places.y), len(cells), 2 * (self.radius - radius) + 1, self.first, memory):
            self.folded = FoldedConvolution(self.first, self.features, cells)

    def products(self, places: Places, seeds: Sequence[tuple[nn.Conv2d, Tensor]]) -> Tensor:
        """sum_k dY/dA_k o A_k, maps before they are rectified.

        Args:
            places: of n detections.
            seeds: the predictors and the gradients of Y by their values at the detections' anchors, each (n,V).

        Returns:
            (n,2M+1,2M+1) patches for the plan ``patch``, else (n,Hl,Wl).
        """
        gradient = _seed_patches(seeds, places.anchor)
        if self.whole:
            gradient = places.scatter(gradient)
        extra = None
        for number, step in enumerate(self.steps[:-1] if self.folded else self.steps):
            if number == self.correct_before:
                extra = self.correction(gradient, places)
            gradient = step(gradient, places)
        if self.whole:
            return (gradient * self.features).sum(dim=1)
        if self.folded is None:
            product = (gradient * places.gather(self.features, gradient.shape[1])).sum(dim=-1)
        else:
            if self.correct_before == len(self.steps) - 1:
                extra = self.correction(gradient, places)
            product = self.folded(gradient, places)
        missing = (2 * self.margin + 1 - product.shape[1]) // 2
        product = F.pad(product, (missing,) * 4)
        if self.correction is None:
            return product
        return places.scatter(product[..., None])[:, 0] + extra

    def _cut_border(self) -> None:
        """Zero the gradients of patches at cells outside the level."""
        inside = padded_rows(torch.ones(1, 1, *self.size, device=self.device), self.margin)
        self.steps.append(lambda gradient, places: gradient * places.gather(inside, gradient.shape[1]))

    def _mask(self, positive: Tensor) -> None:
        """Backward of a ReLU; the margin of a mask is False, so it cuts the border too."""
        if self.whole:
            self.steps.append(lambda gradient, places: gradient * positive)
            return
        rows = padded_rows(positive, self.margin)
        self.steps.append(lambda gradient, places: gradient * places.gather(rows, gradient.shape[1]))

    def _convolution(self, weight: Tensor) -> None:
        """Backward of a convolution; patches grow by its radius."""
        if self.whole:
            radius = weight.shape[-1] // 2
            self.steps.append(lambda gradient, places: F.conv_transpose2d(gradient, weight, padding=radius))
            return
        if weight.device.type == "cpu" and not torch.is_grad_enabled():
            taps = weight.permute(2, 3, 0, 1).contiguous()
            self.steps.append(lambda gradient, places: _transposed_convolution(gradient, taps))
            return
        weight = weight.contiguous(memory_format=torch.channels_last)

        def step(gradient: Tensor, places: Places) -> Tensor:
            return F.conv_transpose2d(gradient.permute(0, 3, 1, 2), weight).permute(0, 2, 3, 1)

        self.steps.append(step)

    def _group_norm(self, groups: int, gamma: Tensor, normalised: Tensor, inverse_sigma: Tensor) -> None:
        """Exact backward of a GroupNorm: dx = (dy - mean(dy) - x' mean(dy x')) / sigma, dy after gamma."""

        def step(gradient: Tensor, places: Places) -> Tensor:
            shape = gradient.shape
            dy = (gradient * gamma[:, None, None]).reshape(shape[0], groups, -1)
            x = normalised.reshape(1, groups, -1)
            dx = dy - dy.mean(dim=2, keepdim=True) - x * (dy * x).mean(dim=2, keepdim=True)
            return dx.reshape(shape) * inverse_sigma[:, None, None]

        self.steps.append(step)


def _transposed_convolution(gradient: Tensor, taps: Tensor) -> Tensor:
    """``conv_transpose2d`` of small patches on a CPU, a matrix product a tap of the kernel.

    PyTorch's own computes every cell of the grown patch from all taps, also from the zeros around the old one, and is
    slow for 3 x 3 cells; this is a quarter faster over the layers of a head.

    Args:
        gradient: (n,k,k,C).
        taps: the kernel, (r,r,C,Ci).

    Returns:
        (n,k+r-1,k+r-1,Ci).
    """
    side, kernel = gradient.shape[1], len(taps)
    grown = gradient.new_zeros((len(gradient), side + kernel - 1, side + kernel - 1, taps.shape[-1]))
    for part, out in zip(gradient.split(CACHED_PATCHES), grown.split(CACHED_PATCHES)):
        rows = part.flatten(0, 2)
        for i in range(kernel):
            for j in range(kernel):
                out[:, i : i + side, j : j + side] += (rows @ taps[i, j]).view(*part.shape[:3], -1)
    return grown


class Correction:
    """What the averages of a tower's first GroupNorm add to a map, on the whole level.

    With dy the gradient at its output after gamma and x' its normalised input, the averages subtract
    (S_g + T_g x'_c) / (N sigma_g) at every cell and channel c of group g, where S and T are the sums of dy and dy x'
    over a group and N its size. The convolution below and the features turn this into sum_g S_g B_g + T_g B'_g, with
    maps B and B' that all detections share.

    Args:
        groups: G.
        gamma: (C,).
        normalised: x', (1,C,Hl,Wl).
        inverse_sigma: (C,).
        weight: of the convolution below, (C,Ci,k,k).
        features: A, (1,Ci,Hl,Wl).
        margin: M.
    """

    def __init__(
        self,
        groups: int,
        gamma: Tensor,
        normalised: Tensor,
        inverse_sigma: Tensor,
        weight: Tensor,
        features: Tensor,
        margin: int,
    ):
        self.groups = groups
        self.gamma = gamma
        self.normalised = padded_rows(normalised, margin)
        height, width = features.shape[-2:]
        reach = weight.shape[-1] // 2
        cells = full_precision(features[0]).flatten(1).t()
        # Zero beyond the border, where no cell of the GroupNorm is.
        padded = F.pad(normalised[0].permute(1, 2, 0), (0, 0, *(reach,) * 4))
        ones = F.pad(padded.new_ones(height, width, 1), (0, 0, *(reach,) * 4))
        plain, scaled = 0.0, 0.0
        for i in range(weight.shape[2]):
            for j in range(weight.shape[3]):
                # Cell u of the features reaches cell u - tap + radius of the output through this tap.
                window = slice(2 * reach - i, 2 * reach - i + height), slice(2 * reach - j, 2 * reach - j + width)
                reached = (cells @ weight[:, :, i, j].t()).view(height, width, -1)
                plain = plain + (reached * ones[window]).unflatten(2, (groups, -1)).sum(dim=3)
                scaled = scaled + (reached * padded[window]).unflatten(2, (groups, -1)).sum(dim=3)
        per_group = inverse_sigma.view(groups, -1)[:, 0] / (normalised.numel() / groups)
        # (2G,Hl*Wl)
        self.basis = -torch.cat([plain * per_group, scaled * per_group], dim=2).flatten(0, 1).t()
        self.size = height, width

    def __call__(self, gradient: Tensor, places: Places) -> Tensor:
        """Gradient (n,k,k,C) at the GroupNorm's output -> addition to the maps, (n,Hl,Wl)."""
        dy = gradient * self.gamma
        moments = (dy * places.gather(self.normalised, gradient.shape[1])).sum(dim=(1, 2))
        sums = torch.cat([x.unflatten(1, (self.groups, -1)).sum(dim=2) for x in (dy.sum(dim=(1, 2)), moments)], dim=1)
        return (sums @ self.basis).view(-1, *self.size)


def _seed_patches(seeds: Sequence[tuple[nn.Conv2d, Tensor]], anchor: Tensor) -> Tensor:
    """Gradients at the predictors' input, (n,k,k,C): their kernels, weighted by the gradients at their outputs."""
    side = max(conv.kernel_size[0] for conv, _ in seeds)
    total = 0.0
    for conv, seed in seeds:
        count, values = seed.shape
        # Output channel a * V + v.
        channel = anchor[:, None] * values + torch.arange(values, device=seed.device)
        by_channel = full_precision(seed.new_zeros(count, conv.out_channels).scatter(1, channel, seed))
        missing = (side - conv.kernel_size[0]) // 2
        patches = (by_channel @ conv.weight.flatten(1)).view(count, *conv.weight.shape[1:])
        total = total + F.pad(patches, (missing,) * 4)
    return total.permute(0, 2, 3, 1).contiguous()
