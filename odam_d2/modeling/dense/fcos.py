"""FCOS that can be asked why."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.modeling.meta_arch.fcos import FCOS, FCOSHead
from torch import Tensor, nn

from odam_d2.modeling.dense.detector import ExplainableDense
from odam_d2.modeling.dense.observation import Outputs
from odam_d2.modeling.embedding import EmbeddingDense, dense_embedding_arguments
from odam_d2.modeling.ignore import IgnoringFCOS
from odam_d2.modeling.nms import detector_nms
from odam_d2.modeling.odam_train import ODAMTrain


@META_ARCH_REGISTRY.register()
class ODAMFCOS(EmbeddingDense, IgnoringFCOS, ExplainableDense, FCOS):
    """Detectron2's :class:`FCOS`, same parameters and detections, with :meth:`observe` and yaml keys ``MODEL.FCOS``."""

    @configurable
    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Translate ``MODEL.FCOS`` into constructor arguments."""
        fcos = cfg.MODEL.FCOS
        backbone = build_backbone(cfg)
        shapes = [backbone.output_shape()[f] for f in fcos.IN_FEATURES]
        return {
            "backbone": backbone,
            "head": FCOSHead(
                input_shape=shapes,
                num_classes=fcos.NUM_CLASSES,
                conv_dims=[shapes[0].channels] * fcos.NUM_CONVS,
                prior_prob=fcos.PRIOR_PROB,
                norm=fcos.NORM,
            ),
            "head_in_features": fcos.IN_FEATURES,
            "num_classes": fcos.NUM_CLASSES,
            "center_sampling_radius": fcos.CENTER_SAMPLING_RADIUS,
            "focal_loss_alpha": fcos.FOCAL_LOSS_ALPHA,
            "focal_loss_gamma": fcos.FOCAL_LOSS_GAMMA,
            "test_score_thresh": fcos.SCORE_THRESH_TEST,
            "test_topk_candidates": fcos.TOPK_CANDIDATES_TEST,
            "test_nms_thresh": fcos.NMS_THRESH_TEST,
            "max_detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "nms": detector_nms(cfg, cls.batched_layer),
            "odam_train": ODAMTrain.from_config(cfg, cls.batched_layer),
            **dense_embedding_arguments(cfg, shapes, 1, fcos.NORM),
        }

    def output_sizes(self) -> list[int]:
        """Class logits, box distances and centerness of each anchor point."""
        return [self.num_classes, 4, 1]

    def subnets(self) -> list[tuple[nn.Sequential, dict[int, nn.Conv2d]]]:
        """Classification, and box regression with centerness."""
        subnets = super().subnets()
        for _, predictors in subnets[1:]:
            predictors[2] = self.head.ctrness
        return subnets

    def read_outputs(self, logits: Tensor, others: Sequence[Tensor]) -> Outputs:
        """Its objectness is the centerness."""
        (centerness,) = others
        return Outputs(logits.sigmoid(), centerness[..., 0].sigmoid())

    @staticmethod
    def rank_by(probability: Tensor, objectness: Tensor) -> Tensor:
        """sqrt(class probability * centerness)."""
        return torch.sqrt(probability * objectness)
