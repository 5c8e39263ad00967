"""The NMS of a detector, from its config."""

from dataclasses import replace

from detectron2.config import CfgNode

from odam_d2.explain import ExplainSettings
from odam_d2.nms.build import build_nms
from odam_d2.nms.family import NMS


def detector_nms(cfg: CfgNode, layer: str) -> NMS:
    """The NMS that ``ODAM.NMS`` names; ODAM-NMS explains as ``ODAM.EXPLAIN`` says, by the path ``ODAM.NMS.PATH``.

    Args:
        cfg: the experiment.
        layer: at which the detector explains all candidates together.

    Raises:
        ValueError: an unknown name, or a value out of its range.
    """
    explain = replace(
        ExplainSettings.from_options(cfg.ODAM.EXPLAIN), method="odam", layer=layer, path=cfg.ODAM.NMS.PATH
    )
    return build_nms(cfg.ODAM.NMS, explain)
