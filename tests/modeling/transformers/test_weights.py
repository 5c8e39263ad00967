"""Where networks and weights come from: json, folders, Detectron2's checkpoints, Facebook's DETR; what is refused."""

import importlib.util
import json

import pytest
import torch
from detectron2.modeling import build_model

from helpers import random_input, small_cfg
from odam_d2.modeling import TimmBackbone
from odam_d2.modeling.checkpoint import ForeignCheckpointer, load_weights, weights_sha256
from odam_d2.modeling.transformers import library
from odam_d2.modeling.transformers.weights import from_facebook
from transformer_networks import tiny_detr, tiny_network

pytest.importorskip("transformers", reason="the extra 'transformers' is not installed")


def outputs(detector):
    said = detector.observe([random_input()], ()).predictions(0)
    return said.class_scores, said.boxes


def same(detector, other):
    return all(torch.allclose(a, b, atol=1e-5) for a, b in zip(outputs(detector), outputs(other)))


def test_detectron2s_checkpoints_are_read(tmp_path):
    detector = tiny_detr("detr")
    torch.save({"model": detector.state_dict()}, tmp_path / "model.pth")
    fresh = tiny_detr("detr", seed=1)
    assert not same(fresh, detector)
    load_weights(fresh, str(tmp_path / "model.pth"))
    assert same(fresh, detector)


@pytest.mark.parametrize("kind", ["detr", "deformable_two_stage", "rt_detr"])
def test_folders_of_save_pretrained_are_read(kind, tmp_path):
    detector = tiny_detr(kind)
    detector.network.save_pretrained(tmp_path)
    fresh = tiny_detr(kind, seed=1)
    load_weights(fresh, str(tmp_path))
    assert same(fresh, detector)
    assert len(weights_sha256(str(tmp_path))) == 64
    cfg = small_cfg("detr", ["MODEL.TRANSFORMERS.CONFIG", "", "MODEL.TRANSFORMERS.NAME", str(tmp_path)])
    built = build_model(cfg)
    assert type(built.network) is type(detector.network) and built.num_classes == 3
    cfg.MODEL.TRANSFORMERS.NUM_CLASSES = 5
    assert build_model(cfg).num_classes == 5


SIZES = {"d_model": 32, "decoder_layers": 1, "num_queries": 5}
PYRAMID = {"encoder_hidden_dim": 32, "encoder_in_channels": [128, 256, 512], "decoder_in_channels": [32, 32, 32]}


@pytest.mark.parametrize(
    "kind, sizes, prefix",
    [
        ("conditional_detr", {**SIZES, "encoder_layers": 1}, "network.model.backbone.model."),
        ("rt_detr", {**SIZES, **PYRAMID}, "network.model.backbone.model._backbone."),
    ],
)
def test_training_begins_with_the_backbone_of_a_detector_with_a_pyramid(kind, sizes, prefix, tmp_path):
    backbone = {"model_type": "timm_backbone", "backbone": "nanodet_g", "out_indices": [1, 2, 3]}
    backbone |= {"features_only": True, "use_pretrained_backbone": False}
    config = {"model_type": kind, "backbone_config": backbone, **sizes}
    (tmp_path / "detr.json").write_text(json.dumps(config))
    detector = build_model(small_cfg("detr", ["MODEL.TRANSFORMERS.CONFIG", str(tmp_path / "detr.json")]))
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    network = TimmBackbone("nanodet_g", ("res3", "res4", "res5"))
    pyramid = {f"backbone.bottom_up.{name}": torch.randn_like(x) for name, x in network.state_dict().items()}
    torch.save({"model": pyramid | {"backbone.fpn_lateral3.bias": torch.zeros(128)}}, tmp_path / "pyramid.pth")
    ForeignCheckpointer(detector).load(str(tmp_path / "pyramid.pth"))
    after = detector.state_dict()
    backbone = [name for name in after if name.startswith(prefix)]
    assert len(backbone) == len(pyramid)
    for name in backbone:
        own = name.replace(prefix, "backbone.bottom_up.network.")
        assert torch.equal(after[name], pyramid[own])
    assert all(torch.equal(after[name], before[name]) for name in after if name not in backbone)
    # A detector is not explained with half of its weights.
    with pytest.raises(ValueError, match="network.model.* is missing.*more"):
        load_weights(detector, str(tmp_path / "pyramid.pth"))


