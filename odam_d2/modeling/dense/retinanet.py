"""RetinaNet that can be asked why."""

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch import RetinaNet

from odam_d2.modeling.dense.detector import ExplainableDense
from odam_d2.modeling.embedding import EmbeddingDense, dense_embedding_arguments
from odam_d2.modeling.ignore import IgnoringDense
from odam_d2.modeling.nms import detector_nms
from odam_d2.modeling.odam_train import ODAMTrain


@META_ARCH_REGISTRY.register()
class ODAMRetinaNet(EmbeddingDense, IgnoringDense, ExplainableDense, RetinaNet):
    """Detectron2's :class:`RetinaNet` with :meth:`observe`; same arguments, parameters and detections."""

    @configurable
    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Detectron2's arguments, and those that ``ODAM`` adds."""
        arguments = super().from_config(cfg)
        shapes = [arguments["backbone"].output_shape()[f] for f in arguments["head_in_features"]]
        num_anchors = arguments["anchor_generator"].num_cell_anchors[0]
        embedding = dense_embedding_arguments(cfg, shapes, num_anchors, cfg.MODEL.RETINANET.NORM)
        ours = {
            "nms": detector_nms(cfg, cls.batched_layer),
            "odam_train": ODAMTrain.from_config(cfg, cls.batched_layer),
        }
        return arguments | embedding | ours
