"""From ``ODAM.KD`` to a distiller: every option is a key, and a negative number means the published one."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.modeling.meta_arch.fcos import FCOS
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from odam_d2.distill import DISTILLERS, FGD_PRESETS, FKD_ONE_STAGE, FKD_TWO_STAGE, Distiller, GIDSettings
from odam_d2.distill import build_distiller as build
from odam_d2.distill.fgd import FGDSettings
from odam_d2.distill.gid import Assign
from odam_d2.teaching.fit import Levels

# The authors' public configurations.
PKD_WEIGHTS = {"retinanet": 10.0, "fcos": 10.0, "two_stage": 6.0}
# Keys of ODAM.KD.FGD -> fields.
FGD_KEYS = {
    "TEMPERATURE": "temperature",
    "ALPHA": "foreground",
    "BETA": "background",
    "GAMMA": "attention",
    "LAMBDA": "relation",
}


def kind_of(detector: nn.Module) -> str:
    """What FGD's published numbers are of: ``fcos``, ``two_stage``, or ``retinanet`` for any other dense detector."""
    if isinstance(detector, FCOS):
        return "fcos"
    return "retinanet" if isinstance(detector, DenseDetector) else "two_stage"


def distiller_class(cfg: CfgNode) -> type[Distiller]:
    """What ``ODAM.KD.DISTILLER`` names.

    Raises:
        ValueError: an unknown name.
    """
    name = cfg.ODAM.KD.DISTILLER
    if name not in DISTILLERS:
        raise ValueError(f"ODAM.KD.DISTILLER is {name!r}; valid values are {', '.join(DISTILLERS)}")
    return DISTILLERS[name]


def distiller_from_config(cfg: CfgNode, student: nn.Module, levels: Levels, teacher_channels: int) -> Distiller:
    """The distiller that a config asks for.

    Args:
        cfg: of the student.
        student: decides on published numbers.
        levels: between which is distilled.
        teacher_channels: width of the teacher's maps.

    Raises:
        ValueError: an unknown name or preset, or a value out of its range; the message names the section.
    """
    distiller_class(cfg)
    name = cfg.ODAM.KD.DISTILLER
    try:
        options = _OPTIONS[name](cfg.ODAM.KD, student)
        return build(name, levels.strides, levels.channels, teacher_channels, **options)
    except ValueError as error:
        raise ValueError(f"ODAM.KD does not describe a distiller {name}: {error}") from error


def fgd_settings(node: CfgNode, kind: str) -> FGDSettings:
    """FGD's temperature and weights.

    Args:
        node: ``ODAM.KD``.
        kind: of the student, for ``PRESET auto``.

    Raises:
        ValueError: an unknown preset.
    """
    own = node.FGD
    preset = kind if own.PRESET == "auto" else own.PRESET
    if preset not in FGD_PRESETS:
        raise ValueError(f"FGD.PRESET is {own.PRESET!r}; valid values are auto, {', '.join(FGD_PRESETS)}")
    return replace(FGD_PRESETS[preset], **_given(own, FGD_KEYS))


def _given(node: CfgNode, names: Mapping[str, str]) -> dict[str, float]:
    return {field: node[key] for key, field in names.items() if node[key] >= 0}


def _fgd(node: CfgNode, student: nn.Module) -> dict[str, Any]:
    return {"settings": fgd_settings(node, kind_of(student))}


def _odam_kd(node: CfgNode, student: nn.Module) -> dict[str, Any]:
    return _fgd(node, student) | {
        "foreground": node.FOREGROUND,
        "background": node.BACKGROUND,
        "attention": node.ATTENTION,
        "weigh_channels": node.WEIGH_CHANNELS,
    }


def _gid(node: CfgNode, student: nn.Module) -> dict[str, Any]:
    names = ("INSTANCES", "FEATURE", "RELATION", "RESPONSE_CLASS", "RESPONSE_BOX")
    settings = GIDSettings(**{name.lower(): node.GID[name] for name in names})
    return {"settings": settings} | ({"assign": _positives_of(student)} if isinstance(student, DenseDetector) else {})


def _positives_of(student: DenseDetector) -> Assign:
    """A detector's own rule for positives, for GID's instances."""

    def assign(anchors: Tensor, boxes: Tensor) -> Tensor:
        sizes = [len(anchors)]
        if isinstance(student, FCOS):
            # It asks for each level's anchors, which are as large as the stride: of each level one size.
            sizes = (anchors[:, 2] - anchors[:, 0]).unique_consecutive(return_counts=True)[1].tolist()
        instances = Instances((0, 0))
        instances.gt_boxes = Boxes(boxes)
        instances.gt_classes = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
        ((labels,), _) = student.label_anchors([Boxes(own) for own in anchors.split(sizes)], [instances])
        return (labels >= 0) & (labels < student.num_classes)

    return assign


def _fkd(node: CfgNode, student: nn.Module) -> dict[str, Any]:
    preset = FKD_TWO_STAGE if kind_of(student) == "two_stage" else FKD_ONE_STAGE
    keys = {name.upper(): name for name in ("temperature", "feature", "attention", "relation")}
    return {"settings": replace(preset, **_given(node.FKD, keys))}


def _pkd(node: CfgNode, student: nn.Module) -> dict[str, Any]:
    return {"weight": node.PKD.WEIGHT if node.PKD.WEIGHT >= 0 else PKD_WEIGHTS[kind_of(student)]}


_OPTIONS = {
    "odam_kd": _odam_kd,
    "fgd": _fgd,
    "fgfi": lambda node, student: {"ratio": node.FGFI.RATIO, "weight": node.FGFI.WEIGHT},
    "gid": _gid,
    "fkd": _fkd,
    "cwd": lambda node, student: {"temperature": node.CWD.TEMPERATURE, "weight": node.CWD.WEIGHT},
    "pkd": _pkd,
}
