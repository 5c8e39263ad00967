"""Non-maximum suppression in crowds: greedy, Soft-NMS, FeatureNMS and ODAM-NMS, in the manner of ``torchvision.ops``.

All of them act on each class by itself. But for Soft-NMS they are one algorithm (Algorithm 1 of the paper): go through
the candidates by descending score and keep one unless it duplicates a candidate kept before. They differ in what a
duplicate is. Candidates are taken in blocks: a block is compared with itself, what it keeps suppresses the candidates
after it, and those never enter a comparison again. Nothing is looked at one candidate at a time, which would cost a
wait for the GPU each.

Shapes: D candidates, K kept ones, b candidates of a block, (h,w) map, E embedding. Boxes are XYXY.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_iou

# Candidates that are compared with each other at a time: fewer cost more launches, more cost comparisons with
# candidates that a smaller block would have suppressed before.
BLOCK = 256
# Up to so many candidates of a class, Soft-NMS looks all overlaps up; of more it works them out a row at a time.
LOOK_UP = 2048
# (positions of b candidates, of n candidates) -> (b,n) bool: whether the first, if kept, rules out the second.
Duplicates = Callable[[Tensor, Tensor], Tensor]


def greedy_nms(boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float = 0.5) -> Tensor:
    """Classical NMS: a candidate duplicates a better one of its class if their IoU exceeds the threshold.

    Args:
        boxes: (D,4).
        scores: (D,).
        classes: (D,) int64.
        iou_threshold: in [0,1].

    Returns:
        positions of the kept candidates by descending score, (K,) int64.

    Raises:
        ValueError: shapes that do not fit, or NaN.
    """
    _check(boxes, scores, classes)
    # torchvision compares no halves, and boxes and scores of one type alone.
    precision = torch.promote_types(torch.float32, torch.promote_types(boxes.dtype, scores.dtype))
    return batched_nms(boxes.to(precision), scores.to(precision), classes, iou_threshold)


def odam_nms(
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor,
    maps: Tensor,
    iou_threshold: float = 0.5,
    corr_high: float = 0.8,
    corr_low: float = 0.2,
    correlation: str = "cosine",
) -> Tensor:
    """ODAM-NMS, Algorithm 1 of the paper: candidates are duplicates if they look at the same place.

    With a better candidate of the class, kept before: duplicate if IoU >= ``iou_threshold`` and correlation >
    ``corr_low``, or IoU < ``iou_threshold`` and correlation > ``corr_high``.

    Args:
        boxes: (D,4).
        scores: (D,).
        classes: (D,) int64.
        maps: heat maps on a common grid, (D,h,w) or flat (D,n). The correlation with an all-zero map is 0.
        iou_threshold: in [0,1].
        corr_high: correlation above which boxes that overlap little are duplicates; 1 switches it off.
        corr_low: correlation up to which boxes that overlap much are different objects; -1 switches it off.
        correlation: ``cosine`` of the maps, or ``pearson``: of the maps minus their means.

    Returns:
        positions of the kept candidates by descending score, (K,) int64.

    Raises:
        ValueError: shapes that do not fit, NaN, or an unknown correlation.
    """
    _check(boxes, scores, classes)
    return _suppress(scores, classes, odam_duplicates(boxes, maps, iou_threshold, corr_high, corr_low, correlation))


def feature_nms(
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor,
    embeddings: Tensor,
    iou_high: float = 0.9,
    iou_low: float = 0.1,
    distance: float = 1.0,
) -> Tensor:
    """FeatureNMS (Salscheider, ICPR 2020): where the overlap does not decide, learned embeddings do.

    With a better candidate of the class, kept before: duplicate if IoU > ``iou_high``; none if IoU <= ``iou_low``; in
    between if the Euclidean distance of the embeddings is below ``distance``.

    Args:
        boxes: (D,4).
        scores: (D,).
        classes: (D,) int64.
        embeddings: (D,E).
        iou_high: in [0,1].
        iou_low: in [0,1].
        distance: of embeddings.

    Returns:
        positions of the kept candidates by descending score, (K,) int64.

    Raises:
        ValueError: shapes that do not fit, or NaN.
    """
    _check(boxes, scores, classes)
    return _suppress(scores, classes, feature_duplicates(boxes, embeddings, iou_high, iou_low, distance))


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor,
    method: str = "gaussian",
    sigma: float = 0.5,
    iou_threshold: float = 0.3,
    score_threshold: float = 0.05,
) -> tuple[Tensor, Tensor]:
    """Soft-NMS (Bodla et al., ICCV 2017): overlapping candidates lose score instead of going away.

    The best remaining candidate is taken, again and again, and every other of its class decays by exp(-IoU^2 / sigma),
    or, ``linear``, by 1 - IoU where IoU exceeds ``iou_threshold``.

    Args:
        boxes: (D,4).
        scores: (D,).
        classes: (D,) int64.
        method: ``gaussian`` or ``linear``.
        sigma: of the Gaussian decay.
        iou_threshold: of the linear decay.
        score_threshold: candidates whose decayed score does not exceed it are left out.

    Returns:
        positions of the kept candidates by descending decayed score, (K,) int64, and these scores, (K,).

    Raises:
        ValueError: shapes that do not fit, NaN, or an unknown method.
    """
    _check(boxes, scores, classes)
    if method not in ("gaussian", "linear"):
        raise ValueError(f"unknown Soft-NMS method {method!r}; valid methods are gaussian, linear")

    def decay(first: Tensor, second: Tensor) -> Tensor:
        overlap = iou(first, second)
        return (-(overlap**2) / sigma).exp() if method == "gaussian" else 1 - overlap * (overlap > iou_threshold)

    order, taken = [classes.new_empty(0)], [scores.new_empty(0, dtype=torch.float32)]
    for c in classes.unique():
        own = (classes == c).nonzero()[:, 0]
        chosen, left = _soft_nms_class(boxes[own], scores[own].float(), decay, score_threshold)
        order.append(own[chosen])
        taken.append(left)
    keep, decayed = torch.cat(order), torch.cat(taken)
    # Of equal scores the first candidate comes first, whatever its class.
    by_place = keep.argsort()
    best_first = by_place[decayed[by_place].argsort(descending=True, stable=True)]
    return keep[best_first], decayed[best_first]


def iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU of boxes, in float32; 0 where neither has an area, and 0 / 0 would be no number.

    Args:
        first: (n,4).
        second: (m,4).

    Returns:
        (n,m).
    """
    return box_iou(first.float(), second.float()).nan_to_num(nan=0.0)


