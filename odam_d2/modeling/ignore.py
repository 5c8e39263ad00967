"""Training with regions that are neither object nor background: what was found there is neither rewarded nor punished.

Ground-truth instances may carry a field ``gt_ignore``, (M,) bool (:class:`odam_d2.data.crowd_mapper.CrowdMapper`).
Where they do, anchors and proposals are matched with the real objects only, and those that came out as background and
lie in an ignore region are left out. Without the field everything is Detectron2's own.

Shapes: N images, M ground-truth instances or regions, R anchors or proposals, K classes.
"""

from collections.abc import Sequence

import torch
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import ROIHeads
from detectron2.structures import Boxes, Instances, pairwise_ioa, pairwise_iou
from torch import Tensor

# The label that Detectron2 gives to what takes no part in a loss.
IGNORED = -1
# A class logit so low that its focal loss as background is exactly 0, in half precision too.
_CERTAINLY_BACKGROUND = -1e4


def ignored_boxes(boxes: Tensor, regions: Tensor, threshold: float = 0.5) -> Tensor:
    """Which boxes lie in an ignore region: intersection / area of the box > ``threshold`` with any one region.

    Args:
        boxes: XYXY, (R,4).
        regions: XYXY, (M,4).
        threshold: in [0,1].

    Returns:
        (R,) bool; False for boxes without an area.
    """
    return (pairwise_ioa(Boxes(regions), Boxes(boxes)) > threshold).any(dim=0)


def ignored_points(boxes: Tensor, regions: Tensor) -> Tensor:
    """Which boxes have their centre inside an ignore region: an FCOS anchor stands for the point at its centre.

    Args:
        boxes: XYXY, (R,4).
        regions: XYXY, (M,4).

    Returns:
        (R,) bool.
    """
    centres = Boxes(boxes).get_centers()[:, None]
    return ((centres > regions[:, :2]) & (centres < regions[:, 2:])).all(dim=2).any(dim=1)


def split_ignored(instances: Instances) -> tuple[Instances, Tensor | None]:
    """Part ground truth into the objects and the ignore regions.

    Args:
        instances: of one image, unchanged.

    Returns:
        the real objects, without the field ``gt_ignore``; the regions (M,4), or None if the field is absent (then the
        objects are ``instances`` itself).
    """
    if not instances.has("gt_ignore"):
        return instances, None
    objects = instances[~instances.gt_ignore]
    objects.remove("gt_ignore")
    return objects, instances.gt_boxes.tensor[instances.gt_ignore]


class IgnoringDense(DenseDetector):
    """Mixin for dense detectors whose ``losses`` leave out the label -1, as RetinaNet's do."""

    def ignored_anchors(self, anchors: Tensor, regions: Tensor) -> Tensor:
        """Which anchors lie in an ignore region, (R,4) and (M,4) -> (R,) bool."""
        return ignored_boxes(anchors, regions)

    @torch.no_grad()
    def label_anchors(self, anchors: list[Boxes], gt_instances: list[Instances]) -> tuple[list[Tensor], list[Tensor]]:
        """Overrides Detectron2's: background anchors in ignore regions get the label -1."""
        objects, regions = zip(*map(split_ignored, gt_instances))
        labels, boxes = super().label_anchors(anchors, list(objects))
        flat = Boxes.cat(anchors).tensor
        for i, of_image in enumerate(regions):
            if of_image is not None:
                unwanted = (labels[i] == self.num_classes) & self.ignored_anchors(flat, of_image)
                labels[i] = labels[i].masked_fill(unwanted, IGNORED)
        return labels, boxes


