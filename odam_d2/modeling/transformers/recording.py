"""One forward pass of a network of the library, and what it leaves behind: feature maps, queries, attention.

Shapes: N images, C channels, (Hl,Wl) level, (H,W) padded image, Q queries, T cells of an encoder's map, M heads.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from odam_d2.modeling.transformers.families import Family, selecting_module
from odam_d2.structures import Size

STAGE, PROJECTION, ENCODER = "res", "projection", "encoder"
# Side of the image that a network is asked about its layers with.
PROBE = 256


@dataclass(eq=False)
class Recording:
    """What a forward pass of a network left behind.

    Args:
        stages: the maps that the backbone hands out, fine to coarse, each (N,C,Hl,Wl).
        projections: the same, brought to the encoder's width; there may be coarser ones.
        encoded: the encoder's output, put back into the image.
        selected: the locations that became queries, (N,Q) int64; None where queries are learned.
        encoder_attention: of every layer of the encoder, (N,M,T,T); recorded where every cell attends to all.
        self_attention: of every layer of the decoder, among queries, (N,M,Q,Q).
        cross_attention: of every layer of the decoder, from queries to cells, (N,M,Q,T).
    """

    stages: list[Tensor] = field(default_factory=list)
    projections: list[Tensor] = field(default_factory=list)
    encoded: list[Tensor] = field(default_factory=list)
    selected: Tensor | None = None
    encoder_attention: list[Tensor] = field(default_factory=list)
    self_attention: list[Tensor] = field(default_factory=list)
    cross_attention: list[Tensor] = field(default_factory=list)

    def maps(self) -> list[Tensor]:
        """All feature maps, in the order of :func:`layer_strides`."""
        return [*self.stages, *self.projections, *self.encoded]


@contextmanager
def recording(
    network: nn.Module, family: Family, leaves: bool = False, attention: bool = False, selected: Tensor | None = None
) -> Iterator[Recording]:
    """Remember what a network does inside the ``with`` block; the hooks go away again, also on an error.

    Args:
        network: of the library.
        family: its own.
        leaves: the backbone runs without graph, and its maps become leaves.
        attention: remember attention, too.
        selected: locations to become the queries, (N,Q), instead of those that score best.
    """
    seen, model = Recording(), network.model
    backbone = model.get_submodule(family.backbone)
    hooks = [
        backbone.register_forward_hook(lambda module, args, output: _keep_stages(seen, output, leaves)),
        model.encoder.register_forward_hook(
            lambda module, args, output: _keep_encoded(seen, output, family.encoder_output)
        ),
    ]
    if leaves:
        hooks.append(backbone.register_forward_pre_hook(lambda module, args: _without_graph()))
    for projection in projections_of(network, family):
        hooks.append(projection.register_forward_hook(lambda module, args, output: seen.projections.append(output)))
    scoring = selecting_module(network, family)
    if scoring is not None:
        first = not family.selection
        hooks.append(
            scoring.register_forward_hook(
                lambda module, args, output: _keep_selected(seen, network, output, selected, first)
            )
        )
    if attention and family.dense:
        parts = [(layer.self_attn, seen.encoder_attention) for layer in model.encoder.layers]
        for layer in model.decoder.layers:
            parts += [(layer.self_attn, seen.self_attention), (layer.encoder_attn, seen.cross_attention)]
        hooks += [
            part.register_forward_hook(lambda module, args, output, into=into: into.append(output[1]))
            for part, into in parts
        ]
    with ExitStack() as stack, laid_out_gradients(network), _Uncut():
        for hook in hooks:
            stack.enter_context(hook)
        yield seen


class _Uncut(TorchFunctionMode):
    """Inside the ``with`` block ``detach`` leaves a tensor in its graph.

    RT-DETR, D-FINE and the two-stage forms of others cut the graph at the queries that they choose, and at each layer's
    boxes, so that training is stable. The outputs depend on what lies behind the cuts all the same, on most of the
    evidence in fact, and an explanation needs the derivative of what was computed.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        return args[0] if func is Tensor.detach else func(*args, **(kwargs or {}))


@contextmanager
def laid_out_gradients(network: nn.Module) -> Iterator[None]:
    """Make what is computed inside the ``with`` block have right gradients below batch normalisations.

    A map that was flattened into tokens has a gradient that lies cell by cell. For a batch of one, PyTorch 2.14 on a
    CPU takes it for the other layout in a batch normalisation, and computes a wrong gradient without a word; so it is
    laid out channel by channel there before it goes on.

    Args:
        network: whose batch normalisations are meant.
    """
    with ExitStack() as hooks:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                hooks.enter_context(module.register_forward_hook(_lay_out_gradient))
        yield