def greedy_duplicates(boxes: Tensor, iou_threshold: float) -> Duplicates:
    """Who rules out whom in :func:`greedy_nms`."""
    return lambda first, second: iou(boxes[first], boxes[second]) > iou_threshold


def odam_duplicates(
    boxes: Tensor,
    maps: Tensor,
    iou_threshold: float = 0.5,
    corr_high: float = 0.8,
    corr_low: float = 0.2,
    correlation: str = "cosine",
) -> Duplicates:
    """Who rules out whom in :func:`odam_nms`; arguments and errors are the same."""
    directions = unit_maps(maps, correlation)
    if len(directions) != len(boxes):
        raise ValueError(f"there are {len(directions)} heat maps for {len(boxes)} boxes")

    def duplicates(first: Tensor, second: Tensor) -> Tensor:
        overlap = iou(boxes[first], boxes[second]) >= iou_threshold
        # Rounding may carry the correlation of equal maps beyond 1, which would defeat corr_high = 1.
        corr = (directions[first] @ directions[second].t()).clamp(-1, 1)
        return torch.where(overlap, corr > corr_low, corr > corr_high)

    return duplicates


def feature_duplicates(
    boxes: Tensor, embeddings: Tensor, iou_high: float = 0.9, iou_low: float = 0.1, distance: float = 1.0
) -> Duplicates:
    """Who rules out whom in :func:`feature_nms`; arguments and errors are the same."""
    if embeddings.dim() != 2 or len(embeddings) != len(boxes) or embeddings.isnan().any():
        raise ValueError(f"embeddings must be numbers of shape ({len(boxes)}, E), not {tuple(embeddings.shape)}")
    points = embeddings.float()

    def duplicates(first: Tensor, second: Tensor) -> Tensor:
        overlap = iou(boxes[first], boxes[second])
        near = torch.cdist(points[first], points[second], compute_mode="donot_use_mm_for_euclid_dist") < distance
        return (overlap > iou_high) | ((overlap > iou_low) & near)

    return duplicates


def unit_maps(maps: Tensor, correlation: str = "cosine") -> Tensor:
    """Maps as vectors of length 1, whose dot products are their correlations; an all-zero or constant one stays zero.

    Args:
        maps: (D,h,w) or (D,n).
        correlation: ``cosine`` or ``pearson``.

    Returns:
        (D,n) float32.

    Raises:
        ValueError: an unknown correlation, or a map with NaN.
    """
    if correlation not in ("cosine", "pearson"):
        raise ValueError(f"unknown correlation {correlation!r}; valid values are cosine, pearson")
    if maps.isnan().any():
        raise ValueError("heat maps must not contain NaN")
    flat = maps.reshape(len(maps), -1).float() if len(maps) else maps.new_zeros((0, 1))
    # Scaled first: squares of very small or large values would leave the range of float32.
    flat = flat / _or_one(flat.abs().amax(dim=1, keepdim=True))
    if correlation == "pearson":
        flat = flat - flat.mean(dim=1, keepdim=True)
        # What is left of a constant map is rounding.
        flat = flat.where(flat.abs().amax(dim=1, keepdim=True) > 1e-6, 0.0)
    return flat / _or_one(flat.norm(dim=1, keepdim=True))


