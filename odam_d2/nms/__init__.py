"""Non-maximum suppression in crowds: greedy, Soft-NMS, FeatureNMS and ODAM-NMS."""

from odam_d2.nms.functions import feature_nms, greedy_nms, odam_nms, soft_nms

__all__ = ["feature_nms", "greedy_nms", "odam_nms", "soft_nms"]
