"""Context blocks: identity at first, values by hand, and the non-local block against all pairs of cells."""

import math

import torch

from odam_d2.distill.context import GcBlock, NonLocalBlock


def set_to(layer, weight, bias):
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight).reshape(layer.weight.shape))
        layer.bias.copy_(torch.tensor(bias))


def test_blocks_begin_as_identity():
    torch.manual_seed(0)
    features = torch.randn(2, 6, 3, 4)
    for block in (GcBlock(6), NonLocalBlock(6)):
        assert torch.equal(block(features), features)


def test_a_global_context_block_adds_the_context_to_all_cells():
    block = GcBlock(4)
    set_to(block.weigh, [1.0, 0.0, 0.0, 0.0], [0.0])
    set_to(block.add[0], [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]], [0.0, 0.0])
    set_to(block.add[3], [[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 0.0]], [0.0, 0.0, 0.0, 5.0])
    features = torch.zeros(1, 4, 1, 2)
    features[0, :2, 0, 1] = torch.tensor([math.log(3), 4.0])
    # Cells weigh 1/4 and 3/4: the context's first channels are 3/4 ln3 = 0.82 and 3. LayerNorm makes of two different
    # numbers -1 and 1 (up to its epsilon), ReLU 0 and 1; so 0, 1, 0 and 5 are added.
    added = block(features) - features
    assert torch.allclose(added, torch.tensor([0.0, 1.0, 0.0, 5.0])[None, :, None, None].expand(1, 4, 1, 2), atol=1e-4)


def test_a_non_local_block_sums_over_all_pairs_of_cells():
    torch.manual_seed(0)
    block = NonLocalBlock(4).double()
    torch.nn.init.normal_(block.out.weight)
    features = torch.randn(2, 4, 2, 3, dtype=torch.float64)
    theta, phi, g = (conv(features).flatten(2) for conv in (block.theta, block.phi, block.g))
    related = torch.zeros_like(theta)
    for n in range(2):
        for i in range(6):
            for j in range(6):
                related[n, :, i] += (theta[n, :, i] @ phi[n, :, j]) * g[n, :, j] / 6
    expected = features + block.out(related.reshape(2, 2, 2, 3))
    assert torch.allclose(block(features), expected, rtol=1e-12)
