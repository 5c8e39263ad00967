"""PKD: the term by hand, as one minus Pearson's correlation, and its gradient."""

import numpy as np
import pytest
import torch

from odam_d2.distill import PKD
from odam_d2.distill.pkd import pearson_term, standardize

STRIDES = (8, 16)


def test_channels_are_standardized_over_cells_and_images():
    # Mean 3 and variance (4 + 0 + 0 + 4) / 4 = 2 over both images.
    features = torch.tensor([[1.0, 3.0], [3.0, 5.0]])[:, None, None, :]
    root = 2**0.5
    expected = torch.tensor([[-root, 0.0], [0.0, root]])[:, None, None, :]
    assert torch.allclose(standardize(features), expected, atol=1e-5)


def test_the_term_is_one_minus_the_correlation():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.randn(2, 3, 4, 5, dtype=torch.float64)
    r = [np.corrcoef(student[:, c].flatten(), teacher[:, c].flatten())[0, 1] for c in range(3)]
    assert pearson_term(student, teacher).item() == pytest.approx(1 - np.mean(r), rel=1e-5)
    # Neither scale nor offset matters; a sign does.
    assert pearson_term(5 * teacher + 2, teacher).item() == pytest.approx(0, abs=1e-9)
    assert pearson_term(-teacher, teacher).item() == pytest.approx(2, rel=1e-5)


def test_constant_channels_are_no_trouble():
    torch.manual_seed(0)
    student = torch.ones(1, 1, 2, 2, requires_grad=True)
    term = pearson_term(student, torch.randn(1, 1, 2, 2))
    term.backward()
    assert term.item() == pytest.approx(0.5, rel=1e-4) and torch.isfinite(student.grad).all()
    assert pearson_term(student, 3 * torch.ones(1, 1, 2, 2)) == 0


def test_levels_add_up(make_batch):
    student, teacher, objects = make_batch()
    found = PKD(STRIDES, 4, weight=3.0)(student, teacher, objects)
    expected = 3 * sum(pearson_term(s, t).item() for s, t in zip(student, teacher))
    assert {name: x.item() for name, x in found.items()} == {"loss_distill_pearson": pytest.approx(expected)}


def test_the_gradient_is_that_of_small_differences():
    torch.manual_seed(0)
    student, teacher = (torch.randn(2, 3, 2, 3, dtype=torch.float64) for _ in range(2))
    assert torch.autograd.gradcheck(lambda x: pearson_term(x, teacher), student.requires_grad_())
