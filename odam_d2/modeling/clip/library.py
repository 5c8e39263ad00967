"""OpenCLIP, an extra: imported when a model needs it, and its errors made into sentences."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from odam_d2.modeling.checkpoint import HUB

# What a folder of OpenCLIP holds besides its weights.
CONFIG_FILE = "open_clip_config.json"
# Seconds to wait for the hub's first answer.
HUB_TIMEOUT = 10.0


def library() -> ModuleType:
    """The package ``open_clip``.

    Raises:
        ValueError: it is not installed.
    """
    if find_spec("open_clip") is None:
        raise ValueError("CLIP needs the package open_clip_torch, which is not installed: pip install open_clip_torch")
    return import_module("open_clip")


def read_model(name: str) -> tuple[nn.Module, Any]:
    """A model with its weights, and its tokenizer.

    Args:
        name: a folder with ``open_clip_config.json`` and weights, or a model on the Hugging Face hub that has them,
            such as ``timm/resnet50x4_clip.openai``; ``hf://`` may stand before it.

    Raises:
        ValueError: the folder describes no model, or its weights do not fit.
        OSError: it is no folder, and the hub cannot be read.
    """
    package = library()
    folder = _folder_of(name.removeprefix(HUB))
    if not (folder / CONFIG_FILE).is_file():
        raise ValueError(f"{name} has no {CONFIG_FILE}; give a folder, or a model on the hub, that OpenCLIP wrote")
    try:
        model = package.create_model(f"local-dir:{folder}", require_pretrained=True)
        return model, package.get_tokenizer(f"local-dir:{folder}")
    except Exception as error:  # of torch, of json, of the library: each has errors of its own
        words = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(f"{name} holds no model that OpenCLIP can build: {words}") from error


def _folder_of(name: str) -> Path:
    """Where a model's files are; those of the hub are fetched, or taken from before where the hub does not answer."""
    if Path(name).is_dir():
        return Path(name)
    hub = import_module("huggingface_hub")
    try:
        hub.HfApi().model_info(name, timeout=HUB_TIMEOUT)
        there = {}
    except Exception:  # of the network, of its settings, or of the hub: each has errors of its own
        there = {"local_files_only": True}
    try:
        # The same weights lie there in several forms.
        wanted = ["*.json", "*.txt", "open_clip_model.safetensors"]
        return Path(hub.snapshot_download(name, allow_patterns=wanted, **there))
    except Exception as error:
        raise OSError(
            f"{name} is no folder here and cannot be fetched from the Hugging Face hub; check the name and the "
            "network, or give a folder that OpenCLIP wrote"
        ) from error