class IgnoringFCOS(IgnoringDense):
    """Mixin for FCOS: its anchors are points, and its ``losses`` know no label -1."""

    def ignored_anchors(self, anchors: Tensor, regions: Tensor) -> Tensor:
        """Which anchor points lie inside an ignore region, (R,4) and (M,4) -> (R,) bool."""
        return ignored_points(anchors, regions)

    def losses(
        self,
        anchors: list[Boxes],
        pred_logits: list[Tensor],
        gt_labels: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        gt_boxes: list[Tensor],
        pred_centerness: list[Tensor],
    ) -> dict[str, Tensor]:
        """Overrides Detectron2's: points labelled -1 are shown to it as background it is certain of, which is free."""
        ignored = torch.stack(gt_labels) == IGNORED
        if ignored.any():
            per_level = ignored.split([logits.shape[1] for logits in pred_logits], dim=1)
            pred_logits = [
                logits.masked_fill(mask[..., None], _CERTAINLY_BACKGROUND)
                for logits, mask in zip(pred_logits, per_level)
            ]
            gt_labels = [labels.masked_fill(labels == IGNORED, self.num_classes) for labels in gt_labels]
        return super().losses(anchors, pred_logits, gt_labels, pred_anchor_deltas, gt_boxes, pred_centerness)


@PROPOSAL_GENERATOR_REGISTRY.register()
class ODAMRPN(RPN):
    """Detectron2's :class:`RPN` that leaves background anchors in ignore regions out; same parameters and proposals."""

    _ignored: Tensor | None = None

    def _subsample_labels(self, label: Tensor) -> Tensor:
        """Overrides Detectron2's: anchors to ignore are no candidates for its sample."""
        if self._ignored is not None:
            label = label.masked_fill((label == 0) & self._ignored, IGNORED)
        return super()._subsample_labels(label)

    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Overrides Detectron2's: one image at a time, because sampling must know the image's ignore regions."""
        flat = Boxes.cat(anchors)
        labels, boxes = [], []
        try:
            for instances in gt_instances:
                objects, regions = split_ignored(instances)
                self._ignored = None if regions is None else ignored_boxes(flat.tensor, regions)
                of_image = super().label_and_sample_anchors([flat], [objects])
                labels += of_image[0]
                boxes += of_image[1]
        finally:
            self._ignored = None
        return labels, boxes


def drop_ignored(
    proposals: Sequence[Instances], targets: Sequence[Instances], matcher: Matcher
) -> tuple[list[Instances], list[Instances]]:
    """Leave out the proposals that a matcher takes for background although they lie in an ignore region.

    Args:
        proposals: with ``proposal_boxes``, one entry an image.
        targets: ground truth, one entry an image.
        matcher: labels proposals by their IoU with the objects; 0 is background.

    Returns:
        the remaining proposals, and the real objects.
    """
    remaining, objects = [], []
    for of_image, instances in zip(proposals, targets):
        real, regions = split_ignored(instances)
        if regions is not None:
            boxes = of_image.proposal_boxes
            _, labels = matcher(pairwise_iou(real.gt_boxes, boxes))
            of_image = of_image[~((labels == 0) & ignored_boxes(boxes.tensor, regions))]
        remaining.append(of_image)
        objects.append(real)
    return remaining, objects


class IgnoringROIHeads(ROIHeads):
    """Mixin for ROI heads: proposals to ignore are gone before Detectron2 samples and counts."""

    @torch.no_grad()
    def label_and_sample_proposals(self, proposals: list[Instances], targets: list[Instances]) -> list[Instances]:
        """Overrides Detectron2's; ground truth appended to the proposals is real objects only."""
        return super().label_and_sample_proposals(*drop_ignored(proposals, targets, self.proposal_matcher))


class IgnoringCascadeROIHeads(IgnoringROIHeads):
    """Mixin for cascades, whose later stages match the boxes of the stage before."""

    @torch.no_grad()
    def _match_and_label_boxes(
        self, proposals: list[Instances], stage: int, targets: list[Instances]
    ) -> list[Instances]:
        """Overrides Detectron2's."""
        remaining, objects = drop_ignored(proposals, targets, self.proposal_matchers[stage])
        return super()._match_and_label_boxes(remaining, stage, objects)
