"""Notices of other packages to their own developers, about which nobody who runs a detector can do anything.

Commands hide them for good; importing odam_d2 hides them only while it imports, so that a library's user keeps every
warning about code of his own. Nothing but these messages is hidden.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

# (category, start of the message), a regular expression as in warnings.filterwarnings.
WARNINGS = (
    (FutureWarning, r"`torch\.jit\.\w+` is deprecated"),
    (DeprecationWarning, r"`torch\.jit\.\w+` is deprecated"),
    (UserWarning, r"torch\.meshgrid: in an upcoming release"),
    # Of pycocotools, under NumPy 2.
    (DeprecationWarning, r"__array__ implementation doesn't accept a copy keyword"),
    # Of Detectron2, whose releases import it.
    (UserWarning, r"pkg_resources is deprecated as an API"),
    (DeprecationWarning, r"pkg_resources is deprecated as an API"),
)
# (logger, start of the message).
LOG = (
    ("torch.fx._symbolic_trace", "is_fx_tracing will return true for both"),
    # When Detectron2 lists the environment.
    ("torch.utils.cpp_extension", "No CUDA runtime is found, using CUDA_HOME="),
    # Of any file that numbers its categories in another way; docs/your_data.md says that it may.
    ("detectron2.data.datasets.coco", "Category ids in annotations are not in [1, #categories]!"),
)


def hide_notices() -> None:
    """Hide them for the rest of this process; to be called before PyTorch and Detectron2 are imported."""
    for category, message in WARNINGS:
        warnings.filterwarnings("ignore", message, category)
    for logger, _ in LOG:
        logging.getLogger(logger).addFilter(_is_news)


@contextmanager
def hidden_notices() -> Iterator[None]:
    """Hide them within a block; afterwards everything is shown as before.

    Not for code that runs often: the end of the block lets Python forget which warnings it has shown already.
    """
    new = [logging.getLogger(logger) for logger, _ in LOG if _is_news not in logging.getLogger(logger).filters]
    try:
        with warnings.catch_warnings():
            hide_notices()
            yield
    finally:
        for logger in new:
            logger.removeFilter(_is_news)


@cache
def use_up_notices() -> None:
    """Let PyTorch say unseen what it says once a process, on the occasion of Detectron2's first forward pass."""
    # Imported here: this module comes before both.
    import torch
    from detectron2.utils.tracing import is_fx_tracing

    with hidden_notices():
        torch.meshgrid(torch.zeros(1), torch.zeros(1))
        is_fx_tracing()


def _is_news(record: logging.LogRecord) -> bool:
    message = record.getMessage().lstrip()
    return not any(record.name == logger and message.startswith(start) for logger, start in LOG)
