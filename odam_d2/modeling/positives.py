"""The positive samples of a training image, and the objects that they were matched to.

Shapes: P positives of an image, L labelled places.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from detectron2.structures import Instances
from torch import Tensor


class Positives(NamedTuple):
    """The positive samples of one image.

    Attributes:
        places: where the detector makes each, (P,) int64.
        classes: of the object that it was matched to, (P,) int64.
        boxes: that object's box, XYXY in network-input pixels, (P,4).
    """

    places: Tensor
    classes: Tensor
    boxes: Tensor

    @classmethod
    def of_labels(cls, labels: Tensor, boxes: Tensor, num_classes: int) -> "Positives":
        """Those among labelled places.

        Args:
            labels: an object's class, else ``num_classes`` for background or -1 for what is ignored, (L,) int64.
            boxes: the ground-truth box that each place was matched to, (L,4).
            num_classes: without background.
        """
        places = ((labels >= 0) & (labels < num_classes)).nonzero()[:, 0]
        return cls(places, labels[places], boxes[places])

    @property
    def objects(self) -> Tensor:
        """Number of the object that each shows, from 0 on, (P,) int64."""
        # A box names an object: where two objects have the same box, Detectron2 matches everything to the first.
        return torch.unique(self.boxes, dim=0, return_inverse=True)[1]


def sampled_positives(sampled: Sequence[Instances], num_classes: int) -> tuple[list[Tensor], list[Positives]]:
    """The sampled regions of a two-stage detector's training step that show an object; they alone are the places.

    Args:
        sampled: of each image, as Detectron2's heads label them.
        num_classes: without background.

    Returns:
        of each image the regions as an observation takes them, (P,1,4), and the positives in their order.
    """
    regions, positives = [], []
    for of_image in sampled:
        own = of_image[(of_image.gt_classes >= 0) & (of_image.gt_classes < num_classes)]
        places = torch.arange(len(own), device=own.gt_classes.device)
        regions.append(own.proposal_boxes.tensor[:, None])
        positives.append(Positives(places, own.gt_classes, matched_boxes(own)))
    return regions, positives


def matched_boxes(regions: Instances) -> Tensor:
    """The ground-truth box that each sampled region was matched to, (L,4)."""
    # Without objects in an image its regions have no gt_boxes, and no positives that would ask for them.
    return (regions.gt_boxes if regions.has("gt_boxes") else regions.proposal_boxes).tensor
