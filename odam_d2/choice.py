"""Which detections of an image a user means."""

import difflib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances
from torch import Tensor

# A class name, a position, positions or a mask (list, array or tensor), or a function that is given the detections and
# returns one of these. None means all.
Chosen = str | int | Sequence[int] | Sequence[bool] | np.ndarray | Tensor | Callable[[Instances], Any] | None


def choose_detections(found: Instances, chosen: Chosen, class_names: Sequence[str]) -> Tensor:
    """The positions of the detections that somebody means, in the order given.

    Args:
        found: all detections of an image.
        chosen: which of them.
        class_names: of the detector.

    Returns:
        (D,) int64.

    Raises:
        ValueError: a detection or class that does not exist, a mask of another length, or anything else.
    """
    if callable(chosen):
        chosen = chosen(found)
    everything = torch.arange(len(found), device=found.scores.device)
    if chosen is None:
        return everything
    if isinstance(chosen, str):
        if chosen not in class_names:
            close = difflib.get_close_matches(chosen, class_names, n=3, cutoff=0.5) or list(class_names[:5])
            raise ValueError(f"the detector has no class {chosen!r}; the closest are {', '.join(close)}")
        return everything[found.pred_classes == list(class_names).index(chosen)]
    values = torch.as_tensor(np.asarray(chosen.cpu() if isinstance(chosen, Tensor) else chosen)).to(everything.device)
    if values.dtype == torch.bool:
        if values.shape != everything.shape:
            raise ValueError(f"the mask has shape {tuple(values.shape)}; the detector found {len(found)} in this image")
        return everything[values]
    if values.numel() == 0:
        return everything[:0]
    if values.is_floating_point() or values.is_complex() or values.dim() > 1:
        raise ValueError(
            f"instances are positions (whole numbers), a mask (True and False) or a class name, not {chosen!r}"
        )
    values = values.reshape(-1).long()
    for i in values.tolist():
        if not 0 <= i < len(found):
            raise ValueError(f"there is no detection {i}; the detector found {len(found)} in this image")
    return values
