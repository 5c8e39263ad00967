"""OWLv2: detections of the library's own post-processing, and maps against its plain model."""

import pytest
import torch
from detectron2.modeling import build_model

from helpers import random_input, random_photo
from odam_d2.config import load_config
from odam_d2.explain import GradientExplainer, target_output
from odam_d2.explain.gradients import detection_gradients
from odam_d2.modeling import ODAMDETR, ODAMOWL, ODAMGrounded
from odam_d2.modeling.transformers.owl import tokenize_phrases
from odam_d2.predictor import ODAMPredictor
from transformer_networks import spread_queries, tiny_network

transformers = pytest.importorskip("transformers", reason="the extra 'transformers' is not installed")

WORDS = ["<|startoftext|>", "<|endoftext|>", "a</w>", "b</w>", "c</w>", *"abc"]
PIXELS = {"pixel_mean": [120.0, 110.0, 100.0], "pixel_std": [60.0, 58.0, 57.0]}
TOWER = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def tokenizer():
    own = {word: i + 1 for i, word in enumerate(WORDS)} | {"!": 0}
    return transformers.CLIPTokenizer(vocab=own, merges=[], pad_token="!", model_max_length=5)


def network_of(seed=0):
    text = TOWER | {"num_hidden_layers": 1, "vocab_size": len(WORDS) + 1, "max_position_embeddings": 5}
    text |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    vision = TOWER | {"num_hidden_layers": 3, "image_size": 64, "patch_size": 16}
    config = transformers.Owlv2Config(text_config=text, vision_config=vision, projection_dim=16)
    torch.manual_seed(seed)
    auto = transformers.AutoModelForZeroShotObjectDetection
    return spread_queries(auto.from_config(config, attn_implementation="eager")).eval()


def detector_of(tokenizer, text="a. b c.", **options):
    return ODAMOWL(network=network_of(), tokenizer=tokenizer, text=text, **PIXELS, **options).eval()


def plain(detector, tokenizer, image, block=None):
    """The plain model's output on a grey square, and a block's tokens in its graph."""
    square = torch.full((3, 64, 64), 127.5, dtype=image.dtype)
    square[:, : image.shape[1], : image.shape[2]] = image
    pixels = ((square - detector.pixel_mean) / detector.pixel_std)[None].requires_grad_()
    captured = {}
    layers = detector.network.owlv2.vision_model.encoder.layers
    hook = layers[block or 0].register_forward_hook(lambda m, a, output: captured.update(tokens=output))
    text = tokenizer(["a", "b c"], padding="max_length", max_length=5, return_tensors="pt")
    output = detector.network(pixel_values=pixels, **text)
    hook.remove()
    return output, captured["tokens"]


def test_a_gradient_reaches_the_pixels_of_an_image_that_requires_one(tokenizer):
    image = random_input(50, 60)["image"].requires_grad_()
    trace = detector_of(tokenizer).observe([{"image": image}]).trace(0, torch.tensor([0]), torch.tensor([1]))
    (gradient,) = torch.autograd.grad(trace.scores.sum(), image)
    assert gradient.shape == image.shape and gradient.any()


def test_phrases_by_hand(tokenizer):
    # <start> a <end> and <start> b c <end>, filled up with 0.
    tokens, mask = tokenize_phrases(tokenizer, ["a", "b c"], 5)
    assert tokens.tolist() == [[1, 3, 2, 0, 0], [1, 4, 5, 2, 0]]
    assert mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]
    with pytest.raises(ValueError, match="'a a a a' has 6 tokens, and the network takes 5"):
        detector_of(tokenizer, "a a a a.")


