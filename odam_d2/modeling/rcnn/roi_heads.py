"""ROI heads that can be asked why.

Shapes: D detections, R proposals or regions, K classes, C channels, P side of a pooled region.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.modeling.roi_heads import CascadeROIHeads, Res5ROIHeads, StandardROIHeads
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from odam_d2.modeling.embedding import EmbeddingROIHeads, refuse_embedding, roi_embedding_arguments
from odam_d2.modeling.explainable import without_place
from odam_d2.modeling.features import ImageFeatures
from odam_d2.modeling.ignore import IgnoringCascadeROIHeads, IgnoringROIHeads
from odam_d2.modeling.nms import detector_nms
from odam_d2.modeling.odam_train import ODAMTrain
from odam_d2.modeling.positives import sampled_positives
from odam_d2.modeling.rcnn.observation import RegionObservation, regions_of
from odam_d2.nms.family import NMS, GreedyNMS


class ExplainableROIHeads(nn.Module):
    """Mixin for ROI heads whose predictions can be explained, and that hold an NMS of choice.

    Not observed and with greedy NMS, every method is Detectron2's own. A head has one or several stages; a stage pools
    its regions (:meth:`pool`) and predicts from them. Subclasses say where their modules are.

    Args:
        nms: the last step of inference; default greedy, Detectron2's own.
        odam_train: losses on the maps of a training batch's positives; None: training is Detectron2's own.
        **kwargs: the heads' own.
    """

    batched_layer = "roi_pool"

    def __init__(self, *, nms: NMS | None = None, odam_train: ODAMTrain | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.nms = nms or GreedyNMS()
        self.odam_train = odam_train

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Detectron2's arguments, the NMS, and what maps are trained for."""
        ours = {
            "nms": detector_nms(cfg, cls.batched_layer),
            "odam_train": ODAMTrain.from_config(cfg, cls.batched_layer),
        }
        return super().from_config(cfg, input_shape) | ours

    def box_stages(self) -> list[tuple[Any, FastRCNNOutputLayers]]:
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

    def pool(self, features: Mapping[str, Tensor], boxes: Tensor) -> Tensor:
        """Pool regions of one image, (R,4) -> (R,C,P,P)."""
        return self.region_pooler([features[f] for f in self.region_features], [Boxes(boxes)])

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Overrides Detectron2's where inference ends with another NMS than its own, and where maps are trained."""
        if self.training and self.odam_train is not None and torch.is_grad_enabled():
            sampled, losses = super().forward(images, features, proposals, targets)
            return sampled, losses | self._map_losses(images, features, sampled)
        if self.training or isinstance(self.nms, GreedyNMS):
            return super().forward(images, features, proposals, targets)
        own = ImageFeatures.of_batch(features, {})
        found = RegionObservation(self, self.nms.layers, images, own, regions_of(proposals)).raw_detections()
        return [without_place(detections) for detections in found], {}

    def _map_losses(
        self, images: ImageList, features: dict[str, Tensor], sampled: Sequence[Instances]
    ) -> dict[str, Tensor]:
        """ODAM-Train's losses on the sampled regions that show an object; they alone are pooled once more."""
        regions, positives = sampled_positives(sampled, self.num_classes)
        maps = ImageFeatures.of_batch(features, {})
        observation = RegionObservation(self, ("roi_pool",), images, maps, regions, evaluation=False)
        return self.odam_train.losses(observation, positives)

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


class _WithoutEmbedding(ExplainableROIHeads):
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
class ODAMROIHeads(EmbeddingROIHeads, IgnoringROIHeads, ExplainableROIHeads, StandardROIHeads):
    """Detectron2's :class:`StandardROIHeads` (Faster and Mask R-CNN with FPN or dilated C5), explainable."""

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
class ODAMCascadeROIHeads(IgnoringCascadeROIHeads, _WithoutEmbedding, CascadeROIHeads):
    """Detectron2's :class:`CascadeROIHeads`, explainable; ``roi_pool`` is its last stage."""

    def box_stages(self) -> list[tuple[nn.Module, FastRCNNOutputLayers]]:
        """Every cascade stage."""
        return list(zip(self.box_head, self.box_predictor))


@ROI_HEADS_REGISTRY.register()
class ODAMRes5ROIHeads(IgnoringROIHeads, _WithoutEmbedding, Res5ROIHeads):
    """Detectron2's :class:`Res5ROIHeads` (the C4 models), explainable; ``roi_pool`` is what res5 reads."""

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Detectron2's arguments, and the NMS; trained maps (``ODAM.TRAIN``) are refused.

        Raises:
            ValueError: Detectron2's heads of this kind do not say which regions they sampled.
        """
        if cfg.ODAM.TRAIN.ENABLED:
            raise ValueError(f"{cls.__name__} cannot train maps; set ODAM.TRAIN.ENABLED to False, or use ODAMROIHeads")
        return super().from_config(cfg, input_shape)

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
