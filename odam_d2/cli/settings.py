"""The config of a command, with what its options change."""

import argparse
from collections.abc import Callable

import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances

from odam_d2.config import load_config
from odam_d2.data.own import add_datasets, is_described
from odam_d2.data.same_classes import check_same_classes
from odam_d2.modeling.config_check import check_config

# Detectors whose classes are the phrases of a text.
PHRASES = ("ODAMGrounded", "ODAMOWL")
# Options that are short for a key of the config.
SHORT_FOR = {
    "method": "METHOD",
    "layer": "LAYER",
    "drise_masks": "DRISE_MASKS",
    "confidence_threshold": "CONFIDENCE_THRESHOLD",
    "max_instances": "MAX_INSTANCES",
}


def read_config(args: argparse.Namespace) -> CfgNode:
    """``--config-file`` with ``--opts``, and then the options that are short for keys of ``ODAM``.

    A dataset that ``--dataset`` names and ``ODAM.DATASETS`` describes, or both at once as in ``mine=ann.json:images/``,
    becomes ``DATASETS.TEST``: its classes are the detector's.

    Args:
        args: of a command that has the first two.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a key or value that cannot be used, such as a device that is not there, or a described dataset with
            other classes than the detector, or a text for a detector whose classes are no phrases.
    """
    cfg = load_config(args.config_file, args.opts)
    if "dataset" in args:
        names = add_datasets(cfg, [args.dataset])
        if is_described(cfg, names[0]):
            check_same_classes(cfg, names)
            cfg.DATASETS.TEST = names
    for option, key in SHORT_FOR.items():
        value = vars(args).get(option)
        if value is not None:
            cfg.ODAM.EXPLAIN[key] = value
    if vars(args).get("text") is not None:
        if cfg.MODEL.META_ARCHITECTURE not in PHRASES:
            raise ValueError(
                f"--text says what to look for, and {cfg.MODEL.META_ARCHITECTURE} has classes of its own; leave it "
                f"out, or use a config with {' or '.join(PHRASES)}"
            )
        cfg.MODEL.TRANSFORMERS.TEXT = args.text
    check_config(cfg)
    return cfg


def surest(cfg: CfgNode) -> Callable[[Instances], torch.Tensor]:
    """Which detections of an image a config shows: their positions, from all of them by descending score."""
    options = cfg.ODAM.EXPLAIN
    return lambda found: (found.scores >= options.CONFIDENCE_THRESHOLD).nonzero()[: options.MAX_INSTANCES, 0]
