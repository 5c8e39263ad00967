"""Commands run in the tests' own process: importing Detectron2 again for each would take most of the time."""

import json
from types import SimpleNamespace

import pytest

from in_process import unchanged_catalogs, unchanged_loggers


@pytest.fixture
def call(monkeypatch, capsys):
    """(a command's ``main``, its words) -> exit code, what it wrote to stdout and to stderr."""
    monkeypatch.setenv("COLUMNS", "200")

    def call_main(main, *words):
        capsys.readouterr()
        with unchanged_loggers("fvcore", "detectron2"), unchanged_catalogs():
            code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return SimpleNamespace(code=code, out=out, err=err)

    return call_main


@pytest.fixture
def annotations(tmp_path):
    """CrowdHuman's format: an image with two people, one of them with a visible box, and a region, and an empty one."""
    boxes = [
        {"tag": "person", "fbox": [0, 0, 10, 10], "vbox": [1, 2, 3, 4]},
        {"tag": "person", "fbox": [50, 50, 9, 9]},
        {"tag": "mask", "fbox": [20, 20, 20, 20], "extra": {"ignore": 1}},
    ]
    path = tmp_path / "val.odgt"
    images = [{"ID": "1,a", "gtboxes": boxes}, {"ID": "2,b", "gtboxes": []}]
    path.write_text("".join(json.dumps(image) + "\n" for image in images))
    return path
