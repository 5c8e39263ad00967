"""From a config's keys to an NMS; needs no Detectron2, only the names of its keys."""

from typing import Any

from odam_d2.explain import ExplainSettings
from odam_d2.nms.family import NMS, NMS_NAMES, ODAMNMS, FeatureNMS, GreedyNMS, SoftNMS


def build_nms(options: Any, explain: ExplainSettings) -> NMS:
    """The NMS that ``ODAM.NMS`` names.

    Args:
        options: the node ``ODAM.NMS`` of a config.
        explain: how ODAM-NMS makes the candidates' maps.

    Raises:
        ValueError: an unknown name.
    """
    if options.NAME == "greedy":
        return GreedyNMS()
    if options.NAME == "soft":
        return SoftNMS(options.SOFT_METHOD, options.SOFT_SIGMA, options.SOFT_SCORE_THRESH)
    if options.NAME == "feature":
        return FeatureNMS(options.FEATURE_IOU_HIGH, options.FEATURE_IOU_LOW, options.FEATURE_DISTANCE)
    if options.NAME == "odam":
        thresholds = options.CORR_HIGH, options.CORR_LOW
        return ODAMNMS(explain, options.TARGET, *thresholds, options.CORRELATION, options.SHORT_EDGE)
    raise ValueError(f"unknown NMS {options.NAME!r}; valid names (ODAM.NMS.NAME) are {', '.join(NMS_NAMES)}")
