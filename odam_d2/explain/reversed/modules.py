"""What the reversed head must know about modules: which of them it can run backward, and with what factors.

Shapes: C channels, G groups, (Hl,Wl) level.
"""

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from odam_d2.structures import Subnet


def constant_subnet(subnet: Subnet) -> Subnet:
    """The same subnet, by whose weights and whose forward pass nothing can be differentiated."""
    return replace(
        subnet,
        tower=tuple(map(_constant, subnet.tower)),
        seen={level: tuple(x.detach() for x in outputs) for level, outputs in subnet.seen.items()},
        predictors=tuple((_constant(conv), values) for conv, values in subnet.predictors),
    )


def _constant(module: nn.Module) -> nn.Module:
    """A module of the same tensors, detached; the module itself is left alone."""
    twin = copy.copy(module)
    twin._parameters = {name: None if p is None else p.detach() for name, p in module._parameters.items()}
    twin._modules = {name: None if m is None else _constant(m) for name, m in module._modules.items()}
    return twin


def check_reversible(subnet: Subnet) -> None:
    """Refuse a subnet with a module that the reversed head does not know.

    Raises:
        ValueError: names the module and says what is wrong with it.
    """
    for number, module in enumerate(subnet.tower):
        _check(f"module {number} of a subnet", module, _refusal(module, len(subnet.seen)))
    for conv, _ in subnet.predictors:
        _check("the last convolution", conv, _conv_refusal(conv) if isinstance(conv, nn.Conv2d) else "is no Conv2d")


def _check(place: str, module: nn.Module, refusal: str | None) -> None:
    if refusal:
        raise ValueError(f"this head cannot be run in reverse: {place}, {module}, {refusal}; use path='exact'")


def _refusal(module: nn.Module, levels: int) -> str | None:
    if isinstance(module, nn.Conv2d):
        return _conv_refusal(module)
    if isinstance(module, (nn.ReLU, nn.Identity, nn.GroupNorm)):
        return None
    norms = [_batch_norm(module, level) for level in range(levels)]
    if None in norms:
        return "is none of Conv2d, ReLU, GroupNorm, BatchNorm2d and FrozenBatchNorm2d"
    if any(norm.training for norm in norms if isinstance(norm, nn.modules.batchnorm._BatchNorm)):
        return "is in training mode, in which its gradient is not local"
    return None


def _conv_refusal(conv: nn.Conv2d) -> str | None:
    side = conv.kernel_size[0]
    # Detectron2's Conv2d can carry both.
    if getattr(conv, "norm", None) is not None or getattr(conv, "activation", None) is not None:
        return "hides a norm or an activation inside"
    if conv.kernel_size != (side, side) or side % 2 == 0:
        return "must have a square kernel of odd side"
    if conv.stride != (1, 1) or conv.dilation != (1, 1) or conv.groups != 1:
        return "must have stride, dilation and groups of 1"
    if conv.padding != (side // 2, side // 2) or conv.padding_mode != "zeros":
        return "must keep the size by padding with zeros"
    return None


def _batch_norm(module: nn.Module, level: int) -> nn.Module | None:
    """The batch normalisation that acts on a level by its running statistics; None if the module is not one."""
    if type(module).__name__ == "CycleBatchNormList":  # Detectron2's: every level has statistics of its own
        return module[level]
    frozen = type(module).__name__ == "FrozenBatchNorm2d"  # Detectron2's or torchvision's
    usual = isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)) and module.track_running_stats
    return module if frozen or usual else None


def affine_scale(module: nn.Module, level: int) -> Tensor:
    """The factor (C,) by which a batch normalisation multiplies gradients: gamma / sigma.

    Args:
        module: a norm that :func:`check_reversible` accepted, not a GroupNorm.
        level: position of the level among the head's.
    """
    norm = _batch_norm(module, level)
    scale = (norm.running_var + norm.eps).rsqrt()
    for weight in {id(m): getattr(m, "weight", None) for m in (norm, module)}.values():
        if weight is not None:
            scale = scale * weight
    return scale


def group_statistics(norm: nn.GroupNorm, x: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised input and 1 / sigma of a GroupNorm, both as it sees them.

    Args:
        norm: the module.
        x: its input, (1,C,Hl,Wl).

    Returns:
        (1,C,Hl,Wl) without gamma and beta, and (C,).
    """
    _, channels, height, width = x.shape
    # The operator behind nn.GroupNorm: it returns the statistics it used, and is faster than torch.var_mean.
    normalised, _, inverse = torch.native_group_norm(
        x.contiguous(), None, None, 1, channels, height * width, norm.num_groups, norm.eps
    )
    return normalised, inverse[0].repeat_interleave(channels // norm.num_groups)


def tower_radius(subnet: Subnet) -> int:
    """Cells from a detection's location to the edge of its receptive field in the subnet's input."""
    convolutions = [m for m in subnet.tower if isinstance(m, nn.Conv2d)]
    return sum(c.kernel_size[0] // 2 for c in convolutions) + max(c.kernel_size[0] // 2 for c, _ in subnet.predictors)


def has_convolutions_below_norms(subnet: Subnet) -> bool:
    """Whether every GroupNorm of a subnet follows a convolution, as it does in Detectron2's heads."""
    pairs = zip((None, *subnet.tower), subnet.tower)
    return all(isinstance(before, nn.Conv2d) for before, module in pairs if isinstance(module, nn.GroupNorm)) and (
        not subnet.tower or isinstance(subnet.tower[0], nn.Conv2d)
    )


def is_worth_sharing(subnet: Subnet, cells: int, count: int) -> bool:
    """Whether the averages of all GroupNorms, shared by the detections of a level, cost less than whole levels.

    Counted in cells that go through a convolution of the tower.

    Args:
        subnet: of a dense head.
        cells: of the level.
        count: of detections on it.
    """
    if not has_convolutions_below_norms(subnet):
        return False
    convolutions, shared, patch, side = 0, 0, 0, 3
    for module in subnet.tower:
        if isinstance(module, nn.Conv2d):
            convolutions += 1
        elif isinstance(module, nn.GroupNorm):
            # Two fields a group pass the layers below, but for the convolution right below, which is grouped, and the
            # first one, which is folded; both cost about as much as a few cells do.
            shared += 4 + 2 * module.num_groups * max(0, convolutions - 2)
    for _ in range(convolutions):
        patch, side = patch + side**2, side + 2
    return shared * cells + count * patch < count * convolutions * cells
