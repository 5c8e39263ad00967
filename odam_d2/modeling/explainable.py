"""What every detector needs to be traced: leaves for the gradients, and a model left as it was found.

Shapes: N images, C channels, (Hl,Wl) level, (H,W) padded network input.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.layers.mask_ops import _do_paste_mask
from detectron2.modeling import Backbone
from detectron2.structures import Instances
from torch import Tensor, nn

from odam_d2.structures import Trace

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


class Tracing(nn.Module):
    """What every traceable detector offers; subclasses write :meth:`trace_batch`."""

    def trace(
        self, batched_input: dict, layers: Sequence[str] = ("fpn",), keep: Keep | None = None
    ) -> tuple[Instances, Trace]:
        """Detect objects in one image and remember what explaining them needs.

        Args:
            batched_input: ``image`` (3,h,w), ``height``, ``width`` as Detectron2's models take them.
            layers: layers to explain at: ``fpn``, a bottom-up stage such as ``res4``, ``roi_pool`` of two-stage
                detectors.
            keep: picks the detections to trace; default all.

        Returns:
            the detections as the model itself returns them, and their trace.

        Raises:
            ValueError: an unknown layer, or a detector that cannot be traced.
        """
        (traced,) = self.trace_batch([batched_input], layers, keep)
        return traced

    def trace_batch(
        self, batched_inputs: Sequence[dict], layers: Sequence[str] = ("fpn",), keep: Keep | None = None
    ) -> list[tuple[Instances, Trace]]:
        """:meth:`trace` for several images, of different size too, in one forward pass.

        Images are padded to a common size, as Detectron2 does it: a large neighbour can change an image's scores a
        little through the padding.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot be traced")


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


@dataclass(frozen=True)
class ImageFeatures:
    """Feature maps of one image of a batch, each (1,C,Hl,Wl).

    Args:
        outputs: what the backbone returns, by name, differentiable.
        stages: the bottom-up stages that were asked for, by name.
    """

    outputs: dict[str, Tensor]
    stages: dict[str, Tensor]


def leaf_features(
    backbone: Backbone, images: Tensor, layers: Sequence[str]
) -> tuple[list[ImageFeatures], dict[str, int]]:
    """A forward pass of the backbone that leaves differentiable feature maps behind, of each image its own.

    Without bottom-up stages among ``layers`` the backbone's outputs are leaves and nothing below them is recorded;
    with them, the whole backbone is recorded, because a stage acts on the detections through the stages above it too,
    and run for each image by itself, because a graph cannot be cut into images afterwards.

    Args:
        backbone: the detector's backbone.
        images: (N,3,H,W).
        layers: layers to explain at.

    Returns:
        the features of every image, and the stride of each map by name.
    """
    strides = {name: shape.stride for name, shape in backbone.output_shape().items()}
    wanted = [layer for layer in layers if layer not in ("fpn", "roi_pool") and layer not in strides]
    if not wanted:
        with torch.no_grad():
            outputs = backbone(images)
        rows = range(len(images))
        leaves = [{name: x[i : i + 1].detach().requires_grad_() for name, x in outputs.items()} for i in rows]
        return [ImageFeatures(own, {}) for own in leaves], strides
    features = []
    for image in images:
        stages: dict[str, Tensor] = {}
        hook = backbone.bottom_up.register_forward_hook(lambda module, args, output, into=stages: into.update(output))
        try:
            # The image requires a gradient so that a graph is recorded even where all weights are frozen.
            outputs = backbone(image[None].detach().requires_grad_())
        finally:
            hook.remove()
        features.append(ImageFeatures(outputs, {name: stages[name] for name in wanted}))
    strides |= {name: shape.stride for name, shape in backbone.bottom_up.output_shape().items() if name in wanted}
    return features, strides


def join(features: Sequence[ImageFeatures], name: str) -> Tensor:
    """A feature map of all images of a batch, connected to each image's own, (N,C,Hl,Wl)."""
    maps = [own.outputs[name] for own in features]
    return maps[0] if len(maps) == 1 else torch.cat(maps)


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
