"""The image towers of CLIP and the feature maps inside them.

Shapes: C channels, (gh,gw) patches, (Hl,Wl) layer.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Layer:
    """Where a tower can be explained.

    Args:
        module: whose output it is.
        stride: network-input pixels per cell.
        grid: (gh,gw) of the patches where the output is a list of tokens, the class token first; None where it is a
            map.
        batch_first: whether tokens come as (1,T,C); else as (T,1,C).
    """

    module: nn.Module
    stride: int
    grid: tuple[int, int] | None = None
    batch_first: bool = True


def tower_layers(tower: nn.Module) -> dict[str, Layer]:
    """The layers of an image tower by name, from the image on.

    Args:
        tower: a ResNet has ``res2`` to ``res5``, a vision transformer ``block1``, ``block2``, ... After the last block
            a class token alone is read, where that is how the tower pools: the patches of this block are then no layer,
            for nothing depends on them.

    Raises:
        ValueError: a tower of another kind.
    """
    kind = type(tower).__name__
    if kind == "ModifiedResNet":
        return {f"res{i + 1}": Layer(getattr(tower, f"layer{i}"), 2 ** (i + 1)) for i in range(1, 5)}
    if kind == "VisionTransformer":
        height, width = tower.patch_size
        if height != width:
            raise ValueError(f"the image tower has patches of {height} x {width} pixels; they must be square")
        blocks = list(tower.transformer.resblocks)
        if tower.attn_pool is None and tower.pool_type == "tok":
            blocks = blocks[:-1]
        grid, first = tuple(tower.grid_size), tower.transformer.batch_first
        return {f"block{i + 1}": Layer(block, height, grid, first) for i, block in enumerate(blocks)}
    raise ValueError(
        f"an image tower of kind {kind} cannot be explained; those of OpenCLIP's ResNets (RN50x4) and of its vision "
        "transformers (ViT-B-32) can"
    )


@contextmanager
def kept_maps(layers: dict[str, Layer], names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Remember some layers of a tower inside the ``with`` block; the hooks go away again, also on an error.

    Args:
        layers: of the tower.
        names: of those to remember.

    Yields:
        name -> (1,C,Hl,Wl) with graph, filled by the tower's next run.
    """
    kept: dict[str, Tensor] = {}
    hooks = [layers[name].module.register_forward_hook(partial(_keep, kept, name, layers[name])) for name in names]
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()


def _keep(kept: dict[str, Tensor], name: str, layer: Layer, module: nn.Module, args: object, output: Tensor) -> Tensor:
    if layer.grid is None:
        kept[name] = output
        return output
    # Put into the image, and read on from there: what is no part of the graph has no gradient.
    tokens = output if layer.batch_first else output.transpose(0, 1)
    kept[name] = tokens[:, 1:].transpose(1, 2).unflatten(2, layer.grid)
    tokens = torch.cat([tokens[:, :1], kept[name].flatten(2).transpose(1, 2)], dim=1)
    return tokens if layer.batch_first else tokens.transpose(0, 1)
