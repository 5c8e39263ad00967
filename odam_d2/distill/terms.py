"""Attention, masks and terms of FGD as functions of tensors; ODAM-KD is made of the same ones.

Shapes: N images, C channels, (Hl,Wl) level, G boxes. Boxes are XYXY in network-input pixels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from odam_d2.structures import Size, full_precision


def spatial_softmax(maps: Tensor, temperature: float = 1.0) -> Tensor:
    """``Hl Wl softmax(map / temperature)`` over all cells of each map, whose mean is 1; of a constant map 1.

    Args:
        maps: (N,Hl,Wl).
        temperature: T, more than 0.
    """
    cells = maps.shape[1] * maps.shape[2]
    return cells * (maps / temperature).flatten(1).softmax(dim=1).reshape(maps.shape)


def spatial_attention(features: Tensor, temperature: float) -> Tensor:
    """S of FGD, M_bu of ODAM-KD: ``Hl Wl softmax(mean_c |F| / T)``, (N,C,Hl,Wl) -> (N,Hl,Wl).

    Padding takes part, as published.

    Args:
        features: F.
        temperature: T; section 5.1 of ODAM's paper writes none, its baseline has one.
    """
    return spatial_softmax(features.abs().mean(dim=1), temperature)


def channel_attention(features: Tensor, temperature: float) -> Tensor:
    """C of FGD: ``C softmax(mean_hw |F| / T)``, (N,C,Hl,Wl) -> (N,C).

    Args:
        features: F.
        temperature: T.
    """
    return features.shape[1] * (features.abs().mean(dim=(2, 3)) / temperature).softmax(dim=1)


def foreground_mask(boxes: Sequence[Tensor], image_sizes: Sequence[Size], stride: int, level_size: Size) -> Tensor:
    """N of section 5.1 inside objects: each box spreads 1 over its cells, and the largest share counts where they meet.

    A box covers the cells from ``floor(x1 / stride)`` to ``ceil(x2 / stride)``, both included, and likewise in y. Its
    share is 1 over the number of these, as published: a column that lies beyond the level's border is counted too.
    Boxes are cut at the image's borders first; of those outside nothing is left.

    Cells are found by the level's stride. The published code stretches the unpadded image over the padded map instead,
    which shifts boxes wherever there is padding.

    Args:
        boxes: of each image, (G,4).
        image_sizes: (h,w) of each image before padding.
        stride: network-input pixels per cell.
        level_size: (Hl,Wl).

    Returns:
        (N,Hl,Wl), in [0,1], 0 outside all boxes.
    """
    masks = [_foreground_of_image(of_image, size, stride, level_size) for of_image, size in zip(boxes, image_sizes)]
    return torch.stack(masks)


def _foreground_of_image(boxes: Tensor, image_size: Size, stride: int, level_size: Size) -> Tensor:
    """(G,4) -> (Hl,Wl)."""
    boxes = full_precision(boxes.detach())
    if len(boxes) == 0:
        return boxes.new_zeros(level_size)
    height, width = image_size
    boxes = boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))
    first, last = (boxes[:, :2] / stride).floor(), (boxes[:, 2:] / stride).ceil()
    inside = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    share = inside / (last - first + 1).prod(dim=1)
    y, x = (torch.arange(side, device=boxes.device) for side in level_size)
    rows = (y >= first[:, 1:]) & (y <= last[:, 1:])
    columns = (x >= first[:, :1]) & (x <= last[:, :1])
    return (share[:, None, None] * rows[:, :, None] * columns[:, None, :]).amax(dim=0)


def background_mask(foreground: Tensor) -> Tensor:
    """N outside objects: 1 over the number of cells where the foreground mask is 0, at these; 0 elsewhere.

    Padding is background, as published. An image without background has the mask 0.

    Args:
        foreground: mask of all objects, (N,Hl,Wl).
    """
    outside = (foreground == 0).to(foreground.dtype)
    return outside / outside.sum(dim=(1, 2), keepdim=True).clamp(min=1)


def squared_error(student: Tensor, teacher: Tensor, channel: Tensor | None = None) -> Tensor:
    """Squared difference at every cell, summed over channels, (N,C,Hl,Wl) twice -> (N,Hl,Wl).

    Args:
        student: its maps.
        teacher: its maps.
        channel: weight of each channel, (N,C); None: equation (7) as it is written, all channels alike.
    """
    error = (student - teacher).square()
    return error.sum(dim=1) if channel is None else torch.einsum("nchw,nc->nhw", error, channel)


def masked_term(error: Tensor, attention: Tensor, mask: Tensor) -> Tensor:
    """Equation (7) of a batch: ``sum_ij N_ij M_ij error_ij``, divided by the number of images.

    Args:
        error: (N,Hl,Wl).
        attention: M, (N,Hl,Wl).
        mask: N, (N,Hl,Wl).
    """
    return (mask * attention * error).sum() / len(error)


def attention_term(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> Tensor:
    """``sum |S_s - S_t| / N + sum |C_s - C_t| / N``.

    Args:
        student: its spatial (N,Hl,Wl) and channel attention (N,C).
        teacher: likewise.
    """
    spatial, channel = ((a - b).abs().sum() / len(a) for a, b in zip(student, teacher))
    return spatial + channel


def relation_term(student: Tensor, teacher: Tensor) -> Tensor:
    """Sum-squared difference of what the context blocks put out, divided by the number of images.

    Args:
        student: (N,C,Hl,Wl).
        teacher: likewise.
    """
    return (student - teacher).square().sum() / len(student)
