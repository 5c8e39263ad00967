"""The stages of a box head run over regions: the one place where a cascade is walked through.

Shapes: R regions, S stages, K classes, B boxes a region (1, or K where each class has its own), C channels, P side of a
pooled region, F box features.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from odam_d2.structures import Size

if TYPE_CHECKING:
    from odam_d2.modeling.rcnn.roi_heads import ExplainableROIHeads


@dataclass(frozen=True, eq=False)
class RegionOutputs:
    """What the stages of a box head say about the regions of one image.

    Args:
        regions: what every stage pooled, (R,S,4).
        pooled: pooled features of every stage, (R,C,P,P).
        logits: of the last stage, background last, (R,K+1).
        boxes: decoded by the last stage, not clipped, (R,B,4).
        probabilities: background last, the mean over the stages, as the detector ranks, (R,K+1).
        box_features: output of the last box head, (R,F).
    """

    regions: Tensor
    pooled: tuple[Tensor, ...]
    logits: Tensor
    boxes: Tensor
    probabilities: Tensor
    box_features: Tensor


def run_stages(
    heads: "ExplainableROIHeads",
    features: Mapping[str, Tensor],
    regions: Tensor,
    image_size: Size,
    pooled_leaves: bool = False,
) -> RegionOutputs:
    """Pool regions of one image and predict from them, stage after stage.

    Args:
        heads: the detector's.
        features: what the pooler reads, each (1,C,Hl,Wl).
        regions: what the stages pool, (R,S,4); or (R,1,4), what the first pools: each further stage then pools the
            boxes of the one before, as Detectron2's cascade does.
        image_size: (h,w), to which such boxes are clipped.
        pooled_leaves: True cuts the graph at the pooled features, by which gradients can then be taken.
    """
    stages = heads.box_stages()
    given = regions.shape[1] == len(stages)
    used, pooled, probabilities = [], [], []
    boxes = regions[:, 0]
    for stage, (head, predictor) in enumerate(stages):
        if stage == 0 or given:
            used.append(regions[:, stage])
        else:
            # A cascade predicts one box a region, whatever the class. Unlike in Detectron2's training, boxes that are
            # empty now stay: every stage has the same regions.
            refined = Boxes(boxes.detach())
            refined.clip(image_size)
            used.append(refined.tensor)
        maps = heads.pool(features, used[-1])
        if torch.is_grad_enabled() and not maps.requires_grad:
            maps.requires_grad_()  # everything before is frozen, and gradients are taken by these
        pooled.append(maps.detach().requires_grad_() if pooled_leaves else maps)
        box_features = head(pooled[-1])
        predictions = predictor(box_features)
        place = [Instances(image_size, proposal_boxes=Boxes(used[-1]))]
        (boxes,) = predictor.predict_boxes(predictions, place)
        probabilities += predictor.predict_probs(predictions, place)
    # As in Detectron2's cascade, so that scores are the same to the last bit.
    mean = sum(probabilities) * (1.0 / len(stages)) if len(stages) > 1 else probabilities[0]
    return RegionOutputs(
        regions=torch.stack(used, dim=1),
        pooled=tuple(pooled),
        logits=predictions[0],
        boxes=boxes.view(len(boxes), boxes.shape[1] // 4, 4),
        probabilities=mean,
        box_features=box_features,
    )
