"""ROI heads that remember which proposal each detection came from.

Shapes: D detections, R proposals or regions, K classes, C channels, P side of a pooled region.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.modeling.roi_heads import CascadeROIHeads, Res5ROIHeads, StandardROIHeads
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers, fast_rcnn_inference
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from odam_d2.modeling.dense.observation import name_outputs
from odam_d2.modeling.embedding import EmbeddingROIHeads, refuse_embedding, roi_embedding_arguments
from odam_d2.modeling.explainable import paste_regions, take_fields
from odam_d2.modeling.ignore import IgnoringCascadeROIHeads, IgnoringROIHeads
from odam_d2.nms.build import build_nms
from odam_d2.nms.family import CandidateNMS
from odam_d2.structures import RoIs, Trace

Predictions = tuple[Tensor, Tensor]
# Where a detection comes from; rides on Instances until they leave the heads.
SOURCE_FIELDS = ("source_index", "source_boxes")


class ProposalTracing(nn.Module):
    """Mixin for ROI heads whose detections can be explained, and that hold an NMS of choice.

    Untraced and with greedy NMS, every method is Detectron2's own. A head has one or several stages; a stage pools its
    regions (:meth:`pool`) and predicts from them (:meth:`predict`). Subclasses say where their modules are.

    Args:
        nms: the last step of inference; default greedy, Detectron2's own.
        **kwargs: the heads' own.
    """

    def __init__(self, *, nms: CandidateNMS | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.nms = nms or CandidateNMS()

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Detectron2's arguments, and the NMS."""
        return super().from_config(cfg, input_shape) | {"nms": build_nms(cfg)}

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

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Overrides Detectron2's where inference ends with another NMS than its own, image by image."""
        if self.training or self.nms.is_greedy:
            return super().forward(images, features, proposals, targets)
        found = []
        for i, of_image in enumerate(proposals):
            own = {name: x[i : i + 1] for name, x in features.items()}
            found.append(self.detect(own, of_image))
            take_fields(found[-1], SOURCE_FIELDS)
        return found, {}

    def detect(self, features: dict[str, Tensor], proposals: Instances) -> Instances:
        """Detectron2's inference on one image, with ``source_index`` (D,) and ``source_boxes`` (D,stages,4) added.

        Args:
            features: the backbone's outputs, detached.
            proposals: of one image.

        Returns:
            the detections as the head itself returns them, plus the proposal behind each and the region that every
            stage pooled for it; with ODAM-NMS ``nms_maps`` (D,gh,gw), the maps it compared.
        """
        size = proposals.image_size
        regions, probabilities = [proposals.proposal_boxes.tensor], []
        stages = self.box_stages()
        for stage, (head, predictor) in enumerate(stages):
            pooled = self.pool(features, regions[-1])
            last = stage + 1 == len(stages)
            # Where NMS compares maps, the last stage is run with a graph, down to its pooled regions.
            graph = last and self.nms.needs_maps
            with torch.set_grad_enabled(graph):
                pooled = pooled.detach().requires_grad_() if graph else pooled
                box_features = head(pooled)
                predictions = predictor(box_features)
            place = [Instances(size, proposal_boxes=Boxes(regions[-1]))]
            (boxes,) = predictor.predict_boxes([x.detach() for x in predictions], place)
            probabilities += predictor.predict_probs([x.detach() for x in predictions], place)
            if not last:
                # The next stage pools these boxes, clipped, as Detectron2's cascade does.
                (refined,) = self._create_proposals_from_boxes([boxes], [size])
                regions.append(refined.proposal_boxes.tensor)
        scores = sum(probabilities) * (1.0 / len(probabilities)) if len(probabilities) > 1 else probabilities[0]
        regions = torch.stack(regions, dim=1)
        greedy = self.nms.is_greedy
        (instances,), (rows,) = fast_rcnn_inference(
            [boxes],
            [scores],
            [size],
            predictor.test_score_thresh,
            # No IoU exceeds 2: every candidate stays, for the NMS below.
            predictor.test_nms_thresh if greedy else 2.0,
            predictor.test_topk_per_image if greedy else -1,
        )
        # fast_rcnn_inference numbers the rows after dropping those that are not finite.
        finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores).all(dim=1)
        instances.source_index = finite.nonzero()[rows, 0]
        if not greedy:
            instances = self._suppress(instances, regions, predictor, pooled, predictions[0], box_features)
        instances.source_boxes = regions[instances.source_index]
        return self.forward_with_given_boxes(features, [instances])[0]

    def _suppress(
        self,
        found: Instances,
        regions: Tensor,
        predictor: FastRCNNOutputLayers,
        pooled: Tensor,
        logits: Tensor,
        box_features: Tensor,
    ) -> Instances:
        """Apply :attr:`nms` to the candidates of one image.

        Args:
            found: all candidates, with the proposal behind each.
            regions: what each stage pooled, (R,stages,4).
            predictor: of the last stage.
            pooled: what the last stage pooled, (R,C,P,P).
            logits: (R,K+1), for ODAM-NMS with graph down to ``pooled``.
            box_features: output of the last box head, (R,F).
        """
        rows, boxes = found.source_index, regions[:, -1][found.source_index]
        with torch.set_grad_enabled(self.nms.needs_maps):
            outputs = {"class_logit": logits[rows, found.pred_classes]}
        trace = Trace(
            boxes=found.pred_boxes.tensor,
            scores=found.scores,
            classes=found.pred_classes,
            outputs=outputs,
            features={},
            strides={},
            levels=self.levels_of(boxes),
            index=rows,
            image_size=found.image_size,
            padded_size=found.image_size,
            output_size=found.image_size,
            rois=RoIs((pooled,), rows, boxes, paste_regions),
        )
        has_head = getattr(self, "embedding_head", None) is not None
        embeddings = partial(self._candidate_embeddings, box_features, rows) if has_head else None
        chosen = self.nms(trace, predictor.test_nms_thresh, predictor.test_topk_per_image, embeddings)
        kept = found[chosen.keep]
        kept.scores = chosen.kept_scores
        if chosen.maps is not None:
            kept.nms_maps = chosen.maps[chosen.keep]
        return kept

    def _candidate_embeddings(self, box_features: Tensor, rows: Tensor) -> Tensor:
        """FeatureNMS's embeddings of the candidates, (D,E)."""
        return self.embed(box_features)[rows]

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


