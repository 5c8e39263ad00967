"""``odam sanity``: the figure and its numbers, and what it says when something is wrong."""

import json

import pytest

from evaluation.explained import make_predictor, register, unregister, write_dataset
from odam_d2.cli.sanity import main

NAME = "odam_checked"


@pytest.fixture(scope="module")
def dataset(quick_weights, tmp_path_factory):
    path = write_dataset(tmp_path_factory.mktemp("data") / "checked", make_predictor("fcos", quick_weights("fcos")))
    register(NAME, path)
    yield
    unregister(NAME)


@pytest.fixture
def run(dataset, quick_weights, call):
    def call_main(output, *more, opts=()):
        words = ["--config-file", "configs/quick/fcos.yaml", "--dataset", NAME, "--output", output, *more]
        done = call(main, *words, "--opts", "MODEL.WEIGHTS", quick_weights("fcos"), *opts)
        return done.code, done.out, done.err

    return call_main


def test_one_command_gives_one_figure_and_its_numbers(run, tmp_path):
    options = ["--score-threshold", "0", "--max-images", "2", "--max-detections", "2"]
    code, out, err = run(tmp_path / "out", *options)
    assert code == 0 and not err, err
    assert "depends on" in out and "neighbours" in out and "gradcam++" in out
    content = json.loads((tmp_path / "out" / "sanity.json").read_text())
    assert content["methods"]["odam"]["detections"] == 4 and content["settings"]["max_images"] == 2
    assert (tmp_path / "out" / "sanity.png").read_bytes()[:4] == b"\x89PNG"


def checked(run, output, *opts):
    options = ["--score-threshold", "0", "--max-images", "2", "--max-detections", "1", "--methods", "odam,gradcam"]
    # On the CPU, where sums have one order: what should not differ does not at all.
    code, _, err = run(output, *options, opts=(*opts, "MODEL.DEVICE", "cpu"))
    assert code == 0, err
    content = json.loads((output / "sanity.json").read_text())
    return content["explained by"], content["methods"]


@pytest.mark.parametrize(("key", "value"), [("SMOOTHING", "gaussian"), ("LAYER", "res4")])
def test_the_config_governs_the_maps_that_are_checked(key, value, run, tmp_path):
    usual_how, usual = checked(run, tmp_path / "usual")
    own_how, own = checked(run, tmp_path / "own", f"ODAM.EXPLAIN.{key}", value)
    for method in ("odam", "gradcam"):
        assert own_how[method] == usual_how[method] | {key.lower(): value}
    assert own["odam"]["spearman"] != usual["odam"]["spearman"]
    # Grad-CAM does not smooth; another layer is another map for it too.
    assert (own["gradcam"]["spearman"] == usual["gradcam"]["spearman"]) == (key == "SMOOTHING")


def test_the_path_of_the_config_governs_the_maps_that_are_checked(run, tmp_path):
    opts = ("ODAM.EXPLAIN.PATH", "batched", "ODAM.EXPLAIN.LAYER", "res4")
    code, _, err = run(tmp_path, "--methods", "odam", "--score-threshold", "0", opts=opts)
    assert code == 1 and "path='batched' explains this detector at 'fpn', not at 'res4'" in err


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        (["--methods", "drise"], "unknown method 'drise'"),
        (["--methods", ","], "--methods names no method"),
        (["--dataset", "absent"], "unknown dataset 'absent'"),
        (["--max-images", "0"], "--max-images 0"),
        (["--target", "size"], "'size'"),
    ],
)
def test_each_mistake_is_one_sentence(change, culprit, run, tmp_path):
    code, _, err = run(tmp_path, *change)
    assert code == 1 and culprit in err
    assert err.startswith("error: ") and err.count("\n") == 1, err


def test_no_detection_is_said(run, tmp_path):
    code, out, err = run(tmp_path, "--score-threshold", "0.99")
    assert code == 1 and "there is no detection with a score > 0.99" in out and not err