def test_stages_that_a_detector_does_without_are_left_out(tmp_path):
    backbone = {"model_type": "timm_backbone", "backbone": "nanodet_g", "out_indices": [1, 2]}
    backbone |= {"features_only": True, "use_pretrained_backbone": False}
    config = {"model_type": "conditional_detr", "backbone_config": backbone, **SIZES, "encoder_layers": 1}
    (tmp_path / "detr.json").write_text(json.dumps(config))
    detector = build_model(small_cfg("detr", ["MODEL.TRANSFORMERS.CONFIG", str(tmp_path / "detr.json")]))
    assert detector.last_stage == "res4"
    network = TimmBackbone("nanodet_g", ("res3", "res4", "res5"))
    pyramid = {f"backbone.bottom_up.{name}": torch.randn_like(x) for name, x in network.state_dict().items()}
    torch.save({"model": pyramid}, tmp_path / "pyramid.pth")
    ForeignCheckpointer(detector).load(str(tmp_path / "pyramid.pth"))
    prefix = "network.model.backbone.model."
    own = {name: value for name, value in detector.state_dict().items() if name.startswith(prefix)}
    assert 0 < len(own) < len(pyramid)
    for name, value in own.items():
        assert torch.equal(value, pyramid[name.replace(prefix, "backbone.bottom_up.network.")])
    # What is missing inside a stage is no stage that it does without.
    wrong = {name.replace("stage2", "stage2.surplus"): value for name, value in pyramid.items()}
    torch.save({"model": wrong}, tmp_path / "pyramid.pth")
    with pytest.raises(ValueError, match="stage2.surplus.* is unexpected"):
        ForeignCheckpointer(detector).load(str(tmp_path / "pyramid.pth"))


def test_weights_of_another_architecture_are_named(tmp_path):
    detector = tiny_detr("detr")
    state = dict(detector.state_dict())
    state["network.surplus"] = state.pop("network.bbox_predictor.layers.0.bias")
    torch.save({"model": state}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match="cannot be used.*network.surplus is unexpected"):
        load_weights(tiny_detr("detr"), str(tmp_path / "model.pth"))
    del state["network.surplus"]
    torch.save({"model": state}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match="network.bbox_predictor.layers.0.bias is missing"):
        load_weights(tiny_detr("detr"), str(tmp_path / "model.pth"))
    tiny_network("conditional_detr").save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="is (unexpected|missing|torch)|in the file"):
        load_weights(tiny_detr("detr"), str(tmp_path / "other"))


def facebooks(network):
    """A state dict with the names of github.com/facebookresearch/detr, written down by hand for one and one layer."""
    own, found = network.state_dict(), {}

    def attention(theirs, ours):
        for kind in ("weight", "bias"):
            found[f"{theirs}.in_proj_{kind}"] = torch.cat([own[f"{ours}.{part}_proj.{kind}"] for part in "qkv"])
            found[f"{theirs}.out_proj.{kind}"] = own[f"{ours}.o_proj.{kind}"]

    def copy(theirs, ours):
        for kind in ("weight", "bias"):
            found[f"{theirs}.{kind}"] = own[f"{ours}.{kind}"]

    first, second = "transformer.encoder.layers.0", "model.encoder.layers.0"
    attention(f"{first}.self_attn", f"{second}.self_attn")
    copy(f"{first}.linear1", f"{second}.mlp.fc1")
    copy(f"{first}.linear2", f"{second}.mlp.fc2")
    copy(f"{first}.norm1", f"{second}.self_attn_layer_norm")
    copy(f"{first}.norm2", f"{second}.final_layer_norm")
    first, second = "transformer.decoder.layers.0", "model.decoder.layers.0"
    attention(f"{first}.self_attn", f"{second}.self_attn")
    attention(f"{first}.multihead_attn", f"{second}.encoder_attn")
    copy(f"{first}.linear1", f"{second}.mlp.fc1")
    copy(f"{first}.linear2", f"{second}.mlp.fc2")
    copy(f"{first}.norm1", f"{second}.self_attn_layer_norm")
    copy(f"{first}.norm2", f"{second}.encoder_attn_layer_norm")
    copy(f"{first}.norm3", f"{second}.final_layer_norm")
    copy("transformer.decoder.norm", "model.decoder.layernorm")
    copy("class_embed", "class_labels_classifier")
    for i in range(3):
        copy(f"bbox_embed.layers.{i}", f"bbox_predictor.layers.{i}")
    found["query_embed.weight"] = own["model.query_position_embeddings.weight"]
    copy("input_proj", "model.input_projection")
    for name, value in own.items():
        if name.startswith("model.backbone.model."):
            found[name.replace("model.backbone.model.", "backbone.0.body.")] = value
    return found