def test_detections_are_those_of_the_library(tokenizer):
    detector = detector_of(tokenizer, max_detections_per_image=16)
    batch = [random_input(48, 64), random_input(64, 40)]
    found = detector(batch)
    for one, own in zip(batch, found):
        output, _ = plain(detector, tokenizer, one["image"])
        processor = transformers.Owlv2ImageProcessor
        (expected,) = processor.post_process_object_detection(None, output, 0.0, torch.tensor([[64, 64]]))
        order = expected["scores"].argsort(descending=True)
        limits = torch.tensor([one["image"].shape[2], one["image"].shape[1]] * 2)
        boxes = torch.minimum(expected["boxes"][order].clamp(min=0), limits)
        kept = ((boxes[:, 2:] > boxes[:, :2]).all(dim=1)).nonzero()[:, 0]
        instances = own["instances"]
        scale = torch.tensor([instances.image_size[1], instances.image_size[0]] * 2) / limits
        torch.testing.assert_close(instances.pred_boxes.tensor, boxes[kept] * scale, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(instances.scores, expected["scores"][order][kept])
        assert instances.pred_classes.tolist() == expected["labels"][order][kept].tolist()


@pytest.mark.parametrize("layer", ["block1", "block2", "fpn"])
def test_gradients_equal_a_loop_of_autograd_on_the_plain_model(layer, tokenizer):
    detector = detector_of(tokenizer).double()
    assert detector.layers == ["block1", "block2", "fpn"] and detector.class_names == ["a", "b c"]
    batch = random_input(48, 64)
    batch["image"] = batch["image"].double()
    places, classes = torch.tensor([0, 7, 13]), torch.tensor([1, 0, 1])
    trace = detector.observe([batch], [layer]).trace(0, places, classes)
    assert trace.tokens is None and trace.padded_size == (64, 64) and trace.image_size == (48, 64)
    output, tokens = plain(detector, tokenizer, batch["image"], 0 if layer == "block1" else 1)
    for target in ("class_score", "x1", "y2"):
        gradients = detection_gradients(trace, target_output(trace, target), layer)
        maps = GradientExplainer(layer=layer)(trace, target).maps
        for row, (place, label) in enumerate(zip(places, classes)):
            x, y, w, h = output.pred_boxes[0, place] * 64
            scalar = {"class_score": output.logits[0, place, label].sigmoid(), "x1": w / 2 - x, "y2": y + h / 2}[target]
            (gradient,) = torch.autograd.grad(scalar, tokens, retain_graph=True)
            expected, activation = (one[0, 1:].T.reshape(16, 4, 4) for one in (gradient, tokens.detach()))
            found, own = next(gradients)
            assert expected.abs().max() > 1e-8
            torch.testing.assert_close(found, expected)
            torch.testing.assert_close(own, activation)
            torch.testing.assert_close(maps[row], (expected * activation).sum(0).relu().float())


def test_after_the_last_block_a_prediction_depends_on_its_own_patch_alone(tokenizer):
    detector = detector_of(tokenizer)
    output, tokens = plain(detector, tokenizer, random_input(48, 64)["image"], 2)
    (gradient,) = torch.autograd.grad(output.logits[0, 5, 0], tokens)
    # The class token, and patch 5 behind it.
    assert gradient[0].abs().sum(dim=1).nonzero()[:, 0].tolist() == [0, 6]


def test_networks_of_other_kinds_and_large_images_are_refused(tokenizer):
    with pytest.raises(ValueError, match="OWLv2 is no network for ODAMDETR; use ODAMOWL"):
        ODAMDETR(network=network_of(), **PIXELS)
    with pytest.raises(ValueError, match="OWLv2 is no network for ODAMGrounded; use ODAMOWL"):
        ODAMGrounded(network=network_of(), tokenizer=tokenizer, text="a.", **PIXELS)
    with pytest.raises(ValueError, match="DETR is no network for ODAMOWL; use ODAMDETR"):
        ODAMOWL(network=tiny_network("detr"), tokenizer=tokenizer, text="a.", **PIXELS)
    detector = detector_of(tokenizer)
    with pytest.raises(ValueError, match="an image has 65 x 20 pixels, and this detector takes at most 64; set INPUT"):
        detector([random_input(65, 20)])
    with pytest.raises(ValueError, match="ODAMOWL is not trained here"):
        detector.train()([random_input(48, 64)])
    groups = detector.layer_groups()
    assert list(groups) == ["predictors", "text", "block.3", "block.2", "block.1", "patches"]


def test_a_folder_and_a_text_make_a_predictor(tokenizer, tmp_path):
    network_of().save_pretrained(tmp_path / "owl")
    tokenizer.save_pretrained(tmp_path / "owl")
    options = {"TRANSFORMERS.NAME": tmp_path / "owl", "WEIGHTS": tmp_path / "owl", "TRANSFORMERS.TEXT": "a. b c."}
    words = [word for key, value in options.items() for word in (f"MODEL.{key}", str(value))]
    words += ["INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 64, "MODEL.DEVICE", "cpu"]
    cfg = load_config("transformers/owlv2_B.yaml", words)
    assert isinstance(build_model(cfg), ODAMOWL)
    predictor = ODAMPredictor(cfg)
    explanation = predictor.explain(random_photo(96, 128), ["class_score[b c]", "combined"], instances=[0])
    assert explanation.maps["combined"].shape == (1, 96, 128) and explanation.levels == ["block2"]
    with pytest.raises(ValueError, match="names nothing to look for"):
        ODAMPredictor(load_config("transformers/owlv2_B.yaml", [*words, "MODEL.TRANSFORMERS.TEXT", ""]))
