"""Detectors that remember; importing this package registers them with Detectron2."""

from odam_d2.modeling.backbones import TimmBackbone
from odam_d2.modeling.fcos import ODAMFCOS
from odam_d2.modeling.ignore import ODAMRPN
from odam_d2.modeling.rcnn import ODAMRCNN
from odam_d2.modeling.retinanet import ODAMRetinaNet
from odam_d2.modeling.roi_heads import ODAMCascadeROIHeads, ODAMRes5ROIHeads, ODAMROIHeads

__all__ = [
    "ODAMFCOS",
    "ODAMRCNN",
    "ODAMRPN",
    "ODAMCascadeROIHeads",
    "ODAMROIHeads",
    "ODAMRes5ROIHeads",
    "ODAMRetinaNet",
    "TimmBackbone",
]
