"""The config that a command runs with, and what is wrong with it said before anything is read or written."""

import argparse

import pytest

from odam_d2.cli.explain import main as explain
from odam_d2.cli.explain_nms import main as explain_nms
from odam_d2.cli.settings import read_config


def test_options_come_after_the_file_and_short_ones_last():
    args = argparse.Namespace(
        config_file="configs/quick/fcos.yaml",
        opts=["ODAM.EXPLAIN.LAYER", "res4", "ODAM.EXPLAIN.MAX_INSTANCES", "7"],
        layer="res5",
        method=None,
    )
    options = read_config(args).ODAM.EXPLAIN
    assert (options.LAYER, options.MAX_INSTANCES, options.METHOD) == ("res5", 7, "odam")


@pytest.mark.parametrize(
    ("words", "culprit"),
    [
        (["--opts", "MODEL.DEVICE", "cuda:99"], "MODEL.DEVICE is 'cuda:99'"),
        (["--opts", "INPUT.FORMAT", "L"], "INPUT.FORMAT is 'L'"),
        (["--opts", "TEST.AUG.ENABLED", "True"], "TEST.AUG.ENABLED is True"),
        (["--opts", "MODEL.META_ARCHITECTURE", "YOLO"], "MODEL.META_ARCHITECTURE is 'YOLO'"),
        (["--config-file", "own.py"], "own.py cannot be used: it is a Python config"),
        (["--config-file", "empty.yaml"], "empty.yaml cannot be used: it is empty"),
        (["--config-file", "circle.yaml"], "circle.yaml cannot be used: it includes itself"),
    ],
)
@pytest.mark.parametrize("main", [explain, explain_nms])
def test_each_mistake_is_one_sentence_before_an_image_is_read(main, words, culprit, tmp_path, call):
    for name, text in {"own.py": "model = 1", "empty.yaml": "", "circle.yaml": "_BASE_: circle.yaml"}.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "photo.png").write_bytes(b"an image that would be said to be broken")
    words = [tmp_path / word if (tmp_path / word).is_file() else word for word in words]
    base = ["--config-file", "configs/quick/fcos.yaml", "--input", tmp_path / "photo.png", "--output", tmp_path / "out"]
    done = call(main, *base, *words)
    assert done.code == 1 and culprit in done.err and done.out == ""
    assert len(done.err.strip().splitlines()) == 1, done.err
    assert not (tmp_path / "out").exists()