def test_facebooks_detr_is_read(tmp_path):
    """Its backbone is torchvision's ResNet, whose names timm's has, too; here with the layers of an 18."""
    timm = {"model_type": "timm_backbone", "backbone": "resnet18", "out_indices": [1, 2, 3, 4]}
    options = {"backbone_config": timm, "encoder_layers": 1, "decoder_layers": 1}
    detector = tiny_detr("detr", network=tiny_network("detr", **options))
    theirs = facebooks(detector.network)
    assert "backbone.0.body.layer1.0.conv1.weight" in theirs
    assert set(from_facebook(theirs)) == set(detector.state_dict())
    torch.save({"model": theirs, "epoch": 3}, tmp_path / "detr-r18.pth")
    fresh = tiny_detr("detr", network=tiny_network("detr", seed=1, **options))
    load_weights(fresh, str(tmp_path / "detr-r18.pth"))
    assert same(fresh, detector)
    # One more layer than the file has.
    deeper = tiny_detr("detr", network=tiny_network("detr", **(options | {"decoder_layers": 2})))
    with pytest.raises(ValueError, match=r"decoder.layers.1\S* is missing"):
        load_weights(deeper, str(tmp_path / "detr-r18.pth"))
    theirs["transformer.surplus"] = theirs["query_embed.weight"]
    torch.save({"model": theirs}, tmp_path / "detr-r18.pth")
    with pytest.raises(ValueError, match="transformer.surplus is unexpected"):
        load_weights(fresh, str(tmp_path / "detr-r18.pth"))


def test_a_missing_extra_is_one_sentence(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(library, "find_spec", lambda name: None if name == "transformers" else found(name))
    with pytest.raises(ValueError, match=r"not installed: pip install 'transformers>=5.20'"):
        build_model(small_cfg("detr"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["MODEL.TRANSFORMERS.CONFIG", ""], "NAME is '' and MODEL.TRANSFORMERS.CONFIG ''; give one of the two"),
        (["MODEL.TRANSFORMERS.NAME", "a/b"], "NAME is 'a/b'.*give one of the two"),
        (["MODEL.TRANSFORMERS.CONFIG", "odam://quick/none.json"], "no 'quick/none.json'; .*quick/detr.json"),
        (["MODEL.TRANSFORMERS.CONFIG", "nowhere.json"], "no file nowhere.json"),
        (["ODAM.TRAIN.ENABLED", True], "no losses on maps"),
        (["ODAM.EMBEDDING.DIM", 8], "no embeddings"),
    ],
)
def test_configs_that_describe_nothing_are_refused(options, message):
    with pytest.raises((ValueError, OSError), match=message):
        build_model(small_cfg("detr", options))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not json"),
        ("{}", "has no model_type"),
        (json.dumps({"model_type": "detri"}), "detri"),
        (json.dumps({"model_type": "bert"}), "no detector that can be built"),
        (
            json.dumps({"model_type": "yolos", "num_hidden_layers": 1}),
            r"'yolos' cannot be explained.*rt_detr \(RT-DETR\)",
        ),
    ],
)
def test_json_that_describes_no_detector_is_refused(content, message, tmp_path):
    file = tmp_path / "model.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        build_model(small_cfg("detr", ["MODEL.TRANSFORMERS.CONFIG", str(file)]))


def test_a_hub_that_cannot_be_reached_is_one_sentence(monkeypatch):
    asked = []

    def refuse(self, name, **options):
        asked.append(name)
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", refuse)
    cfg = small_cfg("detr", ["MODEL.TRANSFORMERS.CONFIG", "", "MODEL.TRANSFORMERS.NAME", "nobody/nothing"])
    with pytest.raises(OSError, match="nobody/nothing is no folder here and cannot be fetched.*network") as caught:
        build_model(cfg)
    assert "\n" not in str(caught.value)
    with pytest.raises((OSError, ValueError), match="nobody/nothing.*cannot be fetched"):
        load_weights(tiny_detr("detr"), "hf://nobody/nothing")
    # Once for each, instead of again and again.
    assert asked == ["nobody/nothing"] * 2
