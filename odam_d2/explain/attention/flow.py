"""From attention matrices, layer by layer, to how much every query draws from every cell of the encoder's map.

A matrix (rows,columns) says how much of each column a row takes. Those of a layer's heads are averaged already.

Shapes: Q queries, T cells, M heads.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# (encoder's matrices, each (T,T); decoder's among queries, each (Q,Q); its from queries to cells, each (Q,T)) -> (Q,T).
Flow = Callable[[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]], Tensor]


def last_cross_attention(encoder: Sequence[Tensor], decoder: Sequence[Tensor], cross: Sequence[Tensor]) -> Tensor:
    """What queries attend to in the decoder's last layer: the picture of DETR (Carion et al., ECCV 2020)."""
    return cross[-1]


def rollout(encoder: Sequence[Tensor], decoder: Sequence[Tensor], cross: Sequence[Tensor]) -> Tensor:
    """Attention rollout (Abnar and Zuidema, ACL 2020), through encoder and decoder.

    Half of what a layer gives is what came in, by the residual connection, and half what its attention A brings:
    R_ii <- (R_ii + A R_ii) / 2 in the encoder, from the identity; R_qi <- (R_qi + A R_qi) / 2 and then
    R_qi <- (R_qi + A R_ii) / 2 in each layer of the decoder, from 0, as queries begin without anything of the image.
    The authors wrote it for encoders; the second half is our reading.
    """
    among_cells = torch.eye(cross[0].shape[1], dtype=cross[0].dtype, device=cross[0].device)
    for attention in encoder:
        among_cells = (among_cells + attention @ among_cells) / 2
    found = torch.zeros_like(cross[0])
    for own, image in zip(decoder, cross):
        found = (found + own @ found) / 2
        found = (found + image @ among_cells) / 2
    return found


def relevance(encoder: Sequence[Tensor], decoder: Sequence[Tensor], cross: Sequence[Tensor]) -> Tensor:
    """Generic Attention-model Explainability (Chefer, Gur and Wolf, ICCV 2021): its rules for encoder and decoder.

    R_ii += A R_ii in the encoder, from the identity. In each layer of the decoder R_qq += A R_qq and R_qi += A R_qi,
    both from the R before, and then R_qi += N(R_qq)^T A N(R_ii) with :func:`normalize_relevance`; R_qq begins as the
    identity, R_qi as 0. The matrices A are those of :func:`weigh`. Without layer-wise relevance propagation, which the
    authors' code can put in the place of attention.
    """
    like = {"dtype": cross[0].dtype, "device": cross[0].device}
    among_cells = torch.eye(cross[0].shape[1], **like)
    for attention in encoder:
        among_cells = among_cells + attention @ among_cells
    among_cells = normalize_relevance(among_cells)
    among_queries = torch.eye(cross[0].shape[0], **like)
    found = torch.zeros_like(cross[0])
    for own, image in zip(decoder, cross):
        among_queries, found = among_queries + own @ among_queries, found + own @ found
        found = found + normalize_relevance(among_queries).T @ image @ among_cells
    return found


def normalize_relevance(found: Tensor) -> Tensor:
    """N(R): what is beside the identity divided by the sum of its row, and the identity again; a row of 0 stays.

    Args:
        found: R, the identity and something non-negative, (n,n).
    """
    identity = torch.eye(len(found), dtype=found.dtype, device=found.device)
    beside = found - identity
    total = beside.sum(dim=1, keepdim=True)
    return beside / total.where(total > 0, 1.0) + identity


def weigh(attention: Tensor, gradient: Tensor) -> Tensor:
    """A = mean over heads of (dY/dA o A)^+, for :func:`relevance`.

    Args:
        attention: (M,rows,columns).
        gradient: (M,rows,columns).
    """
    return (gradient * attention).relu().mean(dim=0)
