"""What every detector needs to be traced: leaves for the gradients, and a model left as it was found.

Shapes: N images, C channels, (Hl,Wl) level, (H,W) padded network input.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.layers.mask_ops import _do_paste_mask
from detectron2.modeling import Backbone
from detectron2.structures import Instances
from torch import Tensor, nn

# Picks the detections to trace among those the detector returned: instances -> (D,) int64 indices.
Keep = Callable[[Instances], Tensor]


@contextmanager
def inference_with_graph(model: nn.Module) -> Iterator[None]:
    """Evaluation mode with autograd on, whatever the caller's modes are; both are restored, also on an error.

    Raises:
        ValueError: called under ``torch.inference_mode``, where no graph can be recorded.
    """
    if torch.is_inference_mode_enabled():
        raise ValueError("explanations need gradients: call outside torch.inference_mode()")
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.enable_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def stage_names(backbone: Backbone) -> list[str]:
    """Names of the backbone's bottom-up stages, fine to coarse; of its outputs where it has no pyramid."""
    bottom_up = getattr(backbone, "bottom_up", None)
    return list((bottom_up if isinstance(bottom_up, Backbone) else backbone).output_shape())


def check_layers(layers: Sequence[str], valid: Sequence[str]) -> None:
    """Refuse a layer the detector does not have.

    Raises:
        ValueError: lists the valid layers.
    """
    for layer in layers:
        if layer not in valid:
            raise ValueError(f"unknown feature layer {layer!r}; this detector's layers are {', '.join(valid)}")


def leaf_features(backbone: Backbone, images: Tensor, layers: Sequence[str]) -> tuple[dict, dict, dict]:
    """One forward pass of the backbone that leaves differentiable feature maps behind.

    Without bottom-up stages among ``layers`` the backbone's outputs are leaves and nothing below them is recorded;
    with them, the whole backbone is recorded, because a stage acts on the detections through the stages above it too.

    Args:
        backbone: the detector's backbone.
        images: (1,3,H,W).
        layers: layers to explain at.

    Returns:
        the backbone's outputs, the bottom-up stages asked for, and the stride of each of either, by name.
    """
    strides = {name: shape.stride for name, shape in backbone.output_shape().items()}
    wanted = [layer for layer in layers if layer not in ("fpn", "roi_pool") and layer not in strides]
    if not wanted:
        with torch.no_grad():
            outputs = backbone(images)
        return {name: x.detach().requires_grad_() for name, x in outputs.items()}, {}, strides
    stages: dict[str, Tensor] = {}
    hook = backbone.bottom_up.register_forward_hook(lambda module, args, output: stages.update(output))
    try:
        # The image requires a gradient so that a graph is recorded even where all weights are frozen.
        outputs = backbone(images.detach().requires_grad_())
    finally:
        hook.remove()
    strides |= {name: shape.stride for name, shape in backbone.bottom_up.output_shape().items() if name in wanted}
    return outputs, {name: stages[name] for name in wanted}, strides


@contextmanager
def record_outputs(modules: Sequence[nn.Module]) -> Iterator[Callable[[int, int], Tensor]]:
    """Remember what modules return while a head runs; the hooks go away again, also on an error.

    Args:
        modules: in the order in which the head calls them for each level; one may stand there several times.

    Yields:
        (position in ``modules``, number of the level) -> output.
    """
    seen: dict[nn.Module, list[Tensor]] = {module: [] for module in modules}
    hooks = [m.register_forward_hook(lambda module, args, output: seen[module].append(output)) for m in seen]

    def output(position: int, level: int) -> Tensor:
        module = modules[position]
        return seen[module][level * modules.count(module) + modules[:position].count(module)]

    try:
        yield output
    finally:
        for hook in hooks:
            hook.remove()


def take_fields(instances: Instances, names: Sequence[str]) -> dict[str, Any]:
    """Remove bookkeeping fields from instances and return them."""
    fields = {name: instances.get(name) for name in names}
    for name in names:
        instances.remove(name)
    return fields


def paste_regions(maps: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """Put region maps back at their boxes, bilinearly, with Detectron2's mask-pasting operator.

    Args:
        maps: (n,P,P).
        boxes: (n,4), in pixels of the target.
        height: of the target.
        width: of the target.

    Returns:
        (n,height,width), zero outside the boxes.
    """
    if len(maps) == 0:
        return maps.new_zeros((0, height, width))
    pasted, _ = _do_paste_mask(maps[:, None], boxes, height, width, skip_empty=False)
    return pasted
