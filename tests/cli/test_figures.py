"""``odam figures``: what Figure 18 shows of two detectors, and what it says when something is wrong."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import random_photo
from odam_d2 import read_image
from odam_d2.boxes import box_iou
from odam_d2.cli.figures import FIGURES, main
from odam_d2.cli.paper_figures import trained
from odam_d2.config import load_config
from odam_d2.nms import greedy_nms
from odam_d2.predictor import ODAMPredictor

# Random networks score little, and below .3.
LOW = ("--score-threshold", "0", "--pair-score-threshold", "0")


@pytest.fixture
def image(tmp_path):
    Image.fromarray(random_photo(75, 133)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def run(image, quick_weights, tmp_path, call):
    def call_main(*words, first="fcos_odam_nms", other="fcos_odam_nms", opts=()):
        configs = [f"configs/quick/{kind}.yaml" for kind in (first, other)]
        base = ["18", "--config-file", configs[0], "--other-config-file", configs[1], "--input", image]
        base += ["--output", tmp_path / "out" / "figure.png", *words]
        return call(main, *base, "--opts", "MODEL.WEIGHTS", quick_weights("fcos"), *opts)

    return call_main


@pytest.fixture
def drawn(monkeypatch):
    """The detectors that each figure was drawn of."""
    seen = []
    draw = trained.compare_maps
    monkeypatch.setattr(trained, "compare_maps", lambda *words: seen.append(words[1]) or draw(*words))
    return seen


def test_one_command_writes_the_figure(run, tmp_path, drawn, quick_weights, image):
    done = run(*LOW, "--pairs", "3", "--names", "before", "after")
    assert done.code == 0 and not done.err, done.err
    assert done.out == f"3 of 3 pairs: see {tmp_path / 'out' / 'figure.png'}\n"
    figure = np.asarray(Image.open(tmp_path / "out" / "figure.png"))
    assert figure.ndim == 3 and figure.shape[1] > 1000
    ((before, after),) = drawn
    assert (before.name, after.name) == ("before", "after")
    # What ODAM-NMS sees, each map scaled to its maximum.
    cfg = load_config("configs/quick/fcos_odam_nms.yaml", ["MODEL.WEIGHTS", quick_weights("fcos")])
    _, seen = ODAMPredictor(cfg).explain_nms(read_image(image))
    np.testing.assert_array_equal(before.boxes, seen.boxes.cpu().numpy())
    np.testing.assert_array_equal(before.scores, seen.scores.cpu().numpy())
    maps = seen.maps.cpu().numpy().astype(np.float64)
    peaks = maps.max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(before.maps, maps / np.where(peaks > 0, peaks, 1), atol=1e-6)
    # Pairs are of one class, kept by boxes alone, and their numbers those of their boxes and maps.
    kept = set(greedy_nms(seen.boxes, seen.scores, seen.classes, seen.iou_threshold).tolist())
    classes, flat = seen.classes.numpy(), maps.reshape(len(maps), -1)
    assert before.pairs.shape == (3, 2) and set(before.pairs.flatten().tolist()) <= kept
    for (i, j), iou, correlation in zip(before.pairs, before.iou, before.correlation):
        assert classes[i] == classes[j] and 0 < iou <= seen.iou_threshold
        assert iou == pytest.approx(box_iou(before.boxes[[i]], before.boxes[[j]])[0, 0], abs=1e-5)
        cosine = flat[i] @ flat[j] / (np.linalg.norm(flat[i]) * np.linalg.norm(flat[j]))
        assert correlation == pytest.approx(cosine, abs=1e-5)


def test_a_detector_beside_itself_shows_the_same_twice_whatever_nms_its_config_names(run, drawn):
    done = run(*LOW, "--names", "same", "same", first="fcos", opts=("ODAM.NMS.NAME", "soft"))
    assert done.code == 0, done.err
    ((first, other),) = drawn
    assert first.name == other.name
    for part in ("boxes", "scores", "maps", "pairs", "iou", "correlation"):
        np.testing.assert_array_equal(getattr(first, part), getattr(other, part))


def test_weights_may_differ_and_objects_are_those_of_both(run, drawn, quick_weights, tmp_path):
    weights = torch.load(quick_weights("fcos"))["model"]
    # A distance more on every side: boxes that still lie on their own place, of other sizes.
    weights["head.bbox_pred.bias"] = weights["head.bbox_pred.bias"] + 0.2
    torch.save({"model": weights}, tmp_path / "larger.pth")
    done = run(*LOW, "--weights", quick_weights("fcos"), tmp_path / "larger.pth")
    assert done.code == 0, done.err
    ((first, other),) = drawn
    assert len(first.pairs) == len(other.pairs) > 0 and not np.array_equal(first.boxes, other.boxes)
    for mine, others in zip(first.pairs.flatten(), other.pairs.flatten()):
        assert box_iou(first.boxes[[mine]], other.boxes[[others]])[0, 0] > 0.5


def test_detectors_without_a_common_pair_still_have_their_average_maps(run, drawn, tmp_path):
    done = run("--score-threshold", "0", "--pair-score-threshold", "0.999")
    assert done.code == 0 and done.out.startswith("0 of 4 pairs: see "), done.err
    assert [len(detector.pairs) for detector in drawn[0]] == [0, 0] and (tmp_path / "out" / "figure.png").is_file()


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        (["--score-threshold", "0.99"], "without ODAM-Train: no prediction has a score > 0.99 (the highest has 0."),
        (["--pairs", "0"], "--pairs 0 must be at least 1"),
        (["--output", "figure18"], "--output figure18 is no image file; valid endings are .jpg"),
        (["--input", "absent.png"], "there is no image file absent.png"),
        (["--input", "README.md"], "README.md is not an image"),
        (["--other-config-file", "absent.yaml"], "absent.yaml"),
        (["--weights", "absent.pth", "absent.pth"], "there is no weights file absent.pth"),
    ],
)
def test_each_mistake_is_one_sentence(change, culprit, run, tmp_path):
    done = run(*change)
    assert done.code == 1 and culprit in done.err and not done.out
    assert done.err.startswith("error: ") and done.err.count("\n") == 1, done.err
    assert not (tmp_path / "out").exists()


def test_detectors_of_different_classes_are_refused(run, quick_weights, tmp_path):
    (tmp_path / "two.yaml").write_text(
        f"_BASE_: {(Path.cwd() / 'configs/quick/fcos.yaml')}\nMODEL:\n  FCOS:\n    NUM_CLASSES: 2\n"
    )
    weights = torch.load(quick_weights("fcos"))["model"]
    for name in ("head.cls_score.weight", "head.cls_score.bias"):
        weights[name] = weights[name][:2]
    torch.save({"model": weights}, tmp_path / "two.pth")
    words = ["--other-config-file", tmp_path / "two.yaml", "--weights", quick_weights("fcos"), tmp_path / "two.pth"]
    done = run(*words)
    assert done.code == 1 and done.err.count("\n") == 1
    assert "the first detector has 80 classes (person, bicycle, car, motorcycle, airplane, ...)" in done.err
    assert "and the other 2 classes (0, 1); choose detectors of the same classes" in done.err


@pytest.mark.parametrize("words", [[], ["2"], ["18"]])
def test_a_number_that_is_no_figure_and_missing_options_are_misused_words(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    told = capsys.readouterr().err
    assert stopped.value.code == 2 and "usage: odam figures" in told
    if words == ["2"]:
        assert "invalid choice: '2'" in told and all(number in told for number in FIGURES)
