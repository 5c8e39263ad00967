"""Losses on what detectors say about their detections, in the manner of ``torch.nn.functional``.

Shapes: P positive samples of one image, E embedding.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def margin_loss(
    embeddings: Tensor, objects: Tensor, margin: float = 0.2, boundary: float = 1.0, max_samples: int = 0
) -> Tensor:
    """Margin loss (Wu et al., ICCV 2017), with which FeatureNMS (Salscheider, ICPR 2020) learns its embeddings.

    A pair of samples at Euclidean distance D costs ``max(0, margin + (D - boundary))`` if both show the same object
    and ``max(0, margin - (D - boundary))`` if they show different ones. As in Wu et al., only pairs that cost something
    enter the mean, so that the many settled pairs do not thin out the others. Ours: same-object and different-object
    pairs have a mean each and the loss is the sum of the two, because a crowd has far more of the latter.

    Two samples with exactly the same embedding have a loss, but no direction to part: their gradient is 0.

    Args:
        embeddings: (P,E).
        objects: the object that each sample shows, (P,) int64.
        margin: alpha; distance that a pair must keep from the boundary, in units of the embedding.
        boundary: beta; distance that divides same from different.
        max_samples: of more samples than this a random subset is used (torch's generator); 0 uses all.

    Returns:
        scalar, 0 for fewer than two samples; connected to ``embeddings`` in either case.

    Raises:
        ValueError: shapes that do not fit.
    """
    if embeddings.dim() != 2 or objects.shape != embeddings.shape[:1]:
        raise ValueError(
            f"embeddings (P,E) and objects (P,) do not fit: {tuple(embeddings.shape)} and {tuple(objects.shape)}"
        )
    if 0 < max_samples < len(embeddings):
        chosen = torch.randperm(len(embeddings), device=embeddings.device)[:max_samples]
        embeddings, objects = embeddings[chosen], objects[chosen]
    if len(embeddings) < 2:
        return 0 * embeddings.sum()
    if embeddings.dtype != torch.float64:
        embeddings = embeddings.float()  # PyTorch has no distances in half precision
    # Unlike the root of a sum of squares, it has a finite gradient, 0, where two embeddings are equal.
    excess = F.pdist(embeddings) - boundary
    first, second = torch.triu_indices(len(objects), len(objects), offset=1, device=objects.device)
    same = objects[first] == objects[second]
    return _mean_of_positive(margin + excess[same]) + _mean_of_positive(margin - excess[~same])


def _mean_of_positive(costs: Tensor) -> Tensor:
    """Mean over the positive values; 0 if there are none."""
    costs = costs.relu()
    return costs.sum() / (costs > 0).sum().clamp(min=1)
