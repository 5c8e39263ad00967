"""Feature maps that gradients can be taken by, and what modules return while a detector runs.

Shapes: N images, C channels, (Hl,Wl) level, (H,W) padded network input.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from detectron2.layers.mask_ops import _do_paste_mask
from detectron2.modeling import Backbone
from torch import Tensor, nn

# (position among the watched modules, number of the level) -> output for all images of the batch.
Seen = Callable[[int, int], Tensor]
# Layers that are no stage of the backbone.
HEAD_LAYERS = ("fpn", "roi_pool")


def stage_names(backbone: Backbone) -> list[str]:
    """Names of the backbone's bottom-up stages, fine to coarse; of its outputs where it has no pyramid."""
    bottom_up = getattr(backbone, "bottom_up", None)
    return list((bottom_up if isinstance(bottom_up, Backbone) else backbone).output_shape())


@dataclass(frozen=True)
class ImageFeatures:
    """Feature maps of one image of a batch, each (1,C,Hl,Wl).

    Args:
        outputs: what the backbone returns, by name.
        stages: the bottom-up stages that were asked for, by name.
        strides: of all of them, by name.
        batch: where they are slices of maps that a head read for a whole batch: those, by name, and the image's number.
    """

    outputs: dict[str, Tensor]
    stages: dict[str, Tensor]
    strides: dict[str, int]
    batch: tuple[dict[str, Tensor], int] | None = None

    @classmethod
    def of_batch(cls, outputs: dict[str, Tensor], strides: dict[str, int]) -> "list[ImageFeatures]":
        """Each image's part of maps (N,C,Hl,Wl) that are what they are, with or without graph."""
        count = len(next(iter(outputs.values())))
        return [
            cls({name: x[i : i + 1] for name, x in outputs.items()}, {}, strides, (outputs, i)) for i in range(count)
        ]


def output_strides(backbone: Backbone) -> dict[str, int]:
    """Network-input pixels per cell of everything the backbone returns."""
    return {name: shape.stride for name, shape in backbone.output_shape().items()}


def observe_features(backbone: Backbone, images: Tensor, layers: Sequence[str]) -> list[ImageFeatures]:
    """A forward pass of the backbone that leaves feature maps behind, of each image its own.

    Without layers nothing is recorded. Without bottom-up stages among them the backbone's outputs are leaves and
    nothing below them is recorded, unless gradients by the pixels are wanted. With them, the whole backbone is
    recorded, because a stage acts on the detections through the stages above it too, and run for each image by itself,
    because a graph cannot be cut into images afterwards.

    Args:
        backbone: the detector's backbone.
        images: (N,3,H,W); if they require a gradient, the backbone is recorded down to them.
        layers: layers to explain at.

    Returns:
        the features of every image.
    """
    strides = output_strides(backbone)
    wanted = [layer for layer in layers if layer not in HEAD_LAYERS and layer not in strides]
    from_pixels = bool(layers) and images.requires_grad
    if not wanted:
        with torch.set_grad_enabled(from_pixels):
            outputs = backbone(images)
        if not layers or from_pixels:
            return ImageFeatures.of_batch(outputs, strides)
        rows = range(len(images))
        leaves = [{name: x[i : i + 1].detach().requires_grad_() for name, x in outputs.items()} for i in rows]
        return [ImageFeatures(own, {}, strides) for own in leaves]
    strides |= {name: shape.stride for name, shape in backbone.bottom_up.output_shape().items() if name in wanted}
    features = []
    for image in images:
        stages: dict[str, Tensor] = {}
        hook = backbone.bottom_up.register_forward_hook(lambda module, args, output, into=stages: into.update(output))
        try:
            # The image requires a gradient so that a graph is recorded even where all weights are frozen.
            outputs = backbone(image[None] if from_pixels else image[None].detach().requires_grad_())
        finally:
            hook.remove()
        features.append(ImageFeatures(outputs, {name: stages[name] for name in wanted}, strides))
    return features


def join(features: Sequence[ImageFeatures], name: str) -> Tensor:
    """A feature map of all images of a batch, connected to each image's own, (N,C,Hl,Wl)."""
    if features[0].batch is not None:
        return features[0].batch[0][name]
    maps = [own.outputs[name] for own in features]
    return maps[0] if len(maps) == 1 else torch.cat(maps)


@contextmanager
def record_outputs(modules: Sequence[nn.Module]) -> Iterator[Seen]:
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


def paste_regions(maps: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """Put region maps back at their boxes, bilinearly, with Detectron2's mask-pasting operator.

    Args:
        maps: (n,P,P).
        boxes: (n,4), in pixels of the target.
        height: of the target.
        width: of the target.

    Returns:
        (n,height,width), zero outside the boxes; all zero where a box is empty, as those of a cascade can become.
    """
    if len(maps) == 0:
        return maps.new_zeros((0, height, width))
    # The operator divides by the boxes' sides.
    covers = (boxes[:, 2:] > boxes[:, :2]).all(dim=1, keepdim=True)
    boxes = torch.where(covers, boxes, boxes.new_tensor([0, 0, 1, 1]))
    maps = maps * covers[..., None]
    pasted, _ = _do_paste_mask(maps[:, None], boxes, height, width, skip_empty=False)
    return pasted