def projections_of(network: nn.Module, family: Family) -> list[nn.Module]:
    """What brings the backbone's stages to the encoder's width, fine to coarse."""
    found = getattr(network.model, family.projections)
    return list(found) if isinstance(found, nn.ModuleList) else [found]


def layer_strides(network: nn.Module, family: Family, text: Mapping[str, Tensor] | None = None) -> dict[str, int]:
    """Network-input pixels per cell of every layer, by name, in the order of :meth:`Recording.maps`.

    ``res3`` is the stage of stride 2**3, as in Detectron2's ResNets; ``projection`` and ``encoder`` have such numbers
    where there are several. The network runs once on an empty image.

    Args:
        network: of the library.
        family: its own.
        text: what else it takes for one image.
    """
    image = next(network.parameters()).new_zeros((1, 3, PROBE, PROBE))
    with torch.no_grad(), recording(network, family) as seen:
        network(pixel_values=image, pixel_mask=full_mask(image), **(text or {}))
    strides: dict[str, int] = {}
    for kind, maps in ((STAGE, seen.stages), (PROJECTION, seen.projections), (ENCODER, seen.encoded)):
        for one in maps:
            stride = stride_of((PROBE, PROBE), one.shape[-2:])
            several = kind == STAGE or len(maps) > 1
            strides[f"{kind}{int(math.log2(stride))}" if several else kind] = stride
    return strides


def stride_of(size: Sequence[int], cells: Sequence[int]) -> int:
    """The power of two that divides an image of some size into so many cells, the last of which may reach out of it."""
    stride = 1
    while any(-(-side // stride) > count for side, count in zip(size, cells)):
        stride *= 2
    return stride


def full_mask(images: Tensor, sizes: Sequence[Size] | None = None) -> Tensor:
    """1 on the pixels of each image, 0 on its padding, (N,H,W) int64.

    Args:
        images: (N,3,H,W).
        sizes: (h,w) of each before padding; default: no padding.
    """
    mask = torch.zeros(images.shape[0], *images.shape[2:], dtype=torch.int64, device=images.device)
    for own, (height, width) in zip(mask, sizes or [images.shape[2:]] * len(mask)):
        own[:height, :width] = 1
    return mask


def _lay_out_gradient(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
    if output.requires_grad:
        output.register_hook(lambda gradient: gradient.contiguous())


def _without_graph() -> None:
    torch.set_grad_enabled(False)


def _keep_stages(seen: Recording, output: list[tuple[Tensor, Tensor]], leaves: bool) -> list[tuple[Tensor, Tensor]]:
    if leaves:
        torch.set_grad_enabled(True)
        # They have no graph: the backbone ran without.
        output = [(one.requires_grad_(), mask) for one, mask in output]
    seen.stages = [one for one, _ in output]
    return output


def _keep_encoded(seen: Recording, output: Any, name: str) -> Any:
    """Put the encoder's output back into the image, and let the decoder read it from there."""
    last = getattr(output, name)
    if isinstance(last, (list, tuple)):
        seen.encoded = list(last)
        return output
    shapes = [one.shape[-2:] for one in seen.projections]
    parts = last.split([height * width for height, width in shapes], dim=1)
    seen.encoded = [part.transpose(1, 2).unflatten(2, tuple(shape)) for part, shape in zip(parts, shapes)]
    setattr(output, name, torch.cat([one.flatten(2).transpose(1, 2) for one in seen.encoded], dim=1))
    return output


def _keep_selected(
    seen: Recording, network: nn.Module, scores: Tensor, selected: Tensor | None, first: bool
) -> Tensor | None:
    """Which locations become queries: those that score best, as in the library's own line, or given ones.

    Args:
        seen: grows.
        network: of the library.
        scores: of all locations, (N,L,K).
        selected: given ones.
        first: Deformable DETR looks at the first class, the others at the best.
    """
    if seen.selected is not None:
        # The same module may serve a layer of the decoder.
        return None
    if selected is None:
        ranked = scores[..., 0] if first else scores.amax(dim=-1)
        seen.selected = ranked.topk(count_queries(network), dim=1).indices
        return None
    seen.selected = selected
    # The scores decide who becomes a query, and in which order, and nothing else outside training.
    # In full precision: half of it cannot count to 300.
    order = torch.arange(selected.shape[1], 0, -1, device=scores.device, dtype=torch.float32)
    ranked = torch.zeros(scores.shape[:2], device=scores.device).scatter(1, selected, order.expand_as(selected))
    return ranked[..., None].expand_as(scores)


def count_queries(network: nn.Module) -> int:
    """Q."""
    config = network.config
    return getattr(config, "two_stage_num_proposals", 0) * getattr(config, "two_stage", False) or config.num_queries
