"""ROI heads that remember which proposal each detection came from.

Shapes: D detections, R proposals or regions, K classes, C channels, P side of a pooled region.
"""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.modeling.roi_heads import CascadeROIHeads, Res5ROIHeads, StandardROIHeads
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers, fast_rcnn_inference
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from odam_d2.modeling.dense import name_outputs

Predictions = tuple[Tensor, Tensor]


class ProposalTracing(nn.Module):
    """Mixin for ROI heads whose detections can be explained; untraced, every method is Detectron2's own.

    A head has one or several stages; a stage pools its regions (:meth:`pool`) and predicts from them
    (:meth:`predict`). Subclasses say where their modules are.
    """

    def box_stages(self) -> list[tuple[nn.Module, FastRCNNOutputLayers]]:
        """(box head, predictor) of every stage."""
        raise ValueError(f"{type(self).__name__} does not say what its stages are")

    @property
    def region_pooler(self) -> ROIPooler:
        """The pooler in front of the box head."""
        return self.box_pooler

    @property
    def region_features(self) -> list[str]:
        """Names of the feature maps the pooler reads."""
        return self.box_in_features

    def pool(self, features: dict[str, Tensor], boxes: Tensor) -> Tensor:
        """Pool regions of one image, (R,4) -> (R,C,P,P)."""
        return self.region_pooler([features[f] for f in self.region_features], [Boxes(boxes)])

    def predict(self, pooled: Tensor, stage: int) -> Predictions:
        """Class logits (R,K+1) and box deltas of pooled regions."""
        head, predictor = self.box_stages()[stage]
        return predictor(head(pooled))

    def detect(self, features: dict[str, Tensor], proposals: Instances) -> Instances:
        """Detectron2's inference on one image, with ``source_index`` (D,) and ``source_boxes`` (D,stages,4) added.

        Args:
            features: the backbone's outputs, detached.
            proposals: of one image.

        Returns:
            the detections as the head itself returns them, plus the proposal behind each and the region that every
            stage pooled for it.
        """
        size = proposals.image_size
        regions, probabilities = [proposals.proposal_boxes.tensor], []
        stages = self.box_stages()
        for stage, (_, predictor) in enumerate(stages):
            predictions = self.predict(self.pool(features, regions[-1]), stage)
            place = [Instances(size, proposal_boxes=Boxes(regions[-1]))]
            (boxes,) = predictor.predict_boxes(predictions, place)
            probabilities += predictor.predict_probs(predictions, place)
            if stage + 1 < len(stages):
                # The next stage pools these boxes, clipped, as Detectron2's cascade does.
                (refined,) = self._create_proposals_from_boxes([boxes], [size])
                regions.append(refined.proposal_boxes.tensor)
        scores = sum(probabilities) * (1.0 / len(probabilities)) if len(probabilities) > 1 else probabilities[0]
        (instances,), (rows,) = fast_rcnn_inference(
            [boxes],
            [scores],
            [size],
            predictor.test_score_thresh,
            predictor.test_nms_thresh,
            predictor.test_topk_per_image,
        )
        # fast_rcnn_inference numbers the rows after dropping those that are not finite.
        finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores).all(dim=1)
        instances.source_index = finite.nonzero()[rows, 0]
        instances.source_boxes = torch.stack(regions, dim=1)[instances.source_index]
        return self.forward_with_given_boxes(features, [instances])[0]

    def differentiable_outputs(
        self, features: dict[str, Tensor], regions: Tensor, rows: Tensor, classes: Tensor
    ) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
        """Run the box head again, with graph, on the regions behind the detections.

        Args:
            features: the backbone's outputs, with graph.
            regions: what each stage pooled, (R,stages,4).
            rows: the region behind each detection, (D,).
            classes: (D,).

        Returns:
            the outputs a target can name, each (D,): the class score is the mean over the stages' probabilities, the
            class logit and the sides are the last stage's; and each stage's pooled features, (R,C,P,P).
        """
        pooled, scores = [], []
        for stage, (_, predictor) in enumerate(self.box_stages()):
            pooled.append(self.pool(features, regions[:, stage]))
            predictions = self.predict(pooled[-1], stage)
            place = [Instances((0, 0), proposal_boxes=Boxes(regions[:, stage]))]
            (probabilities,) = predictor.predict_probs(predictions, place)
            scores.append(probabilities[rows, classes])
        (boxes,) = predictor.predict_boxes(predictions, place)
        boxes = boxes.view(len(boxes), boxes.shape[1] // 4, 4)
        # Class-agnostic regression predicts one box for all classes.
        sides = boxes[rows, classes if boxes.shape[1] > 1 else torch.zeros_like(classes)]
        logit = predictions[0][rows, classes]
        return name_outputs(torch.stack(scores).mean(dim=0), logit, sides), tuple(pooled)

    def levels_of(self, boxes: Tensor) -> list[str]:
        """Name of the feature map from which the pooler reads each region, (D,4) -> D names."""
        pooler = self.region_pooler
        names: Sequence[str] = self.region_features
        if len(names) == 1:
            return [names[0]] * len(boxes)
        levels = assign_boxes_to_levels(
            [Boxes(boxes)], pooler.min_level, pooler.max_level, pooler.canonical_box_size, pooler.canonical_level
        )
        return [names[i] for i in levels.tolist()]


@ROI_HEADS_REGISTRY.register()
class ODAMROIHeads(ProposalTracing, StandardROIHeads):
    """Detectron2's :class:`StandardROIHeads` (Faster and Mask R-CNN with FPN or dilated C5), traceable."""

    def box_stages(self) -> list[tuple[nn.Module, FastRCNNOutputLayers]]:
        """The one box head and its predictor."""
        return [(self.box_head, self.box_predictor)]


@ROI_HEADS_REGISTRY.register()
class ODAMCascadeROIHeads(ProposalTracing, CascadeROIHeads):
    """Detectron2's :class:`CascadeROIHeads`, traceable; ``roi_pool`` is its last stage."""

    def box_stages(self) -> list[tuple[nn.Module, FastRCNNOutputLayers]]:
        """Every cascade stage."""
        return list(zip(self.box_head, self.box_predictor))


@ROI_HEADS_REGISTRY.register()
class ODAMRes5ROIHeads(ProposalTracing, Res5ROIHeads):
    """Detectron2's :class:`Res5ROIHeads` (the C4 models), traceable; ``roi_pool`` is what res5 reads."""

    def box_stages(self) -> list[tuple[Any, FastRCNNOutputLayers]]:
        """res5 with average pooling, and the predictor."""
        return [(lambda pooled: self.res5(pooled).mean(dim=[2, 3]), self.box_predictor)]

    @property
    def region_pooler(self) -> ROIPooler:
        """The pooler in front of res5."""
        return self.pooler

    @property
    def region_features(self) -> list[str]:
        """Names of the feature maps the pooler reads."""
        return self.in_features
