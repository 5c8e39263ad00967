"""ODAM-Train, section 6.1: maps of one object shall agree, maps of different objects shall not.

Shapes: P positive samples of one image, O objects among them, (gh,gw) grid of their maps.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou

NEGATIVES = ("all", "overlapping")
# Cosines are kept this far from 0 and 1, where a logarithm is infinite.
MARGIN = 1e-4


class PairLosses(NamedTuple):
    """The two losses of one image, each a scalar divided by N as it enters the detector's loss.

    Attributes:
        consistency: L_con / N, equation (8).
        separation: L_sep / N, equation (9).
        pairs: N, how many pairs of maps were compared.
    """

    consistency: Tensor
    separation: Tensor
    pairs: int


def odam_train_losses(
    maps: Tensor, objects: Tensor, ious: Tensor, boxes: Tensor | None = None, negatives: str = "all"
) -> PairLosses:
    """Consistency and separation loss of one image's positives, equations (8) and (9).

    Of the positives P(p) of every object p, the one whose predicted box has the highest IoU with the object's is the
    best one. Then

        L_con = sum_p sum_{n in P(p)} -log cos(H_best(p), H_n),
        L_sep = sum_p sum_{m not in P(p)} -log(1 - cos(H_best(p), H_m)),

    and both are divided by N, the number of pairs in the two sums. A best map and itself are no pair. Cosines are
    clamped to [:data:`MARGIN`, 1 - :data:`MARGIN`]; beyond, a pair costs the same whatever its maps, and has no
    gradient. An all-zero map has the cosine 0 with every other, as in ODAM-NMS.

    The pairs of an image are one matrix product (O,P); none is gathered.

    Args:
        maps: of the positives, non-negative, (P,gh,gw).
        objects: which object each positive was matched to, any numbers, (P,) int64.
        ious: IoU of each one's predicted box with that object's box, (P,) in [0,1].
        boxes: that object's box, XYXY, (P,4); read for ``negatives="overlapping"`` alone.
        negatives: ``all``: every positive of another object counts in L_sep, as in the paper; ``overlapping``: only
            those whose object's box overlaps, as in its authors' code.

    Returns:
        the losses; without pairs they are 0, connected to ``maps`` all the same.

    Raises:
        ValueError: shapes that do not fit, an unknown ``negatives``, or ``overlapping`` without boxes.
    """
    _check(maps, objects, ious, boxes, negatives)
    if len(maps) == 0:
        return PairLosses(maps.sum(), maps.sum(), 0)
    best, of_object = _best_of_each(objects, ious)
    # Cosines of half-precision maps would lose what little differs.
    with torch.autocast(maps.device.type, enabled=False):
        vectors = _unit_vectors(maps.flatten(1) if maps.dtype == torch.float64 else maps.flatten(1).float())
        cosine = (vectors[best] @ vectors.T).clamp(MARGIN, 1 - MARGIN)
    same = of_object == torch.arange(len(best), device=of_object.device)[:, None]
    other = ~same
    if negatives == "overlapping":
        other &= box_iou(boxes[best], boxes) > 0
    itself = torch.zeros_like(same)
    itself[torch.arange(len(best)), best] = True
    same = same & ~itself
    pairs = int(same.sum()) + int(other.sum())
    share = 1 / max(pairs, 1)
    zero = torch.zeros_like(cosine)
    return PairLosses(
        consistency=share * torch.where(same, -cosine.log(), zero).sum(),
        separation=share * torch.where(other, -(1 - cosine).log(), zero).sum(),
        pairs=pairs,
    )


def _best_of_each(objects: Tensor, ious: Tensor) -> tuple[Tensor, Tensor]:
    """Row of every object's best positive (O,), the first of equal ones, and each positive's object as 0..O-1 (P,)."""
    names, of_object = torch.unique(objects, return_inverse=True)
    own = torch.where(of_object == torch.arange(len(names), device=objects.device)[:, None], ious.detach(), -1.0)
    # Of equal ones the first, on every device.
    return own.sort(dim=1, descending=True, stable=True).indices[:, 0], of_object


def _unit_vectors(vectors: Tensor) -> Tensor:
    """Each row divided by its length, (P,M); an all-zero row stays zero, and has the gradient 0."""
    peak = vectors.detach().amax(dim=1, keepdim=True)
    safe = torch.where(peak > 0, peak, torch.ones_like(peak))
    # First by the largest value: the square of a tiny number is 0.
    scaled = vectors / safe
    length = torch.where(peak > 0, scaled.square().sum(dim=1, keepdim=True), torch.ones_like(peak)).sqrt()
    return scaled / length


def _check(maps: Tensor, objects: Tensor, ious: Tensor, boxes: Tensor | None, negatives: str) -> None:
    if negatives not in NEGATIVES:
        raise ValueError(f"negatives is {negatives!r}; valid values are {', '.join(NEGATIVES)}")
    count = len(maps)
    if maps.dim() != 3 or objects.shape != (count,) or ious.shape != (count,):
        shapes = ", ".join(str(tuple(x.shape)) for x in (maps, objects, ious))
        raise ValueError(f"maps (P,gh,gw), objects (P,) and ious (P,) do not fit: {shapes}")
    if negatives == "overlapping" and (boxes is None or boxes.shape != (count, 4)):
        found = None if boxes is None else tuple(boxes.shape)
        raise ValueError(f"negatives='overlapping' needs the objects' boxes ({count},4), not {found}")
