"""FKD: masks and terms by hand, and gradients with the masks as constants."""

import math

import pytest
import torch

from odam_d2.distill import FKD, FKD_ONE_STAGE, FKD_TWO_STAGE, FKDSettings
from odam_d2.distill.fkd import attention_mask, attention_transfer_term, magnitudes, masked_feature_term

STRIDES = (8, 16)


def test_magnitudes_are_means_of_absolute_values():
    features = torch.tensor([[1.0, -2.0], [-3.0, 4.0]]).reshape(1, 2, 1, 2)
    spatial, channel = magnitudes(features)
    assert torch.equal(spatial, torch.tensor([[[2.0, 3.0]]])) and torch.equal(channel, torch.tensor([[1.5, 3.5]]))


def test_masks_add_both_networks_before_the_softmax():
    # One channel, two cells, T = 1/2: magnitudes 0 and ln3 / 4 of each network, together ln3 / 2, divided by T ln3:
    # 1 : 3, so 1/2 and 3/2. One channel: M^c = 1.
    features = torch.tensor([0.0, math.log(3) / 4]).reshape(1, 1, 1, 2)
    mask = attention_mask(features, -features, 0.5)
    assert torch.allclose(mask.flatten(), torch.tensor([0.5, 1.5]))
    # One cell, two channels: the same, of channels.
    mask = attention_mask(features.reshape(1, 2, 1, 1), features.reshape(1, 2, 1, 1), 0.5)
    assert torch.allclose(mask.flatten(), torch.tensor([0.5, 1.5]))


def test_terms_by_hand():
    student, teacher = torch.zeros(1, 1, 1, 2), torch.tensor([1.0, -2.0]).reshape(1, 1, 1, 2)
    # sqrt(1 x 4 + 4 x 3) = 4
    mask = torch.tensor([4.0, 3.0]).reshape(1, 1, 1, 2)
    assert masked_feature_term(student, teacher, mask).item() == 4
    # Cells: sqrt(1 + 4); the channel: 1.5.
    assert attention_transfer_term(student, teacher).item() == pytest.approx(math.sqrt(5) + 1.5)


def test_terms_are_weighted_and_levels_add_up(make_batch):
    student, teacher, objects = make_batch()
    torch.manual_seed(0)
    distiller = FKD(STRIDES, 4, settings=FKDSettings(temperature=0.3, feature=2.0, attention=3.0, relation=5.0))
    found = distiller(student, teacher, objects)
    expected = dict.fromkeys(("feature", "attention", "relation"), 0.0)
    for level, aim in enumerate(teacher):
        own = distiller.adapters[level](student[level])
        expected["feature"] += 2 * masked_feature_term(own, aim, attention_mask(own, aim, 0.3)).item()
        expected["attention"] += 3 * attention_transfer_term(own, aim).item()
        # Non-local blocks begin as identity.
        expected["relation"] += 5 * (distiller.relation_adapters[level](own) - aim).square().sum().sqrt().item()
    assert {name: x.item() for name, x in found.items()} == pytest.approx(
        {f"loss_distill_{name}": value for name, value in expected.items()}
    )


def test_networks_that_agree_have_a_finite_gradient():
    maps = torch.rand(1, 2, 2, 2)
    student = maps.clone().requires_grad_()
    (masked_feature_term(student, maps, torch.ones(1, 2, 2, 2)) + attention_transfer_term(student, maps)).backward()
    assert not student.grad.any()


def test_terms_have_the_gradients_of_small_differences():
    torch.manual_seed(0)
    student, teacher = (torch.randn(2, 3, 2, 4, dtype=torch.float64) for _ in range(2))
    mask = attention_mask(student.requires_grad_(), teacher, 0.5)
    assert not mask.requires_grad
    assert torch.autograd.gradcheck(lambda x: masked_feature_term(x, teacher, mask), student)
    assert torch.autograd.gradcheck(lambda x: attention_transfer_term(x, teacher), student)


def test_settings():
    assert tuple(vars(FKD_ONE_STAGE).values()) == (0.5, 4e-4, 2e-2, 4e-4)
    assert tuple(vars(FKD_TWO_STAGE).values()) == (0.1, 7e-5, 4e-3, 7e-5)
    with pytest.raises(ValueError, match="temperature is 0; it must be more than 0"):
        FKDSettings(temperature=0)
