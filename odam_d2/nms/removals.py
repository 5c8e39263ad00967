"""Why NMS removed a candidate: by whom, at what overlap, and how alike the two were.

Shapes: D candidates, K kept ones, M removed ones, (h,w) map, E embedding. Boxes are XYXY.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from odam_d2.nms.functions import Duplicates, iou, pair_correlations

# Removed candidates that are compared with all kept ones at a time.
BLOCK = 256


@dataclass(frozen=True, eq=False, repr=False)
class Removals:
    """The candidates that another one removed, by descending score.

    Args:
        removed: their positions among all candidates, (M,) int64.
        by: the kept candidate that removed each, the first of Algorithm 1 to do so: the best one, (M,) int64.
        iou: of the two boxes, (M,).
        correlation: of the two heat maps, (M,); None where NMS compared no maps.
        distance: of the two embeddings, (M,); None where NMS compared no embeddings.
    """

    removed: Tensor
    by: Tensor
    iou: Tensor
    correlation: Tensor | None = None
    distance: Tensor | None = None

    def __len__(self) -> int:
        return len(self.removed)

    def __repr__(self) -> str:
        told = [name for name in ("iou", "correlation", "distance") if getattr(self, name) is not None]
        return f"Removals({len(self)} candidates removed by {len(self.by.unique())} kept ones; {', '.join(told)})"


def list_removals(
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor,
    keep: Tensor,
    duplicates: Duplicates,
    maps: Tensor | None = None,
    correlation: str = "cosine",
    embeddings: Tensor | None = None,
) -> Removals:
    """Find out which kept candidate removed each removed one.

    Args:
        boxes: (D,4).
        scores: (D,).
        classes: (D,) int64.
        keep: all that NMS kept, by descending score, (K,) int64.
        duplicates: the relation NMS used, such as :func:`odam_d2.nms.functions.odam_duplicates`.
        maps: (D,h,w) or (D,n), to state correlations.
        correlation: ``cosine`` or ``pearson``.
        embeddings: (D,E), to state distances.

    Raises:
        ValueError: ``keep`` is not what NMS by this relation keeps: a candidate is missing that nobody removed.
    """
    order = scores.argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    gone = torch.ones_like(order, dtype=torch.bool).index_fill(0, keep, False)
    removed = order[gone[order]]
    by, overlap = torch.empty_like(removed), boxes.new_empty(len(removed), dtype=torch.float32)
    for start in range(0, len(removed), BLOCK):
        part = removed[start : start + BLOCK]
        before = (rank[keep][:, None] < rank[part]) & (classes[keep][:, None] == classes[part])
        ruled_out = duplicates(keep, part) & before
        if not ruled_out.any(dim=0).all():
            lone = int(part[~ruled_out.any(dim=0)][0])
            raise ValueError(f"candidate {lone} was not kept, and no kept one rules it out by this relation")
        # Kept ones stand in descending score: the first True is the best one.
        better = keep[ruled_out.int().argmax(dim=0)]
        by[start : start + BLOCK] = better
        overlap[start : start + BLOCK] = iou(boxes[part], boxes[better]).diagonal()
    corr, distance = None, None
    if maps is not None:
        corr = pair_correlations(maps, removed, by, correlation)
    if embeddings is not None:
        distance = (embeddings[removed] - embeddings[by]).float().norm(dim=1)
    return Removals(removed, by, overlap, corr, distance)


def list_spared(
    boxes: Tensor, classes: Tensor, keep: Tensor, iou_threshold: float, maps: Tensor, correlation: str = "cosine"
) -> Removals:
    """Kept candidates that greedy NMS would have removed: they overlap a better kept one of their class.

    Args:
        boxes: (D,4).
        classes: (D,) int64.
        keep: all that ODAM-NMS kept, by descending score, (K,) int64.
        iou_threshold: in [0,1].
        maps: (D,h,w) or (D,n).
        correlation: ``cosine`` or ``pearson``.

    Returns:
        in the place of removed candidates the spared ones, and by each the kept one that it overlaps most.
    """
    overlap = iou(boxes[keep], boxes[keep]) * (classes[keep][:, None] == classes[keep])
    # Row: the better one of a pair.
    overlap = overlap.triu(diagonal=1)
    most, better = overlap.max(dim=0) if len(keep) else (overlap[:0].sum(dim=1), keep[:0])
    spared = (most > iou_threshold).nonzero()[:, 0]
    second, first = keep[spared], keep[better[spared]]
    return Removals(second, first, most[spared], pair_correlations(maps, first, second, correlation))
