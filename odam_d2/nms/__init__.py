"""Non-maximum suppression in crowds: greedy, Soft-NMS, FeatureNMS and ODAM-NMS.

The functions work in the manner of ``torchvision.ops``; the classes are what a detector holds.
"""

from odam_d2.nms.candidates import Candidates, Suppression
from odam_d2.nms.family import NMS, ODAMNMS, FeatureNMS, GreedyNMS, SoftNMS
from odam_d2.nms.functions import feature_nms, greedy_nms, odam_nms, soft_nms
from odam_d2.nms.removals import Removals

__all__ = [
    "NMS",
    "Candidates",
    "FeatureNMS",
    "GreedyNMS",
    "ODAMNMS",
    "Removals",
    "SoftNMS",
    "Suppression",
    "feature_nms",
    "greedy_nms",
    "odam_nms",
    "soft_nms",
]