class TracingWithoutEmbedding(ProposalTracing):
    """Mixin for ROI heads that have no place for an embedding head."""

    @configurable
    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Detectron2's arguments, and the NMS; embeddings (``ODAM.EMBEDDING``) are refused."""
        refuse_embedding(cfg, cls)
        return super().from_config(cfg, input_shape)


@ROI_HEADS_REGISTRY.register()
class ODAMROIHeads(EmbeddingROIHeads, IgnoringROIHeads, ProposalTracing, StandardROIHeads):
    """Detectron2's :class:`StandardROIHeads` (Faster and Mask R-CNN with FPN or dilated C5), traceable."""

    @configurable
    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Detectron2's arguments, and those that ``ODAM`` adds."""
        arguments = super().from_config(cfg, input_shape)
        embedding = roi_embedding_arguments(cfg, arguments["box_head"].output_shape)
        return arguments | embedding

    def box_stages(self) -> list[tuple[nn.Module, FastRCNNOutputLayers]]:
        """The one box head and its predictor."""
        return [(self.box_head, self.box_predictor)]


@ROI_HEADS_REGISTRY.register()
class ODAMCascadeROIHeads(IgnoringCascadeROIHeads, TracingWithoutEmbedding, CascadeROIHeads):
    """Detectron2's :class:`CascadeROIHeads`, traceable; ``roi_pool`` is its last stage."""

    def box_stages(self) -> list[tuple[nn.Module, FastRCNNOutputLayers]]:
        """Every cascade stage."""
        return list(zip(self.box_head, self.box_predictor))


@ROI_HEADS_REGISTRY.register()
class ODAMRes5ROIHeads(IgnoringROIHeads, TracingWithoutEmbedding, Res5ROIHeads):
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
