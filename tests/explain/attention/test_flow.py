"""Rollout and GAME on two layers, worked out by hand, and against a second implementation by explicit sums."""

import numpy as np
import torch
from torch import tensor

from odam_d2.explain.attention.flow import (
    last_cross_attention,
    normalize_relevance,
    relevance,
    rollout,
    weigh,
)


def test_relevance_of_two_layers_by_hand():
    """Two cells, two queries, two layers in encoder and decoder.

    Encoder: R_ii = I + A1 = [[1,1],[0,1]], then + A2 R_ii = [[0,0],[1,1]]: [[1,1],[1,2]]. Beside the identity that is
    [[0,1],[1,1]], by rows [[0,1],[.5,.5]], so N(R_ii) = [[1,1],[.5,1.5]].
    Decoder, first layer: R_qq = I + S1 = [[1,2],[0,1]], N = [[1,1],[0,1]]; R_qi = N^T C1 N(R_ii) with C1 = I:
    [[1,0],[1,1]] [[1,1],[.5,1.5]] = [[1,1],[1.5,2.5]].
    Second: R_qq = [[1,2],[0,1]] + S2 R_qq = [[1,2],[1,3]], N = [[1,1],[1/3,5/3]]; R_qi += S2 R_qi = [[0,0],[1,1]]:
    [[1,1],[2.5,3.5]]; C2 N(R_ii) = [[.5,1.5],[0,0]], N^T of it [[.5,1.5],[.5,1.5]]; sum [[1.5,2.5],[3,5]].
    """
    encoder = [tensor([[0.0, 1.0], [0.0, 0.0]]), tensor([[0.0, 0.0], [1.0, 0.0]])]
    decoder = [tensor([[0.0, 2.0], [0.0, 0.0]]), tensor([[0.0, 0.0], [1.0, 0.0]])]
    cross = [torch.eye(2), tensor([[0.0, 1.0], [0.0, 0.0]])]
    assert torch.allclose(relevance(encoder, decoder, cross), tensor([[1.5, 2.5], [3.0, 5.0]]))
    assert torch.allclose(relevance(encoder, decoder[:1], cross[:1]), tensor([[1.0, 1.0], [1.5, 2.5]]))
    # Without an encoder's layer cells are themselves: N(I) = I, as a row of 0 stays.
    assert torch.equal(relevance([], decoder[:1], cross[:1]), tensor([[1.0, 0.0], [1.0, 1.0]]))


def test_normalised_relevance_by_hand():
    found = normalize_relevance(tensor([[1.0, 3.0, 1.0], [0.0, 1.0, 0.0], [2.0, 0.0, 3.0]]))
    assert torch.equal(found, tensor([[1.0, 0.75, 0.25], [0.0, 1.0, 0.0], [0.5, 0.0, 1.5]]))


def test_rollout_of_two_layers_by_hand():
    """First without an encoder's layer, so that cells are themselves.

    R_qi = (0 + I) / 2; among queries (R_qi + S2 R_qi) / 2 = ([[.5,0],[0,.5]] + [[0,.5],[0,.5]]) / 2 =
    [[.25,.25],[0,.5]]; then (that + C2) / 2 = [[.125,.625],[.5,.25]].
    """
    decoder = [torch.eye(2), tensor([[0.0, 1.0], [0.0, 1.0]])]
    cross = [torch.eye(2), tensor([[0.0, 1.0], [1.0, 0.0]])]
    assert torch.allclose(rollout([], decoder, cross), tensor([[0.125, 0.625], [0.5, 0.25]]))
    # One layer of the encoder, in which the first cell attends to the second: R_ii = [[.5,.5],[0,1]].
    encoder = [tensor([[0.0, 1.0], [0.0, 1.0]])]
    assert torch.allclose(rollout(encoder, decoder[:1], cross[:1]), tensor([[0.25, 0.25], [0.0, 0.5]]))
    # Where queries attend to themselves alone, half of what they have is of the image after one layer, and of two 3/4.
    random = [torch.rand(3, 3).softmax(dim=1) for _ in range(4)]
    for count, drawn in ((1, 0.5), (2, 0.75)):
        found = rollout(random[:2], [torch.eye(3)] * count, random[2 : 2 + count])
        assert torch.allclose(found.sum(dim=1), torch.full((3,), drawn))


def test_heads_are_weighed_by_their_gradients_of_one_sign_alone():
    attention = tensor([[[0.5, 0.5]], [[1.0, 0.0]]])
    gradient = tensor([[[2.0, -4.0]], [[-1.0, 3.0]]])
    # (1, 0) of the first head, (0, 0) of the second.
    assert torch.equal(weigh(attention, gradient), tensor([[0.5, 0.0]]))


def test_the_last_layer_is_what_people_call_attention():
    cross = [torch.rand(2, 3), torch.rand(2, 3)]
    assert last_cross_attention([], [], cross) is cross[1]


def naive_relevance(encoder, decoder, cross):
    """The same rules, entry by entry."""
    cells, queries = cross[0].shape[1], cross[0].shape[0]

    def product(a, b):
        result = np.zeros((len(a), b.shape[1]))
        for i, j, k in np.ndindex(*result.shape, len(b)):
            result[i, j] += a[i, k] * b[k, j]
        return result

    def normalized(r):
        result = np.zeros_like(r)
        for i in range(len(r)):
            row = [r[i, j] - (i == j) for j in range(len(r))]
            for j in range(len(r)):
                result[i, j] = (row[j] / sum(row) if sum(row) else 0.0) + (i == j)
        return result

    r_ii = np.eye(cells)
    for a in encoder:
        r_ii = r_ii + product(a, r_ii)
    r_qq, r_qi = np.eye(queries), np.zeros((queries, cells))
    for a_qq, a_qi in zip(decoder, cross):
        r_qi = r_qi + product(a_qq, r_qi)
        r_qq = r_qq + product(a_qq, r_qq)
        r_qi = r_qi + product(product(normalized(r_qq).T, a_qi), normalized(r_ii))
    return r_qi


def test_relevance_equals_explicit_sums():
    generator = torch.Generator().manual_seed(0)

    def draw(count, rows, columns):
        return [torch.rand(rows, columns, generator=generator, dtype=torch.float64) for _ in range(count)]

    parts = draw(3, 5, 5), draw(2, 3, 3), draw(2, 3, 5)
    expected = naive_relevance(*([one.numpy() for one in part] for part in parts))
    assert np.allclose(relevance(*parts).numpy(), expected, rtol=1e-12)
