"""``odam errors``: the page and its files from one command, and what it says when something is wrong."""

import json

import pytest

from evaluation.explained import make_predictor, register, unregister, write_dataset
from odam_d2.cli.errors import main

NAME = "odam_mistaken"


@pytest.fixture(scope="module")
def dataset(quick_weights, tmp_path_factory):
    path = write_dataset(tmp_path_factory.mktemp("data") / "mistaken", make_predictor("fcos", quick_weights("fcos")))
    register(NAME, path)
    yield
    unregister(NAME)


@pytest.fixture
def run(dataset, quick_weights, call):
    def call_main(output, *more, kind="fcos"):
        words = ["--config-file", f"configs/quick/{kind}.yaml", "--dataset", NAME, "--output", output, *more]
        return call(main, *words, "--opts", "MODEL.WEIGHTS", quick_weights(kind))

    return call_main


@pytest.mark.parametrize("kind", ["fcos", "faster_rcnn"])
def test_one_command_gives_the_page_and_its_numbers(kind, run, tmp_path):
    done = run(tmp_path / "out", "--score-threshold", "0", "--max-images", "2", kind=kind)
    assert done.code == 0, done.err
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["counts"] == {"images": 2, "objects": 7, "with_mask": 7}
    kinds = summary["kinds"]
    if kind == "fcos":
        # The first two images' objects are its own detections, 3 and 2, and a lamp each.
        assert kinds["correct"] >= 5
    assert sum(kinds.values()) > 7 and summary["facts"]["method"] == "odam"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "errors.csv",
        "maps.csv",
        "summary.json",
        "index.html",
    }
    assert "Errors on 7 objects in 2 images" in done.out and "open" in done.out


def test_a_detector_that_detects_nothing_misses_everything(run, tmp_path):
    done = run(tmp_path / "out", "--score-threshold", "0.99", "--max-images", "1")
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["kinds"]["missed"] == 4


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        (["--method", "drise"], "unknown method 'drise'"),
        (["--dataset", "absent"], "unknown dataset 'absent'"),
        (["--foreground", "0.05"], "background 0.1 and foreground 0.05"),
        (["--max-images", "0"], "max_images 0"),
        (["--layer", "attic"], "'attic'"),
    ],
)
def test_each_mistake_is_one_sentence(change, culprit, run, tmp_path):
    done = run(tmp_path, *change)
    assert done.code == 1 and culprit in done.err and done.err.startswith("error: ") and done.err.count("\n") == 1
