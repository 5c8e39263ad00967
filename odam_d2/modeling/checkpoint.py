"""Loading weights so that a detector is never explained, or evaluated, with part of it left random."""

import hashlib
import pickle
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import PathManager
from torch import nn

from odam_d2.files import write_atomically

# Where weights on the Hugging Face hub are, in MODEL.WEIGHTS.
HUB = "hf://"
# What weights are called there; of two the library takes the first.
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
# Keys listed in an error message; the rest is counted.
_SHOWN_KEYS = 4
# Characters of what another library says.
_LONGEST_REASON = 1200
# Buffers that older checkpoints hold and a config decides.
_CONSTANTS = ("pixel_mean", "pixel_std", "num_batches_tracked")


class ForeignCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer that also reads what others wrote, for models that know how.

    Such a model has ``read_pretrained``, for a folder that ``save_pretrained`` wrote or ``hf://`` and a name on the
    Hugging Face hub, and ``adapt_weights``, for files with other names in them.
    """

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Overrides Detectron2's, which knows files alone."""
        read = getattr(self.model, "read_pretrained", None)
        if read is None or not is_pretrained(path):
            return super().load(path, *args, **kwargs)
        self._load_model({"model": read(path)})
        return {}

    def _load_file(self, filename: str) -> Any:
        loaded = super()._load_file(filename)
        adapt = getattr(self.model, "adapt_weights", None)
        return loaded if adapt is None else {**loaded, "model": adapt(loaded["model"])}


class CompleteCheckpointer(ForeignCheckpointer):
    """Detectron2's checkpointer that refuses weights which do not fill the whole model.

    ``.pth`` files are read with ``weights_only=True``; Detectron2's own ``.pkl`` files are pickles and are trusted as
    Detectron2 trusts them.
    """

    def _torch_load(self, f: str) -> Any:
        try:
            return torch.load(f, map_location="cpu", weights_only=True)
        # What PyTorch raises for a file of another kind depends on the file's first bytes.
        except (pickle.UnpicklingError, EOFError, KeyError, IndexError, ValueError, RuntimeError) as error:
            raise ValueError("PyTorch cannot read them as a checkpoint of tensors alone (weights_only=True)") from error

    def _load_model(self, checkpoint: Any) -> Any:
        incompatible = super()._load_model(checkpoint)
        problems = [shorten(listed) for listed in self._problems(incompatible) if listed]
        if problems:
            raise ValueError(f"they do not fit this architecture: {'; '.join(problems)}")
        return incompatible

    def _problems(self, incompatible: Any) -> list[list[str]]:
        """What does not fit, kind by kind."""
        wrong = [f"{name} is {here} in the file, {model} in the model" for name, here, model in incompatible[2]]
        return [wrong + [f"{name} is missing" for name in incompatible.missing_keys]]


class ExactCheckpointer(CompleteCheckpointer):
    """One that also refuses weights of which a part would be left over: they are another network's.

    All of a smaller network's weights can have the names and shapes of some of a larger one's: a ResNet-101 fills a
    ResNet-50.
    """

    def _problems(self, incompatible: Any) -> list[list[str]]:
        """Shapes, missing and unexpected keys by themselves, so that none hides another."""
        wrong = [f"{name} is {here} in the file, {model} in the model" for name, here, model in incompatible[2]]
        missing = [f"{name} is missing in the file" for name in incompatible.missing_keys]
        left = [name for name in incompatible.unexpected_keys if name.split(".")[-1] not in _CONSTANTS]
        return [wrong, missing, [f"{name} of the file is not in the model" for name in left]]


def shorten(problems: Sequence[str]) -> str:
    """The first of some problems with weights in one line; the rest is counted.

    Args:
        problems: a key and what is wrong with it each.
    """
    more = f" (and {len(problems) - _SHOWN_KEYS} more)" if len(problems) > _SHOWN_KEYS else ""
    return "; ".join(problems[:_SHOWN_KEYS]) + more


class TrainingCheckpointer(ForeignCheckpointer):
    """Detectron2's checkpointer, from which a run can go on whenever it was killed.

    A checkpoint that was being written then is not named as the last one, and is written again.
    """

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Overrides Detectron2's: the file that names the last checkpoint is never empty."""
        write_atomically(Path(self.save_dir, "last_checkpoint"), last_filename_basename)


def load_weights(model: nn.Module, path: str, exact: bool = False) -> None:
    """Fill a whole model from a checkpoint.

    Args:
        model: the detector.
        path: a file or anything Detectron2's ``PathManager`` reads (``odam://...`` comes with odam_d2,
            ``detectron2://...`` needs a network once); for transformer detectors also a folder that
            ``save_pretrained`` wrote, ``hf://facebook/detr-resnet-50``, or Facebook's DETR.
        exact: True refuses a checkpoint that holds more than the model, too.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no path, a file that cannot be read, or weights of another architecture (names the keys).
    """
    if not path:
        raise ValueError("MODEL.WEIGHTS is empty, and a random network has nothing to explain; name a checkpoint")
    try:
        (ExactCheckpointer if exact else CompleteCheckpointer)(model).load(path)
    except FileNotFoundError:
        raise  # by what resolves names such as odam://..., which says what there is
    except (ValueError, OSError, RuntimeError, EOFError, KeyError, AssertionError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:_LONGEST_REASON] or type(error).__name__
        if isinstance(error, AssertionError) and "not found" in reason:
            raise FileNotFoundError(f"there is no weights file {path}") from error
        raise ValueError(f"the weights {path} cannot be used: {reason}") from error


def is_pretrained(path: str) -> bool:
    """Whether a path means weights in the form of Hugging Face's library: a folder, or ``hf://`` and a name."""
    return path.startswith(HUB) or bool(path) and Path(path).is_dir()


def weights_sha256(path: str) -> str:
    """Hash of a checkpoint, for manifests: of its file, or of the weights in a folder or on the Hugging Face hub."""
    if path.startswith(HUB):
        cached = import_module("transformers.utils").cached_file
        options = {"_raise_exceptions_for_missing_entries": False}
        found = (cached(path.removeprefix(HUB), name, **options) for name in HUB_FILES)
        files = [Path(file) for file in found if file][:1]
    elif Path(path).is_dir():
        files = sorted(file for file in Path(path).iterdir() if file.suffix in (".safetensors", ".bin"))
    else:
        files = [Path(PathManager.get_local_path(path))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
