"""One subnet of a dense head, run backward for many detections of one level, on patches or on the whole level.

What the detections share is prepared once: weights with the norms' factors folded in, masks of the ReLUs, normalised
inputs. Patches lie in memory cell by cell, (n,k,k,C), so that gathering one from a level is copying rows.

Shapes: n detections, C channels, G groups, A anchors per location, V values at an anchor, (Hl,Wl) level, k side of a
patch, M margin around a level.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from odam_d2.explain.reversed.averages import Averages, basis_of_first, basis_through, level_products
from odam_d2.explain.reversed.fold import FoldedConvolution, covered_cells, is_worth_folding
from odam_d2.explain.reversed.modules import affine_scale, group_statistics, tower_radius
from odam_d2.explain.reversed.places import Places, Step, padded_rows
from odam_d2.structures import Size, Subnet, full_precision

# Patches that go through a convolution together on a CPU: what they need then stays in its cache.
CACHED_PATCHES = 16


class ReversedTower:
    """Backward pass of a subnet on one level.

    Args:
        subnet: of modules that :func:`odam_d2.explain.reversed.modules.check_reversible` accepts.
        level: name of the level.
        features: the level's feature map A, the subnet's input, (1,C,Hl,Wl).
        margin: radius of the patches that come out, at least the subnet's own.
        plan: ``patch``, ``corrected``, ``shared`` or ``whole``, see :mod:`odam_d2.explain.reversed.head`.
        second_order: whether gradients can be differentiated; otherwise maps can by the features alone, and the subnet
            is one of :func:`odam_d2.explain.reversed.modules.constant_subnet`.
    """

    def __init__(
        self, subnet: Subnet, level: str, features: Tensor, margin: int, plan: str, second_order: bool = False
    ):
        self.second_order = second_order
        self.whole = plan == "whole"
        self.margin = margin
        self.radius = tower_radius(subnet)
        self.size: Size = tuple(features.shape[-2:])
        self.device = features.device
        modules = [*subnet.tower, *(conv for conv, _ in subnet.predictors)]
        self.channels = max(module.in_channels for module in modules if isinstance(module, nn.Conv2d))
        self.averages: dict[int, Averages] = {}  # by the number of the step before which they are taken
        self.steps: list[Step] = []
        self.first: Tensor | None = None  # kernel of a convolution right above the features, which is the last step
        self.folded: FoldedConvolution | None = None
        self.below: dict[int, int] = {}  # number of a module -> of the first step below it
        # What the features do to gradients is a matter of the second order; what they are multiplied by, of the first.
        inputs = (features if second_order else features.detach(), *subnet.seen[level])
        position = list(subnet.seen).index(level)
        # Factors of norms that were passed but not yet applied: they commute with masks, and fold into weights.
        scale = full_precision(features).new_ones(subnet.predictors[0][0].in_channels)
        shares = plan in ("corrected", "shared") and any(isinstance(module, nn.GroupNorm) for module in subnet.tower)
        sharing = self._sharing(subnet, level, features, plan) if shares else ()
        clean = self.whole  # whether gradients beyond the border of the level are zero by now
        for number in reversed(range(len(subnet.tower))):
            module = subnet.tower[number]
            if isinstance(module, (nn.Conv2d, nn.GroupNorm)) and not clean:
                self._cut_border()
                clean = True
            if isinstance(module, nn.ReLU):
                self._mask(inputs[number + 1] > 0)
                clean = True
            elif isinstance(module, nn.Conv2d):
                weight = module.weight * scale[:, None, None, None]
                if number == 0:
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
                elif plan == "shared" or (plan == "corrected" and number == 1):
                    basis = self._basis(subnet, number, normalised, inverse_sigma, *sharing)
                    own = Averages(module.num_groups, gamma, normalised, basis, margin)
                    self.averages[len(self.steps)] = own
            elif not isinstance(module, nn.Identity):
                scale = scale * affine_scale(module, position)
            self.below[number] = len(self.steps)
        factor = full_precision(features)
        if not (subnet.tower and isinstance(subnet.tower[0], nn.Conv2d)):
            # A norm in front of the first convolution acts on the gradient channel by channel, as A does.
            factor = factor * scale[:, None, None]
        self.features = factor if self.whole else padded_rows(factor, margin)

    def _sharing(
        self, subnet: Subnet, level: str, features: Tensor, plan: str
    ) -> "tuple[Tensor, ReversedTower | None]":
        """What the bases of all GroupNorms need: products with the features, and the backward pass on whole levels."""
        arguments = subnet, level, features, self.margin, "whole", self.second_order
        whole = ReversedTower(*arguments) if plan == "shared" else None
        return level_products(subnet.tower[0].weight, features), whole

    def _basis(
        self,
        subnet: Subnet,
        number: int,
        normalised: Tensor,
        inverse_sigma: Tensor,
        products: Tensor,
        whole: "ReversedTower | None",
    ) -> Tensor:
        """What the averages of the GroupNorm at a place of the tower add to maps, (2G,Hl*Wl)."""
        groups = subnet.tower[number].num_groups
        if number == 1:
            return basis_of_first(groups, normalised, inverse_sigma, products)
        steps = whole.steps[whole.below[number - 1] : whole.below[1]]
        none = Places(*(torch.zeros(3, 0, dtype=torch.int64, device=self.device)), self.size, self.margin)
        weight = subnet.tower[number - 1].weight
        return basis_through(groups, normalised, inverse_sigma, weight, steps, none, products)

    def fold(self, places: Places, memory: int) -> None:
        """Prepare the first convolution for all detections of the level together, where that is worth it.

        Args:
            places: of all of them.
            memory: bytes that what they share may take.
        """
        if self.first is None or self.whole:
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
            (n,2M+1,2M+1) patches where no averages are taken, else (n,Hl,Wl).
        """
        gradient = _seed_patches(seeds, places.anchor)
        if self.whole:
            gradient = places.scatter(gradient)
        extra = 0.0
        for number, step in enumerate(self.steps[:-1] if self.folded else self.steps):
            if number in self.averages:
                extra = extra + self.averages[number](gradient, places)
            gradient = step(gradient, places)
        if self.whole:
            return (gradient * self.features).sum(dim=1)
        if self.folded is None:
            product = (gradient * places.gather(self.features, gradient.shape[1])).sum(dim=-1)
        else:
            if len(self.steps) - 1 in self.averages:
                extra = extra + self.averages[len(self.steps) - 1](gradient, places)
            product = self.folded(gradient, places)
        missing = (2 * self.margin + 1 - product.shape[1]) // 2
        product = F.pad(product, (missing,) * 4)
        if not self.averages:
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
        if weight.device.type == "cpu" and not self.second_order:
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
