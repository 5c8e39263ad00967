"""Which detections of an image a user means."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances
from torch import Tensor

from odam_d2.explain.targets import closest_classes

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
            raise ValueError(f"the detector has no class {chosen!r}; {closest_classes(chosen, class_names)}")
        return everything[found.pred_classes == list(class_names).index(chosen)]
    values = _to_array(chosen)
    if values.dtype == bool:
        if values.shape != (len(found),):
            raise ValueError(f"the mask has shape {values.shape}; the detector found {len(found)} in this image")
        return everything[torch.from_numpy(values).to(everything.device)]
    if values.size == 0:
        return everything[:0]
    if values.dtype.kind not in "iu" or values.ndim > 1:
        what = f"{values.dtype} of shape {values.shape}" if isinstance(chosen, (np.ndarray, Tensor)) else repr(chosen)
        raise ValueError(
            f"instances are positions (whole numbers), a mask (True and False) or a class name, not {what}"
        )
    positions = values.reshape(-1).tolist()
    for i in positions:
        if not 0 <= i < len(found):
            raise ValueError(f"there is no detection {i}; the detector found {len(found)} in this image")
    return everything[positions]


def _to_array(chosen: Any) -> np.ndarray:
    """Tensors from any device, lists, arrays and numbers."""
    if isinstance(chosen, Tensor):
        return chosen.detach().cpu().numpy()
    try:
        return np.asarray(chosen)
    except ValueError:
        # Lists of lists of different lengths.
        return np.asarray(chosen, dtype=object)
