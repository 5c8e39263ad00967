"""What a detector remembers of some of its predictions in one image: :class:`Trace`.

A *place* is where a detector predicts: a dense one at every (location, anchor), numbered over all levels; a two-stage
one at its regions; a transformer at its queries. A prediction is a place and a class.

Shapes: D predictions, K classes, R regions, S stages of a box head, C channels, (Hl,Wl) level or layer, P side of a
pooled region, (H,W) padded network input, (h,w) network input before padding, (ho,wo) image as the user sees it. Boxes
are XYXY in network-input pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from odam_d2.structures.attention import Attention

Size = tuple[int, int]
# (class probability (D,), objectness (D,) or None) -> what a detector ranks predictions by, (D,).
RankBy = Callable[[Tensor, Tensor | None], Tensor]
# (maps (n,P,P), boxes (n,4), height, width) -> (n,height,width): puts region maps back at their boxes.
Paste = Callable[[Tensor, Tensor, int, int], Tensor]


def by_probability(probability: Tensor, objectness: Tensor | None) -> Tensor:
    """The score of most detectors: the probability of the class."""
    return probability


@dataclass(frozen=True, eq=False, repr=False)
class Regions:
    """The pooled regions behind the predictions of a two-stage detector.

    Args:
        features: one (R,C,P,P) tensor for each stage of the box head, with graph; the last is the layer ``roi_pool``.
        rows: the pooled region of each prediction, (D,) int64; predictions of several classes can share one.
        stage_boxes: what every stage pooled for each prediction, (D,S,4).
        paste: puts maps of regions back into an image; Detectron2's own mask-pasting operator.
    """

    features: tuple[Tensor, ...]
    rows: Tensor
    stage_boxes: Tensor
    paste: Paste

    def __repr__(self) -> str:
        pooled = ", ".join(str(tuple(x.shape)) for x in self.features)
        return f"Regions({len(self.rows)} predictions, pooled {pooled})"

    @property
    def boxes(self) -> Tensor:
        """What the last stage pooled for each prediction, (D,4)."""
        return self.stage_boxes[:, -1]


@dataclass(frozen=True, eq=False, repr=False)
class Subnet:
    """One subnet of a dense head, and what its forward pass saw: enough to run it backward patch by patch.

    Args:
        tower: the modules before the predictors, in order; all levels share them.
        seen: level name -> the output of every module of the tower, each (1,C,Hl,Wl), levels in the head's order.
        predictors: the final convolutions, each with its raw values at the predictions' anchors, (D,V) with graph.
            Output channel ``a * V + v`` is value v of anchor a.
    """

    tower: tuple[nn.Module, ...]
    seen: Mapping[str, tuple[Tensor, ...]]
    predictors: tuple[tuple[nn.Conv2d, Tensor], ...]

    def __repr__(self) -> str:
        outputs = ", ".join(str(conv.out_channels) for conv, _ in self.predictors)
        return f"Subnet({len(self.tower)} modules, levels {', '.join(self.seen)}, predictors of {outputs} channels)"


@dataclass(frozen=True, eq=False, repr=False)
class Trace:
    """Everything an explanation needs of one image, with the autograd graph from features to outputs.

    Args:
        places: where the detector made each prediction, (D,) int64.
        classes: class of each, (D,) int64; any class may be asked about.
        boxes: decoded, not clipped, with graph, (D,4).
        logits: of all classes but background, with graph, (D,K).
        class_vectors: probabilities of all classes but background, with graph, (D,K).
        features: feature map by name, each (1,C,Hl,Wl), with graph: the maps that the head reads, fine to coarse
            (``p3`` ...), and the bottom-up stages that were asked for.
        strides: network-input pixels per cell of every feature map.
        levels: for each prediction the name of the feature map it comes from.
        layers: names of the layers it can be explained at.
        image_size: (h,w).
        padded_size: (H,W).
        output_size: (ho,wo).
        objectness: of a detector that has one apart from its classes, such as the centerness of FCOS, with graph, (D,).
        rank_by: what the detector ranks by.
        regions: the pooled regions of a two-stage detector.
        subnets: the subnets of a dense detector's head.
        pixels: the network input before padding and normalisation, (3,h,w), wherever it came from; only what explains
            a black box looks at it. None where the detector was not given an image, as inside training.
        batch: where features are slices of maps that the head read for a whole batch: those maps by name,
            (N,C,Hl,Wl), and the number of the image. None: the head read the features themselves.
        attends: True: a transformer, whose predictions depend on all feature maps and on each other. False: each
            depends on what lies below the feature map that it comes from through this map alone.
        attention: of a transformer whose queries attend to every cell of one map; with graph.
        tokens: of a detector whose classes are phrases, the logits of the text's tokens, with graph, (D,T).

    Raises:
        ValueError: the parts disagree on the number of predictions.
    """

    places: Tensor
    classes: Tensor
    boxes: Tensor
    logits: Tensor
    class_vectors: Tensor
    features: Mapping[str, Tensor]
    strides: Mapping[str, int]
    levels: Sequence[str]
    layers: Sequence[str]
    image_size: Size
    padded_size: Size
    output_size: Size
    objectness: Tensor | None = None
    rank_by: RankBy = by_probability
    regions: Regions | None = None
    subnets: tuple[Subnet, ...] = ()
    pixels: Tensor | None = None
    batch: tuple[Mapping[str, Tensor], int] | None = None
    attends: bool = False
    attention: "Attention | None" = None
    tokens: Tensor | None = None

    def __post_init__(self) -> None:
        names = ("places", "classes", "boxes", "logits", "class_vectors", "levels")
        lengths = {name: len(getattr(self, name)) for name in names}
        if self.tokens is not None:
            lengths["tokens"] = len(self.tokens)
        if self.regions is not None:
            lengths |= {"regions.boxes": len(self.regions.boxes), "regions.rows": len(self.regions.rows)}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the parts of a trace differ in their number of predictions: {lengths}")

    def __len__(self) -> int:
        return len(self.places)

    def __repr__(self) -> str:
        places = ", ".join(map(str, self.places[:5].tolist())) + (", ..." if len(self) > 5 else "")
        height, width = self.image_size
        return (
            f"Trace({len(self)} predictions at places [{places}], {self.logits.shape[1]} classes, "
            f"layers {', '.join(self.layers)}, network input {height} x {width})"
        )

    @property
    def num_classes(self) -> int:
        """K."""
        return int(self.class_vectors.shape[1])

    @property
    def scores(self) -> Tensor:
        """What the detector ranks by, of each prediction's own class, with graph, (D,)."""
        return self.scores_of(self.classes)

    def scores_of(self, classes: Tensor) -> Tensor:
        """What the detector would rank the same places by as objects of other classes, with graph, (D,).

        Args:
            classes: (D,) int64.
        """
        # Of the wanted class alone: a root of another class's zero probability would have no finite gradient.
        return self.rank_by(self.class_vectors.gather(1, classes[:, None])[:, 0], self.objectness)

    @property
    def clipped_boxes(self) -> Tensor:
        """The boxes inside the image, without graph, (D,4)."""
        height, width = self.image_size
        limits = self.boxes.new_tensor([width, height, width, height])
        return torch.minimum(self.boxes.detach().clamp(min=0), limits)

    def source(self, name: str) -> tuple[Tensor, int]:
        """The tensor that the head read for a feature map, (N,C,Hl,Wl), and which of its images this one is.

        Gradients are taken with respect to it: a slice of it is no part of the head's graph.
        """
        if self.batch is None or name not in self.batch[0]:
            return self.features[name], 0
        return self.batch[0][name], self.batch[1]
