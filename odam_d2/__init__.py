"""ODAM for Detectron2: one sharp heat map per detection and per predicted attribute, and what can be built on it.

The names below are imported when they are first used, so that the torch-only parts work without Detectron2.
"""

import sys
from contextlib import nullcontext
from importlib import import_module
from typing import Any

from odam_d2.notices import hidden_notices

__version__ = "0.1.0"

_HOME = {
    "add_odam_config": "odam_d2.config",
    "load_config": "odam_d2.config",
    "read_image": "odam_d2.data.images",
    "register_datasets": "odam_d2.data.own",
    "ODAMPredictor": "odam_d2.predictor",
    "Explanation": "odam_d2.explanation",
    "ODAMTrainer": "odam_d2.engine",
    "ODAMFCOS": "odam_d2.modeling",
    "ODAMRetinaNet": "odam_d2.modeling",
    "ODAMRCNN": "odam_d2.modeling",
    "GradientExplainer": "odam_d2.explain",
    "HeatMaps": "odam_d2.structures",
    "Trace": "odam_d2.structures",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'odam_d2' has no attribute {name!r}")
    home = _HOME[name]
    try:
        with nullcontext() if home in sys.modules else hidden_notices():
            return getattr(import_module(home), name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "detectron2":
            raise
        raise ModuleNotFoundError(
            "odam_d2 needs Detectron2, which is not installed: run 'bash scripts/setup_env.sh --active' in odam_d2's "
            "folder, or build Detectron2 from source",
            name="detectron2",
        ) from None


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
