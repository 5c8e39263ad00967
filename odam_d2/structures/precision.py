"""Numbers of half precision made whole: :func:`full_precision`."""

import torch
from torch import Tensor


def full_precision(x: Tensor) -> Tensor:
    """A tensor in float32, whatever autocast made of it; float64 stays what it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
