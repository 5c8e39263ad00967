"""Configs, weights and detectors by name."""

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from odam_d2.config import load_config
from odam_d2.model_zoo.files import get_config_file
from odam_d2.modeling.checkpoint import load_weights
from odam_d2.modeling.config_check import building

# A config NAME_train.yaml trains the weights that NAME.yaml names.
_TRAINING = "_train.yaml"


def get_config(name: str, trained: bool = False) -> CfgNode:
    """The config of an experiment.

    Args:
        name: as for :func:`get_config_file`.
        trained: set ``MODEL.WEIGHTS`` to the experiment's trained weights; else it is what the file says, which may be
            empty or weights to begin training with.

    Raises:
        FileNotFoundError: no config has that name.
        ValueError: trained weights are asked for, and there are none.
    """
    cfg = load_config(get_config_file(name))
    if trained:
        cfg.MODEL.WEIGHTS = get_checkpoint_url(name)
    return cfg


def get_checkpoint_url(name: str) -> str:
    """The trained weights of an experiment.

    Args:
        name: as for :func:`get_config_file`.

    Returns:
        what ``MODEL.WEIGHTS`` takes: ``odam://...`` comes with odam_d2, ``detectron2://...`` needs a network once.

    Raises:
        FileNotFoundError: no config has that name.
        ValueError: there are no trained weights.
    """
    get_config_file(name)
    result = f"{name.removesuffix(_TRAINING)}.yaml" if name.endswith(_TRAINING) else name
    weights = get_config(result).MODEL.WEIGHTS
    if not weights or "ImageNetPretrained" in weights:
        raise ValueError(f"there are no trained weights of {name}; train it with odam train")
    return weights


def get(name: str, trained: bool = True, device: str | None = None) -> nn.Module:
    """A detector.

    Args:
        name: as for :func:`get_config_file`.
        trained: with its trained weights, which must fill the whole detector; else with random ones.
        device: ``cpu``, ``cuda``, ...; default a GPU where there is one.

    Returns:
        the detector in training mode, as ``detectron2.model_zoo.get`` returns it.

    Raises:
        FileNotFoundError: no config has that name, or its weights are missing.
        ValueError: there are no trained weights, they cannot be used, or the device is not there.
    """
    cfg = get_config(name, trained)
    if device is not None:
        cfg.MODEL.DEVICE = device
    with building(cfg):
        model = build_model(cfg)
    if trained:
        load_weights(model, cfg.MODEL.WEIGHTS)
    return model