def pair_correlations(maps: Tensor, first: Tensor, second: Tensor, correlation: str = "cosine") -> Tensor:
    """How alike the maps of some pairs are.

    Args:
        maps: (D,h,w) or (D,n).
        first: positions, (P,) int64.
        second: those of the partners, (P,) int64.
        correlation: ``cosine`` or ``pearson``.

    Returns:
        (P,) float32 in [-1,1].

    Raises:
        ValueError: an unknown correlation, or a map with NaN.
    """
    directions = unit_maps(maps, correlation)
    return (directions[first] * directions[second]).sum(dim=1).clamp(-1, 1)


def _or_one(x: Tensor) -> Tensor:
    return x.where(x > 0, 1.0)


def _check(boxes: Tensor, scores: Tensor, classes: Tensor) -> None:
    if boxes.shape != (len(boxes), 4) or scores.shape != (len(boxes),) or classes.shape != (len(boxes),):
        raise ValueError(
            "boxes, scores and classes must have shapes (D,4), (D,) and (D,), "
            f"not {tuple(boxes.shape)}, {tuple(scores.shape)} and {tuple(classes.shape)}"
        )
    if boxes.isnan().any() or scores.isnan().any():
        raise ValueError("boxes and scores must not contain NaN")


def _suppress(scores: Tensor, classes: Tensor, duplicates: Duplicates) -> Tensor:
    """Algorithm 1 for any relation of duplicates, class by class."""
    order = scores.argsort(descending=True, stable=True)
    kept = [_suppress_class(order[classes[order] == c], duplicates) for c in classes.unique()]
    if not kept:
        return order
    keep = torch.cat(kept)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    return keep[rank[keep].argsort()]


def _suppress_class(order: Tensor, duplicates: Duplicates) -> Tensor:
    kept = []
    while len(order):
        block, order = order[:BLOCK], order[BLOCK:]
        block = block[_kept_of_block(duplicates(block, block))]
        kept.append(block)
        if len(order):
            order = order[~duplicates(block, order).any(dim=0)]
    return torch.cat(kept)


def _soft_nms_class(
    boxes: Tensor, left: Tensor, decay: Callable[[Tensor, Tensor], Tensor], score_threshold: float
) -> tuple[Tensor, Tensor]:
    """Soft-NMS of one class: positions of the kept candidates in the order they are taken, and their scores then."""
    position = torch.arange(len(left), device=left.device)
    order, taken = [position[:0]], [left[:0]]
    rows = None
    # What has decayed so far is taken after all others, which it cannot touch.
    while count := int((left > score_threshold).sum()):
        if rows is None or count <= len(left) // 2:
            alive = (left > score_threshold).nonzero()[:, 0]
            position, boxes, left = position[alive], boxes[alive], left[alive]
            rows = _decay_rows(boxes, decay)
        steps = min(BLOCK, count)
        best_of, score_of = position.new_empty(steps), left.new_empty(steps)
        # One step a candidate, because each depends on all before; none of them waits for the device.
        for step in range(steps):
            best = left.argmax()[None]
            best_of[step : step + 1] = best
            score_of[step : step + 1] = left[best]
            left = (left * rows(best)[0]).index_fill(0, best, -torch.inf)
            # A decayed score of -inf stays -inf: decays are positive or exactly 0, and -inf * 0 is NaN.
            left = left.nan_to_num(nan=-torch.inf, neginf=-torch.inf)
        order.append(position[best_of])
        taken.append(score_of)
    scores = torch.cat(taken)
    keep = scores > score_threshold
    return torch.cat(order)[keep], scores[keep]


def _decay_rows(boxes: Tensor, decay: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Positions (b,) of candidates -> what they leave of the scores of all, (b,D)."""
    if len(boxes) > LOOK_UP:
        return lambda best: decay(boxes[best], boxes)
    whole = decay(boxes, boxes)
    return lambda best: whole[best]


def _kept_of_block(ruled_out: Tensor) -> Tensor:
    """Who stays if a candidate goes exactly when one before it stays and rules it out, (b,b) bool -> (b,) bool.

    Starting from all, the rule is applied to all candidates at once until nothing changes. The first n are right after
    n rounds at the latest, since each depends on earlier ones only; chains of suppression are short, so few are needed.
    """
    ruled_out = ruled_out.triu(diagonal=1)
    keep = torch.ones(len(ruled_out), dtype=torch.bool, device=ruled_out.device)
    while True:
        new = ~(ruled_out & keep[:, None]).any(dim=0)
        if torch.equal(new, keep):
            return keep
        keep = new
