"""Random weights of DETR and its first followers: drawn so that training begins to learn at once."""

import math

import pytest
import torch

from odam_d2.modeling.transformers.first_weights import draw_weights
from transformer_networks import tiny_network

pytest.importorskip("transformers", reason="the extra 'transformers' is not installed")


def drawn(kind):
    """A network's weights before and after, by name."""
    network = tiny_network(kind, num_queries=400)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    draw_weights(network)
    return before, network.state_dict(), network


@pytest.mark.parametrize("kind", ["detr", "conditional_detr"])
def test_weights_have_the_spreads_that_the_authors_give_them(kind):
    before, after, network = drawn(kind)
    assert after["model.query_position_embeddings.weight"].std().item() == pytest.approx(1, abs=0.05)
    # Xavier's uniform distribution reaches to the root of 6 / (32 + 32), and has a third of its square as variance.
    for name in ("encoder.layers.0.self_attn.q_proj", "decoder.layers.1.encoder_attn.v_proj"):
        weight, reach = after[f"model.{name}.weight"], math.sqrt(6 / 64)
        assert weight.abs().max() <= reach and weight.std().item() == pytest.approx(reach / math.sqrt(3), rel=0.1)
        assert not after[f"model.{name}.bias"].any()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert any(name.startswith("model.input_projection") for name in changed)
    # The backbone has learned something elsewhere, and normalisations begin as identities.
    assert not [name for name in changed if "backbone" in name or "norm" in name]


def test_classes_are_rare_and_boxes_stand_on_their_reference_points():
    _, after, network = drawn("conditional_detr")
    assert after["class_labels_classifier.bias"].sigmoid().tolist() == pytest.approx([0.01] * 3)
    network.eval()
    with torch.no_grad():
        output = network(pixel_values=torch.rand(1, 3, 64, 96), return_dict=True)
        points = network.model.decoder.ref_point_head(network.model.query_position_embeddings.weight).sigmoid()
    assert torch.allclose(output.pred_boxes[0, :, :2], points, atol=1e-5)
    assert torch.allclose(output.pred_boxes[0, :, 2:], torch.tensor(0.5))
    # They lie all over the image; the library's lie on one spot.
    assert points.std(dim=0).min() > 0.05


def test_one_softmax_has_no_prior():
    _, after, _ = drawn("detr")
    assert after["class_labels_classifier.bias"].abs().max() < 0.2


def test_deformable_attention_keeps_its_pattern():
    before, after, network = drawn("deformable_detr")
    kept = [name for name in after if "sampling_offsets" in name or "attention_weights" in name]
    assert kept and all(torch.equal(after[name], before[name]) for name in kept)
    points = network.model.reference_points(network.model.query_position_embeddings.weight[:, :32]).sigmoid()
    assert points.std(dim=0).min() > 0.05
    assert after["class_embed.0.bias"].sigmoid().tolist() == pytest.approx([0.01] * 3)


def test_two_stages_ask_the_same_heads_as_the_decoder():
    _, after, network = drawn("deformable_two_stage")
    for name in ("class_embed.2.weight", "bbox_embed.1.layers.0.weight"):
        assert torch.equal(after[name], after[f"model.decoder.{name}"])
    assert after["model.decoder.class_embed.2.bias"].sigmoid().tolist() == pytest.approx([0.01] * 3)
    assert not after["bbox_embed.2.layers.2.weight"].any()


@pytest.mark.parametrize("kind", ["rt_detr", "rt_detr_v2", "d_fine"])
def test_families_whose_queries_come_from_the_image_keep_the_librarys_weights(kind):
    before, after, _ = drawn(kind)
    assert all(torch.equal(after[name], before[name]) for name in after)
