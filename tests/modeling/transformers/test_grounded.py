"""Detectors of phrases: what is a class, whose score it has, and maps against the library's plain model."""

import json

import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from cli.conftest import call
from helpers import random_input, random_photo, small_cfg
from odam_d2.cli import explain
from odam_d2.explain import GradientExplainer, target_name
from odam_d2.modeling import ODAMDETR, ODAMGrounded
from odam_d2.modeling.transformers.grounded import tokenize
from odam_d2.modeling.transformers.phrases import split_phrases
from transformer_networks import PLAIN, spread_queries, tiny_network

transformers = pytest.importorskip("transformers", reason="the extra 'transformers' is not installed")

__all__ = ["call"]
# Where BERT's vocabulary has what the networks look for by number; the others' names are never met.
SPECIAL = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?"}
WORDS = [SPECIAL.get(i, f"[unused{i}]") for i in range(1030)] + ["a", "bottle", "ban", "##ana"]
PIXELS = {"pixel_mean": [120.0, 110.0, 100.0], "pixel_std": [60.0, 58.0, 57.0]}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    file = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    file.write_text("".join(f"{word}\n" for word in WORDS))
    return transformers.BertTokenizer(vocab=str(file))


def network_of(kind, seed=0):
    text = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    options = PLAIN | {
        "text_config": text | {"intermediate_size": 16, "vocab_size": len(WORDS)},
        "num_feature_levels": 4,
        "max_text_len": 16,
    }
    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model(kind, **options)
    network = transformers.AutoModelForZeroShotObjectDetection.from_config(config, attn_implementation="eager")
    return spread_queries(network).eval()


def detector_of(kind, tokenizer, text="a bottle. a banana.", **options):
    return ODAMGrounded(network=network_of(kind), tokenizer=tokenizer, text=text, **PIXELS, **options).eval()


def test_phrases_and_their_tokens_by_hand(tokenizer):
    assert split_phrases(" A  Bottle. a banana ") == ["a bottle", "a banana"]
    # [CLS] a bottle . a ban ##ana . [SEP]
    tokens, positions, words = tokenize(tokenizer, ["a bottle", "a banana"], 9)
    assert tokens.tolist() == [[101, 1030, 1031, 1012, 1030, 1032, 1033, 1012, 102]]
    assert positions == [[1, 2], [4, 5, 6]] and words == {"a": [1, 4], "bottle": [2], "banana": [5, 6]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' names nothing to look for"),
        (" . ", "names nothing to look for"),
        ("a bottle. A bottle.", "names 'a bottle' twice"),
        ("a bottle. a xylophone.", "does not know the phrase 'a xylophone'"),
        ("a bottle. a a a a a a a a a a a a.", "2 phrases has 18 tokens, and the network takes 16"),
    ],
)
def test_texts_that_name_nothing_are_refused(text, message, tokenizer):
    with pytest.raises(ValueError, match=message):
        detector_of("grounding-dino", tokenizer, text)


@pytest.mark.parametrize("kind", ["grounding-dino", "mm-grounding-dino"])
def test_scores_and_maps_equal_autograd_on_the_plain_model(kind, tokenizer):
    # In single precision: the library makes the logits in it, whatever the network's is.
    detector, batch = detector_of(kind, tokenizer), random_input(96, 130)
    assert detector.num_classes == 2 and detector.class_names == ["a bottle", "a banana"]
    inputs = tokenizer("a bottle. a banana.", return_tensors="pt")
    pixels = ((batch["image"] - detector.pixel_mean) / detector.pixel_std)[None].requires_grad_()
    captured = {}
    hook = detector.network.model.input_proj_vision[2].register_forward_hook(
        lambda module, args, output: captured.update(map=output)
    )
    # What it cuts off while training belongs to the derivative of its outputs.
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.Tensor, "detach", lambda tensor: tensor)
        output = detector.network(pixel_values=pixels, **inputs)
    hook.remove()
    # Of a phrase its best token counts.
    logits = torch.stack([output.logits[0][:, [1, 2]].amax(1), output.logits[0][:, [4, 5, 6]].amax(1)], dim=1)
    places, classes = torch.tensor([0, 4]), torch.tensor([1, 0])
    observation = detector.observe([batch], ("projection5",))
    trace = observation.trace(0, places, classes)
    assert torch.allclose(trace.logits, logits[places], atol=1e-5)
    assert torch.allclose(trace.scores, logits[places, classes].sigmoid(), atol=1e-5)
    said = observation.predictions(0)
    assert torch.allclose(said.class_vectors, logits.sigmoid(), atol=1e-5)
    maps = GradientExplainer(layer="projection5")(trace, "class_score").grids[0].maps
    for row in range(2):
        score = logits[places[row], classes[row]].sigmoid()
        (gradient,) = torch.autograd.grad(score, captured["map"], retain_graph=True)
        expected = (gradient * captured["map"]).sum(dim=1).relu()[0].detach()
        assert expected.max() > 0 and torch.allclose(maps[row], expected, atol=1e-4 * float(expected.max()))
    # A query is an object of its best phrase, with the box that the library decodes.
    (found,) = observation.detections()
    best, labels = logits.sigmoid().max(dim=1)
    rows = found.place
    assert len(found) > 0 and torch.equal(found.pred_classes, labels[rows])
    assert torch.allclose(found.scores, best[rows], atol=1e-5)
    x, y, w, h = output.pred_boxes[0][rows].unbind(1)
    sides = torch.stack([(x - w / 2) * 130, (y - h / 2) * 96, (x + w / 2) * 130, (y + h / 2) * 96], dim=1)
    limits = torch.tensor([130, 96, 130, 96])
    assert torch.allclose(found.pred_boxes.tensor, sides.clamp(min=0).minimum(limits), atol=1e-2)


