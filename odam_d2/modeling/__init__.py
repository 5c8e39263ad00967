"""Detectors that can be asked; importing this package registers them with Detectron2."""

from odam_d2.modeling.backbones import TimmBackbone
from odam_d2.modeling.dense.fcos import ODAMFCOS
from odam_d2.modeling.dense.retinanet import ODAMRetinaNet
from odam_d2.modeling.explainable import ExplainableDetector, Observation, check_explainable
from odam_d2.modeling.ignore import ODAMRPN
from odam_d2.modeling.nanodet import NanoDetG
from odam_d2.modeling.rcnn.rcnn import ODAMRCNN
from odam_d2.modeling.rcnn.roi_heads import ODAMCascadeROIHeads, ODAMRes5ROIHeads, ODAMROIHeads
from odam_d2.modeling.transformers.detector import ODAMDETR
from odam_d2.modeling.transformers.grounded import ODAMGrounded
from odam_d2.modeling.transformers.owl import ODAMOWL

__all__ = [
    "ODAMDETR",
    "ODAMFCOS",
    "ODAMGrounded",
    "ODAMOWL",
    "ODAMRCNN",
    "ODAMRPN",
    "ODAMCascadeROIHeads",
    "ODAMROIHeads",
    "ODAMRes5ROIHeads",
    "ODAMRetinaNet",
    "ExplainableDetector",
    "NanoDetG",
    "Observation",
    "TimmBackbone",
    "check_explainable",
]
