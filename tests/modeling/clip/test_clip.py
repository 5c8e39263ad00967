"""Maps of the cosine of image and text: by hand, and against autograd on OpenCLIP's plain towers."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cli.conftest import call
from helpers import random_photo
from odam_d2.cli import clip as command
from odam_d2.explain import GradientExplainer, target_output
from odam_d2.modeling.clip import library
from odam_d2.modeling.clip.similarity import ImageTextModel, center_square, explain_similarity
from transformer_networks import spread_queries

open_clip = pytest.importorskip("open_clip", reason="the extra 'clip' is not installed")

__all__ = ["call"]
# Reading its vocabulary takes a second.
TOKENIZER = open_clip.SimpleTokenizer(context_length=12)
TEXT = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
TOWERS = {
    "resnet": {"layers": [1, 1, 1, 1], "width": 8, "image_size": 64},
    "vit": {"layers": 3, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 64},
    "vit_avg": {"layers": 2, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 64, "pool_type": "avg"},
}
TEXTS = ["a bottle", "a banana", "two cells"]


def network_of(kind, seed=0):
    torch.manual_seed(seed)
    network = open_clip.CLIP(embed_dim=16, vision_cfg=TOWERS[kind], text_cfg=TEXT)
    scale = network.logit_scale.detach().clone()
    spread_queries(network)
    network.logit_scale.data.copy_(scale)
    return network.eval()


class Constant(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return self.value + 0 * x.sum()


class ModifiedResNet(nn.Module):
    """A tower that sees two cells of two channels in any image, and embeds their mean."""

    image_size = (32, 64)

    def __init__(self):
        super().__init__()
        self.layer1, self.layer2, self.layer3 = nn.Identity(), nn.Identity(), nn.Identity()
        self.layer4 = Constant(torch.tensor([[[[3.0, 3.0]], [[0.0, 8.0]]]]))

    def forward(self, x):
        return self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean(dim=(2, 3))


class TwoWords(nn.Module):
    """Its texts are the two axes."""

    context_length = 8

    def __init__(self):
        super().__init__()
        self.visual = ModifiedResNet()
        self.logit_scale = nn.Parameter(torch.tensor(2.0).log())

    def encode_image(self, image, normalize):
        return nn.functional.normalize(self.visual(image), dim=-1)

    def encode_text(self, tokens, normalize):
        return torch.eye(2)[: len(tokens)]


def test_maps_of_a_cosine_by_hand():
    """e = (3,4), |e| = 5: cosines .6 and .8. d cos/de = (t - cos e/|e|) / |e|, half of it for each of two cells:
    (.064,-.048) and (-.048,.036). Maps ReLU(sum_k g_k A_k): .064*3 = .192 and .192 - .048*8 < 0; -.144 < 0 and
    -.144 + .036*8 = .144. Logits are 1.2 and 1.6, scores their softmax."""
    model = ImageTextModel(TwoWords())
    found = explain_similarity(model, random_photo(20, 40), ["x", "y"])
    torch.testing.assert_close(found.cosines, torch.tensor([0.6, 0.8]))
    for method in ("odam", "gradcam"):  # the gradient is the same everywhere, so that its mean is itself
        maps = found.heat_maps[method].maps
        torch.testing.assert_close(maps, torch.tensor([[[0.192, 0.0]], [[0.0, 0.144]]]), atol=1e-6, rtol=0)
        assert found.heat_maps[method].to_image().shape == (2, 20, 40)
    assert found.layer == "res5" and repr(found) == "Similarity(x 0.600, y 0.800; odam, gradcam at res5)"
    trace = model.trace(random_photo(20, 40), ["x", "y"])
    logits = torch.tensor([1.2, 1.6])
    torch.testing.assert_close(trace.logits.detach(), logits.expand(2, 2))
    torch.testing.assert_close(trace.scores.detach(), logits.softmax(0))
    assert trace.boxes.tolist() == [[0, 0, 64, 32]] * 2 and trace.places.tolist() == [0, 0]


def plain(network, image, texts, layer):
    """Cosines, and the layer's output in their graph, of OpenCLIP's own model and preprocessing."""
    captured, tower = {}, network.visual
    stages = {"res": lambda i: getattr(tower, f"layer{i - 1}"), "block": lambda i: tower.transformer.resblocks[i - 1]}
    kind = layer.rstrip("0123456789")
    module = stages[kind](int(layer.removeprefix(kind)))
    hook = module.register_forward_hook(lambda m, a, output: captured.update(output=output))
    scaled = Image.fromarray(image[:, :, ::-1].copy()).resize((64, 64), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(scaled)).permute(2, 0, 1)[None].to(next(network.parameters())) / 255
    mean, std = (
        torch.tensor(v).view(1, 3, 1, 1)
        for v in ((0.48145466, 0.4578275, 0.40821073),) * 1 + ((0.26862954, 0.26130258, 0.27577711),)
    )
    seen = network.encode_image((pixels - mean) / std)
    hook.remove()
    tokens = TOKENIZER(texts)
    return nn.functional.cosine_similarity(seen, network.encode_text(tokens)), captured["output"]


@pytest.mark.parametrize("kind", TOWERS)
def test_every_layer_equals_autograd_on_the_plain_tower(kind):
    network, photo = network_of(kind).double(), random_photo(50, 90)
    model = ImageTextModel(network, TOKENIZER)
    expected = {
        "resnet": ["res2", "res3", "res4", "res5"],
        "vit": ["block1", "block2"],
        "vit_avg": ["block1", "block2"],
    }
    assert model.layers == expected[kind]
    for layer in model.layers:
        cosines, source = plain(network, photo, TEXTS, layer)
        found = explain_similarity(model, photo, TEXTS, ["odam", "gradcam"], layer)
        torch.testing.assert_close(found.cosines, cosines.detach())
        for row, cosine in enumerate(cosines):
            (gradient,) = torch.autograd.grad(cosine, source, retain_graph=True)
            g, a = gradient[0], source[0].detach()
            if kind != "resnet":
                g, a = (one[1:].T.reshape(32, 4, 4) for one in (g, a))
            odam, cam = (g * a).sum(0).relu(), (g.mean(dim=(1, 2))[:, None, None] * a).sum(0).relu()
            assert g.abs().max() > 1e-6
            torch.testing.assert_close(found.heat_maps["odam"].maps[row], odam.float())
            torch.testing.assert_close(found.heat_maps["gradcam"].maps[row], cam.float())


def test_the_last_block_is_no_layer_because_nothing_depends_on_its_patches():
    network = network_of("vit")
    cosines, source = plain(network, random_photo(50, 90), TEXTS, "block3")
    (gradient,) = torch.autograd.grad(cosines[0], source)
    assert gradient[0, 0].abs().max() > 0 and not gradient[0, 1:].any()
    with pytest.raises(ValueError, match="unknown layer 'block3'.*block1, block2"):
        explain_similarity(ImageTextModel(network, TOKENIZER), random_photo(50, 90), TEXTS, layer="block3")


def test_targets_of_the_trace_are_what_the_model_makes_of_the_cosine():
    network = network_of("resnet").double()
    model, photo = ImageTextModel(network, TOKENIZER), random_photo(50, 90)
    trace, cosines = model.trace(photo, TEXTS), plain(network, photo, TEXTS, "res5")[0].detach()
    # 1/0.07 is what an untrained model begins with.
    torch.testing.assert_close(target_output(trace, "class_logit").detach(), cosines / 0.07)
    torch.testing.assert_close(target_output(trace, "class_score").detach(), (cosines / 0.07).softmax(0))
    # A positive factor scales maps, and no more.
    logit, cosine = (GradientExplainer(layer="res5")(trace, target).maps for target in ("class_logit", model.cosine))
    torch.testing.assert_close(logit * 0.07, cosine)
    with pytest.raises(ValueError, match="path='batched' is not possible"):
        GradientExplainer(layer="res5", path="batched")(trace, model.cosine)


def test_a_bias_means_sigmoids_of_each_text():
    network = network_of("resnet")
    network.logit_bias = nn.Parameter(torch.tensor(-3.0))
    model = ImageTextModel(network, TOKENIZER)
    trace = model.trace(random_photo(50, 90), TEXTS)
    cosines = model.cosine(trace).detach()
    torch.testing.assert_close(trace.scores.detach(), (cosines / 0.07 - 3).sigmoid())


def test_the_network_is_left_as_it_was_and_no_texts_give_no_maps():
    network = network_of("vit").train()
    network.requires_grad_(False)
    model = ImageTextModel(network, TOKENIZER)
    photo = random_photo(50, 90)
    before = photo.copy()
    with torch.no_grad():
        found = explain_similarity(model, photo, [])
        assert len(found.heat_maps["odam"]) == 0 and found.cosines.shape == (0,)
        assert explain_similarity(model, photo, TEXTS, layer="block1").heat_maps["odam"].maps.max() > 0
        with pytest.raises(ValueError, match="no method"):
            explain_similarity(model, photo, TEXTS, [])
    assert network.training and all(not p.requires_grad and p.grad is None for p in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())
    np.testing.assert_array_equal(photo, before)


def test_the_middle_square_is_all_that_is_seen_when_asked_for():
    model, photo = ImageTextModel(network_of("resnet"), TOKENIZER), random_photo(50, 91)
    found = explain_similarity(model, photo, TEXTS, fit="center")
    # (91 - 50) // 2 = 20 columns are left out on the left.
    np.testing.assert_array_equal(found.image, photo[:, 20:70])
    assert found.heat_maps["odam"].to_image().shape == (3, 50, 50)
    np.testing.assert_array_equal(center_square(photo.transpose(1, 0, 2)), photo.transpose(1, 0, 2)[20:70])
    torch.testing.assert_close(found.cosines, explain_similarity(model, photo[:, 20:70], TEXTS).cosines)


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([" "], {}, "a text is empty"),
        (["a cat", "a cat"], {}, "'a cat' occurs twice"),
        (["cat " * 11], {}, "has 13 tokens, and the network takes 12"),
        (TEXTS, {"fit": "tall"}, "unknown fit 'tall'; valid values are whole, center"),
        (TEXTS, {"methods": ["game"]}, "unknown method 'game'"),
        (TEXTS, {"layer": "fpn"}, "unknown layer 'fpn'"),
    ],
)
def test_what_cannot_be_explained_is_refused(texts, options, message):
    with pytest.raises(ValueError, match=message):
        explain_similarity(ImageTextModel(network_of("resnet"), TOKENIZER), random_photo(50, 90), texts, **options)


def test_other_towers_are_refused_and_a_missing_package_is_one_sentence(monkeypatch):
    network = network_of("resnet")
    network.visual = nn.Linear(1, 1)
    with pytest.raises(ValueError, match="an image tower of kind Linear cannot be explained"):
        ImageTextModel(network, TOKENIZER)
    monkeypatch.setitem(sys.modules, "open_clip", None)
    monkeypatch.setattr(library, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs the package open_clip_torch, which is not installed"):
        ImageTextModel.from_pretrained("anything")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    network = network_of("resnet")
    torch.save(network.state_dict(), folder / "open_clip_pytorch_model.bin")
    config = {"embed_dim": 16, "vision_cfg": TOWERS["resnet"], "text_cfg": TEXT}
    own = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bilinear"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": own}))
    return folder


def test_odam_clip_writes_sheets_and_raw_maps(folder, tmp_path, call):
    for name, size in (("a", (50, 90)), ("b", (80, 60))):
        Image.fromarray(random_photo(*size)).save(tmp_path / f"{name}.png")
    (tmp_path / "c.png").write_bytes(b"no image")
    words = ["--model", folder, "--text", "a bottle", "--text", "a banana", "--methods", "odam,gradcam,layercam"]
    done = call(command.main, *words, "--input", tmp_path / "*.png", "--output", tmp_path / "out")
    assert done.code == 0 and done.out == f"2 of 3 images: see {tmp_path / 'out'}\n"
    assert done.err.count("\n") == 1 and "c.png" in done.err
    model = ImageTextModel.from_pretrained(str(folder))
    found = explain_similarity(model, random_photo(50, 90)[:, :, ::-1].copy(), ["a bottle", "a banana"], ["layercam"])
    with np.load(tmp_path / "out" / "a_clip.npz") as raw:
        np.testing.assert_allclose(raw["scores"], found.cosines.numpy(), atol=1e-6)
        np.testing.assert_allclose(raw["layercam"], found.heat_maps["layercam"].maps.numpy(), atol=1e-7)
        assert raw["odam"].shape == (2, 2, 2) and raw["boxes"].tolist() == [[0, 0, 90, 50]] * 2
    # Columns of at least 220 pixels: the photograph and three methods.
    assert np.asarray(Image.open(tmp_path / "out" / "b_clip.png")).shape[1] > 4 * 220
    # Its own preprocessing, not OpenAI's.
    assert model._mean.flatten().tolist() == pytest.approx([0.5, 0.4, 0.3])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "{empty}", "--text", "a cat"], "has no open_clip_config.json"),
        (["--model", "{damaged}", "--text", "a cat"], "holds no model that OpenCLIP can build"),
        (["--model", "{folder}", "--text", ""], "a text is empty"),
        (["--model", "{folder}", "--text", "a cat", "--layer", "block1"], "unknown layer 'block1'"),
        (["--model", "{folder}", "--text", "a cat", "--methods", "drise"], "unknown method 'drise'"),
        (["--model", "nobody/has-this", "--text", "a cat"], "is no folder here and cannot be fetched"),
    ],
)
def test_odam_clip_says_in_one_line_what_is_wrong(folder, tmp_path, call, words, message, monkeypatch):
    monkeypatch.setattr(library, "HUB_TIMEOUT", 0.001)
    Image.fromarray(random_photo(50, 90)).save(tmp_path / "a.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "open_clip_config.json").write_text("{}")
    places = {"empty": tmp_path / "empty", "damaged": tmp_path / "damaged", "folder": folder}
    words = [word.format(**places) for word in words]
    done = call(command.main, *words, "--input", tmp_path / "a.png", "--output", tmp_path / "out")
    assert done.code == 1 and message in done.err and done.err.count("\n") == 1, done.err
