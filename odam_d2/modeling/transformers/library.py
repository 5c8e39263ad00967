"""Hugging Face's ``transformers``, an extra: imported when a detector needs it, and its errors made into sentences."""

import json
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from detectron2.utils.file_io import PathManager
from torch import Tensor, nn

from odam_d2.modeling.checkpoint import HUB, shorten
from odam_d2.modeling.transformers.first_weights import draw_weights


def library() -> ModuleType:
    """The package ``transformers``.

    Raises:
        ValueError: it is not installed.
    """
    if find_spec("transformers") is None:
        raise ValueError(
            "ODAMDETR needs the package transformers, which is not installed: pip install 'transformers>=5.20'"
        )
    return import_module("transformers")


# Seconds to wait for the hub's first answer.
HUB_TIMEOUT = 10.0
# Of the library: what detectors of fixed classes, and of phrases, are made by.
DETECTORS, GROUNDED = "AutoModelForObjectDetection", "AutoModelForZeroShotObjectDetection"


def build_network(name: str, config: str, num_classes: int = 0, kind: str = DETECTORS) -> nn.Module:
    """A detector of the library with random weights.

    Args:
        name: of a model on the hub, or a folder that ``save_pretrained`` wrote; its config alone is read.
        config: a json with such a config instead; a path, or ``odam://quick/detr.json``.
        num_classes: without background; 0: as the config says.
        kind: :data:`DETECTORS` or :data:`GROUNDED`.

    Raises:
        ValueError: neither or both are given, or the config cannot be used.
        OSError: the hub or the file cannot be read.
    """
    if bool(name) == bool(config):
        raise ValueError(
            f"MODEL.TRANSFORMERS.NAME is {name!r} and MODEL.TRANSFORMERS.CONFIG {config!r}; give one of the two"
        )
    settings = _read_json(config) if config else _read_hub(name)
    if num_classes:
        settings.num_labels = num_classes
    # Queries are chosen among the locations of the image at hand, whatever its size.
    if getattr(settings, "anchor_image_size", None):
        settings.anchor_image_size = None
    auto = getattr(library(), kind)
    try:
        # Attention weights are looked at, and only this implementation has them.
        network = auto.from_config(settings, attn_implementation="eager")
    except (ValueError, KeyError, TypeError, RuntimeError, AttributeError, ImportError) as error:
        raise ValueError(f"{config or name} describes no detector that can be built: {_words(error)}") from error
    draw_weights(network)
    return network


def read_weights(path: str, kind: str = DETECTORS) -> dict[str, Tensor]:
    """The weights of a folder that ``save_pretrained`` wrote, or of a model on the hub, by the library's present names.

    Args:
        path: a folder, or ``hf://facebook/detr-resnet-50``.
        kind: :data:`DETECTORS` or :data:`GROUNDED`.

    Raises:
        ValueError: they leave part of their own model random, or hold what it does not have.
        OSError: they cannot be read.
    """
    name = path.removeprefix(HUB)
    try:
        model, report = getattr(library(), kind).from_pretrained(name, output_loading_info=True, **_where(name))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise _unreadable(path, error) from error
    wrong = [f"{key} is {what}" for what in ("missing", "unexpected") for key in sorted(report[f"{what}_keys"])]
    if wrong:
        raise ValueError(f"they do not fill their own model: {shorten(wrong)}")
    return model.state_dict()


def read_tokenizer(name: str) -> Any:
    """The tokenizer of a model on the hub, or in a folder.

    Args:
        name: of the model, or the folder.

    Raises:
        ValueError: a folder without one.
        OSError: the hub cannot be read.
    """
    try:
        return library().AutoTokenizer.from_pretrained(name, **_where(name))
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(name, error) from error


def _read_json(path: str) -> Any:
    file = Path(PathManager.get_local_path(path))
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {path} (MODEL.TRANSFORMERS.CONFIG)")
    try:
        content = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"MODEL.TRANSFORMERS.CONFIG {path} is not json: {_words(error)}") from error
    kind = content.pop("model_type", None) if isinstance(content, dict) else None
    if kind is None:
        raise ValueError(f"MODEL.TRANSFORMERS.CONFIG {path} has no model_type, such as detr or rt_detr")
    try:
        return library().AutoConfig.for_model(kind, **content)
    except Exception as error:  # the library's validation has errors of its own
        raise ValueError(f"MODEL.TRANSFORMERS.CONFIG {path} cannot be used: {_words(error)}") from error


def _read_hub(name: str) -> Any:
    try:
        return library().AutoConfig.from_pretrained(name, **_where(name))
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(name, error) from error


def _where(name: str) -> dict[str, bool]:
    """How to read a model: from the hub, or from what was fetched before where the hub does not answer.

    The library itself would ask again and again for half a minute, and print a line each time.
    """
    if Path(name).is_dir():
        return {}
    try:
        import_module("huggingface_hub").HfApi().model_info(name, timeout=HUB_TIMEOUT)
    except Exception:  # of the network, of its settings, or of the hub: each has errors of its own
        return {"local_files_only": True}
    return {}


def _unreadable(path: str, error: Exception) -> OSError | ValueError:
    """One sentence in place of the library's many."""
    name = path.removeprefix(HUB)
    if Path(name).is_dir():
        return ValueError(f"the folder {name} holds no detector of the library: {_words(error)}")
    return OSError(
        f"{name} is no folder here and cannot be fetched from the Hugging Face hub; check the name and the network, or "
        "give a folder that save_pretrained wrote"
    )


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
