"""What a config says that no detector can be built from, found before weights and images are read."""

from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches

import torch
from detectron2.config import CfgNode
from detectron2.modeling import (
    ANCHOR_GENERATOR_REGISTRY,
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_KEYPOINT_HEAD_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    RPN_HEAD_REGISTRY,
)

# Keys that name a part of a detector, and where the parts are registered.
PARTS = {
    "META_ARCHITECTURE": META_ARCH_REGISTRY,
    "BACKBONE.NAME": BACKBONE_REGISTRY,
    "ANCHOR_GENERATOR.NAME": ANCHOR_GENERATOR_REGISTRY,
    "PROPOSAL_GENERATOR.NAME": PROPOSAL_GENERATOR_REGISTRY,
    "RPN.HEAD_NAME": RPN_HEAD_REGISTRY,
    "ROI_HEADS.NAME": ROI_HEADS_REGISTRY,
    "ROI_BOX_HEAD.NAME": ROI_BOX_HEAD_REGISTRY,
    "ROI_MASK_HEAD.NAME": ROI_MASK_HEAD_REGISTRY,
    "ROI_KEYPOINT_HEAD.NAME": ROI_KEYPOINT_HEAD_REGISTRY,
}
INPUT_FORMATS = ("BGR", "RGB")


def check_config(cfg: CfgNode) -> None:
    """Refuse a config whose detector cannot be built here, or would not do what the config says.

    Args:
        cfg: an experiment.

    Raises:
        ValueError: an unknown part, regions that come with the images, a device that is not there, images that are not
            BGR or RGB, augmentation at test time, FeatureNMS without embeddings, or ODAM-Train with a box head whose
            regions share statistics; the message names the key, its value and the remedy.
    """
    if cfg.MODEL.PROPOSAL_GENERATOR.NAME == "PrecomputedProposals":
        # The name by which Detectron2 builds a detector without a first stage.
        raise ValueError(
            "MODEL.PROPOSAL_GENERATOR.NAME is 'PrecomputedProposals', and images are read here without proposals; set "
            "it to RPN, or hand them to observe() of a model that you built yourself"
        )
    for key, registry in PARTS.items():
        name = cfg.MODEL
        for part in key.split("."):
            name = name[part]
        # Parts that a detector does not have may be called "".
        if name or key in ("META_ARCHITECTURE", "BACKBONE.NAME"):
            _check_part(f"MODEL.{key}", name, [known for known, _ in registry])
    _check_device(cfg.MODEL.DEVICE)
    if cfg.INPUT.FORMAT not in INPUT_FORMATS:
        raise ValueError(
            f"INPUT.FORMAT is {cfg.INPUT.FORMAT!r}; valid values are {', '.join(INPUT_FORMATS)}: set the order of "
            "channels that the weights were trained with"
        )
    for key in ("PIXEL_MEAN", "PIXEL_STD"):
        # Three channels less one number would be a wrong answer, and no error.
        if len(cfg.MODEL[key]) != len(cfg.INPUT.FORMAT):
            raise ValueError(f"MODEL.{key} is {list(cfg.MODEL[key])}; it must hold a number for each of three channels")
    if cfg.INPUT.MIN_SIZE_TEST < 0 or cfg.INPUT.MAX_SIZE_TEST < 1:
        raise ValueError(
            f"INPUT.MIN_SIZE_TEST {cfg.INPUT.MIN_SIZE_TEST} and INPUT.MAX_SIZE_TEST {cfg.INPUT.MAX_SIZE_TEST} leave no "
            "pixels of an image; set the sides that the weights were trained with"
        )
    if cfg.TEST.AUG.ENABLED:
        raise ValueError(
            "TEST.AUG.ENABLED is True, and detections are made, explained and measured from one forward pass: set it "
            "to False"
        )
    if cfg.ODAM.NMS.NAME == "feature" and cfg.ODAM.EMBEDDING.DIM == 0:
        raise ValueError(
            "ODAM.NMS.NAME is 'feature', which needs a detector with an embedding head: set ODAM.EMBEDDING.DIM, and "
            "train"
        )
    norm = cfg.MODEL.ROI_BOX_HEAD.NORM
    if cfg.ODAM.TRAIN.ENABLED and cfg.MODEL.META_ARCHITECTURE == "ODAMRCNN" and "BN" in norm and norm != "FrozenBN":
        raise ValueError(
            f"MODEL.ROI_BOX_HEAD.NORM is {norm}, whose statistics of a batch mix the regions, and ODAM.TRAIN.ENABLED "
            "explains each by itself: set it to GN or FrozenBN"
        )


@contextmanager
def building(cfg: CfgNode) -> Iterator[None]:
    """Where a detector is built: what Detectron2 says of a value that it cannot use becomes one sentence.

    Args:
        cfg: from which it is built; it is checked first.

    Raises:
        ValueError: as for :func:`check_config`, or for whatever else the config says wrong.
    """
    check_config(cfg)
    try:
        yield
    except (KeyError, IndexError, AssertionError, AttributeError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, KeyError) and error.args:
            keys = ", ".join(_keys_with(cfg.MODEL, error.args[0], "MODEL"))
            reason = f"nothing is called {reason}; see {keys}" if keys else reason
        raise ValueError(f"no detector can be built from this config: {reason}") from error


def _check_part(key: str, name: object, known: list[str]) -> None:
    if name not in known:
        close = ", ".join(get_close_matches(str(name), known, cutoff=0.0))
        raise ValueError(f"{key} is {name!r}, and nothing of that name is registered; the closest are {close}")


def _check_device(name: object) -> None:
    try:
        torch.empty(0, device=torch.device(name))
    # PyTorch's: unknown or without a driver; in three ways, not built in; no name at all.
    except (RuntimeError, AssertionError, NotImplementedError, ImportError, TypeError) as error:
        message = f"MODEL.DEVICE is {name!r}, and PyTorch has no such device on this machine; set it to cpu"
        raise ValueError(message) from error


def _keys_with(node: CfgNode, value: object, path: str) -> Iterator[str]:
    """The keys that hold a value, or a list with it."""
    for key, own in node.items():
        if isinstance(own, CfgNode):
            yield from _keys_with(own, value, f"{path}.{key}")
        elif own == value or (isinstance(own, (list, tuple)) and value in own):
            yield f"{path}.{key}"
