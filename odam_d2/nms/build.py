"""What the config says about NMS."""

from detectron2.config import CfgNode

from odam_d2.nms.family import CandidateNMS


def build_nms(cfg: CfgNode) -> CandidateNMS:
    """The NMS that ``ODAM.NMS`` names.

    Raises:
        ValueError: an unknown name.
    """
    options = cfg.ODAM.NMS
    return CandidateNMS(
        name=options.NAME,
        correlation=options.CORRELATION,
        corr_high=options.CORR_HIGH,
        corr_low=options.CORR_LOW,
        short_edge=options.SHORT_EDGE,
        soft_method=options.SOFT_METHOD,
        soft_sigma=options.SOFT_SIGMA,
        soft_score_threshold=options.SOFT_SCORE_THRESH,
        feature_iou_high=options.FEATURE_IOU_HIGH,
        feature_iou_low=options.FEATURE_IOU_LOW,
        feature_distance=options.FEATURE_DISTANCE,
        memory=cfg.ODAM.EXPLAIN.MEMORY,
    )
