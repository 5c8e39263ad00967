"""``odam figures 8``: what it shows of a detector of phrases, and of a random one where none is named."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

from helpers import random_photo
from odam_d2 import read_image
from odam_d2.cli.figures import main
from odam_d2.cli.paper_figures import methods, phrases
from odam_d2.cli.paper_figures.common import draw_rows
from odam_d2.cli.paper_figures.phrases import RANDOM, surest_of_each_phrase, tiny_detector
from odam_d2.explain import ExplainSettings, GradientExplainer

pytest.importorskip("transformers", reason="the extra 'transformers' is not installed")


@pytest.fixture
def photo(tmp_path):
    Image.fromarray(random_photo(75, 133)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def run(photo, tmp_path, call):
    return lambda *words: call(main, "8", "--input", photo, "--output", tmp_path / "out" / "8.png", *words)


@pytest.fixture
def drawn(monkeypatch):
    """The rows and columns of each sheet."""
    seen = []
    monkeypatch.setattr(methods, "draw_rows", lambda *words: seen.append(words[1:]) or draw_rows(*words))
    return seen


def found(scores, classes):
    instances = Instances((10, 10))
    instances.scores, instances.pred_classes = torch.tensor(scores), torch.tensor(classes)
    instances.pred_boxes = Boxes(torch.zeros(len(scores), 4))
    return instances


def test_rows_are_the_surest_of_each_phrase_by_hand():
    all_found = found([0.9, 0.8, 0.7, 0.6, 0.2], [1, 0, 1, 0, 2])
    assert surest_of_each_phrase(all_found, 0.3, 1) == [1, 0]
    assert surest_of_each_phrase(all_found, 0.1, 2) == [1, 3, 0, 2, 4]
    assert surest_of_each_phrase(all_found, 0.95, 2) == []


def test_without_a_detector_a_tiny_random_one_stands_in_and_says_so(run, tmp_path, drawn, photo):
    done = run("--text", "a cup. a spoon.", "--layer", "projection4")
    assert done.code == 0 and done.out.splitlines() == [
        f"1 image: see {tmp_path / 'out' / '8.png'}",
        f"note: {RANDOM}; name a detector with --config-file",
    ], done.err
    ((rows, columns),) = drawn
    assert list(columns) == ["Grad-CAM", "ODAM"] and {row.label.rpartition(" ")[0] for row in rows} <= {
        "a cup",
        "a spoon",
    }
    # The same network each time, and the maps that the predictor makes.
    predictor = tiny_detector("a cup. a spoon.", ExplainSettings(layer="projection4"))
    image = read_image(photo)
    instances, trace = predictor.trace(
        image, ("projection4",), lambda all_found: surest_of_each_phrase(all_found, 0.0, 1)
    )
    np.testing.assert_array_equal([row.box for row in rows], instances.pred_boxes.tensor.numpy())
    maps = GradientExplainer(layer="projection4")(trace, "class_score").to_picture((75, 133)).numpy()
    np.testing.assert_allclose([row.maps["ODAM"] for row in rows], maps, atol=1e-6)
    assert maps.max() > 0


def test_a_network_of_the_library_is_shown_by_its_config(run, tmp_path, drawn):
    predictor = tiny_detector("a cup.", ExplainSettings())
    predictor.model.network.save_pretrained(tmp_path / "network")
    phrases.letters_tokenizer().save_pretrained(tmp_path / "network")
    config = ("--config-file", "transformers/grounding_dino_T.yaml", "--text", "a cup.")
    opts = ("--opts", "MODEL.WEIGHTS", tmp_path / "network", "MODEL.TRANSFORMERS.NAME", tmp_path / "network")
    done = run(*config, "--confidence-threshold", "0", "--max-instances", "2", *opts, "INPUT.MIN_SIZE_TEST", "96")
    assert done.code == 0 and done.out == f"1 image: see {tmp_path / 'out' / '8.png'}\n", done.err
    ((rows, _),) = drawn
    assert len(rows) == 2 and all(row.label.startswith("a cup ") for row in rows)
    done = run(*config, "--confidence-threshold", "1.1", *opts, "INPUT.MIN_SIZE_TEST", "96")
    assert done.code == 1 and "grounding_dino_T finds none of 'a cup.' in photo.png with a score of at" in done.err


@pytest.mark.parametrize(
    ("words", "culprit"),
    [
        (["--text", "a cup. a cup."], "names 'a cup' twice"),
        (["--text", ""], "names nothing to look for"),
        (["--confidence-threshold", "1.1"], "with a score of at least 1.1; lower --confidence-threshold"),
        (["--opts", "MODEL.DEVICE", "cpu"], "--opts changes keys of a config, and there is none"),
        (["--config-file", "quick/fcos.yaml"], "ODAMFCOS has classes of its own"),
        (["--layer", "block1"], "block1"),
        (["--max-instances", "0"], "--max-instances is 0; at least 1 is needed"),
    ],
)
def test_each_mistake_is_one_sentence(words, culprit, run, tmp_path):
    done = run(*words)
    assert done.code == 1 and culprit in done.err and not done.out
    assert done.err.startswith("error: ") and done.err.count("\n") == 1, done.err
    assert not (tmp_path / "out").exists()
