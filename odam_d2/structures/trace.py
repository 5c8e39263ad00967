"""What a detector remembers of one image: :class:`Trace`.

Shapes: D detections, R regions, C channels, (Hl,Wl) level or layer, P side of a pooled region, (H,W) padded network
input, (h,w) network input before padding, (ho,wo) image as the user sees it. Boxes are XYXY in network-input pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

Size = tuple[int, int]
# (maps (n,P,P), boxes (n,4), height, width) -> (n,height,width): puts region maps back at their boxes.
Paste = Callable[[Tensor, Tensor, int, int], Tensor]


@dataclass(frozen=True, eq=False)
class RoIs:
    """The pooled regions behind the detections of a two-stage detector.

    Args:
        features: one (R,C,P,P) tensor for each stage of the box head, with graph; the last is the layer ``roi_pool``.
        rows: the pooled region of each detection, (D,) int64; detections of several classes can share one.
        boxes: what the last stage pooled for each detection, (D,4).
        paste: puts maps of regions back into an image; Detectron2's own mask-pasting operator.
    """

    features: tuple[Tensor, ...]
    rows: Tensor
    boxes: Tensor
    paste: Paste


@dataclass(frozen=True, eq=False)
class Subnet:
    """One subnet of a dense head, and what its forward pass saw: enough to run it backward patch by patch.

    Args:
        tower: the modules before the predictors, in order; all levels share them.
        seen: level name -> the output of every module of the tower, each (1,C,Hl,Wl), levels in the head's order.
        predictors: the final convolutions, each with its raw values at the detections' anchors, (D,V) with graph.
            Output channel ``a * V + v`` is value v of anchor a.
    """

    tower: tuple[nn.Module, ...]
    seen: Mapping[str, tuple[Tensor, ...]]
    predictors: tuple[tuple[nn.Conv2d, Tensor], ...]


@dataclass(frozen=True, eq=False)
class Trace:
    """Everything an explanation needs of one image, with the autograd graph from features to outputs.

    Args:
        boxes: detected boxes, (D,4), clipped to the image as the detector returns them.
        scores: detection scores, (D,), descending.
        classes: class indices, (D,) int64.
        outputs: differentiable outputs by name, each (D,): ``class_score``, ``class_logit`` and the decoded,
            unclipped sides ``x1 y1 x2 y2`` in pixels, signed outwards (-x1, -y1, +x2, +y2).
        features: feature map by name, each (1,C,Hl,Wl), with graph: the maps the head reads (``p3`` ...) and the
            bottom-up stages (``res3`` ...) that were asked for.
        strides: network-input pixels per cell of every feature map.
        levels: for each detection the name of the feature map it comes from.
        index: for each detection its flat position ``(y * Wl + x) * A + a`` in that level, or its proposal, (D,).
        image_size: (h,w).
        padded_size: (H,W).
        output_size: (ho,wo).
        rois: the pooled regions of a two-stage detector.
        subnets: the subnets of a dense detector's head.
        pixels: the network input before padding and normalisation, (3,h,w), wherever it came
            from; only what explains a black box looks at it.

    Raises:
        ValueError: the parts disagree on the number of detections.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    outputs: Mapping[str, Tensor]
    features: Mapping[str, Tensor]
    strides: Mapping[str, int]
    levels: Sequence[str]
    index: Tensor
    image_size: Size
    padded_size: Size
    output_size: Size
    rois: RoIs | None = None
    subnets: tuple[Subnet, ...] = ()
    pixels: Tensor | None = None

    def __post_init__(self) -> None:
        lengths = {"boxes": len(self.boxes), "scores": len(self.scores), "classes": len(self.classes)}
        lengths |= {"levels": len(self.levels), "index": len(self.index)}
        lengths |= {name: len(output) for name, output in self.outputs.items()}
        if self.rois is not None:
            lengths |= {"rois.boxes": len(self.rois.boxes), "rois.rows": len(self.rois.rows)}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the parts of a trace differ in their number of detections: {lengths}")

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers this trace can be explained at."""
        stages = sorted(name for name in self.features if name.startswith("res"))
        return (*stages, "fpn", *(("roi_pool",) if self.rois is not None else ()))