def test_a_word_is_a_target(tokenizer):
    detector = detector_of("grounding-dino", tokenizer)
    trace = detector.observe([random_input()]).trace(0, torch.tensor([0, 4]), torch.tensor([1, 0]))
    target = detector.token_target("banana")
    assert target_name(target) == "token_score[banana]" and trace.tokens.shape == (2, 16)
    assert torch.equal(target(trace), torch.maximum(trace.tokens[:, 5], trace.tokens[:, 6]).sigmoid())
    # Of "a banana" the best token is one of the word's, or the article.
    phrase = torch.maximum(trace.tokens[:, 4].sigmoid(), target(trace))
    assert torch.allclose(trace.scores_of(torch.tensor([1, 1])), phrase)
    assert GradientExplainer()(trace, target).maps.max() > 0
    with pytest.raises(ValueError, match="no word 'cup'; its words are a, bottle, banana"):
        detector.token_target("cup")


def test_networks_and_detectors_that_do_not_belong_together_say_so(tokenizer):
    with pytest.raises(ValueError, match="GroundingDINO is no network for ODAMDETR; use ODAMGrounded"):
        ODAMDETR(network=network_of("grounding-dino"), **PIXELS)
    with pytest.raises(ValueError, match="DETR is no network for ODAMGrounded; use ODAMDETR"):
        ODAMGrounded(network=tiny_network("detr"), tokenizer=tokenizer, text="a bottle.", **PIXELS)
    with pytest.raises(ValueError, match="not trained here"):
        detector_of("grounding-dino", tokenizer).train()([random_input()])
    options = ["MODEL.META_ARCHITECTURE", "ODAMGrounded", "MODEL.TRANSFORMERS.TEXT", "a bottle."]
    with pytest.raises(ValueError, match="tokenizer.*MODEL.TRANSFORMERS.NAME"):
        build_model(small_cfg("detr", options))


def test_odam_explain_takes_a_text(tokenizer, tmp_path, call):
    folder = tmp_path / "network"
    network_of("grounding-dino").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Image.fromarray(random_photo(96, 128)).save(tmp_path / "photo.png")
    words = ["--input", tmp_path / "photo.png", "--output", tmp_path / "out", "--targets", "class_score,x2"]
    words += ["--config-file", "configs/quick/detr.yaml", "--text", "a banana. a bottle."]
    opts = ["MODEL.META_ARCHITECTURE", "ODAMGrounded", "MODEL.TRANSFORMERS.CONFIG", ""]
    opts += ["MODEL.TRANSFORMERS.NAME", folder, "MODEL.WEIGHTS", folder]
    done = call(explain.main, *words, "--opts", *opts)
    assert done.code == 0, done.err
    (line,) = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert line["classes"] and set(line["classes"]) <= {"a banana", "a bottle"}
    done = call(explain.main, *words, "--opts", "MODEL.WEIGHTS", folder)
    assert done.code == 1 and "--text says what to look for, and ODAMDETR has classes of its own" in done.err
