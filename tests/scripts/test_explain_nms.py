"""``scripts/explain_nms.py`` from the command line."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
from in_process import call_script
from PIL import Image

from helpers import random_photo


@pytest.fixture
def run(monkeypatch, capsys):
    def call(kind, weights, output, *opts, images):
        words = ["--config-file", f"configs/quick/{kind}.yaml", "--input", images, "--output", output]
        words += ["--opts", "MODEL.WEIGHTS", weights, *opts]
        code, stdout, stderr = call_script("scripts/explain_nms.py", words, monkeypatch, capsys)
        return SimpleNamespace(returncode=code, stdout=stdout, stderr=stderr)

    return call


def test_removed_candidates_are_listed_and_pairs_drawn(quick_weights, tmp_path, run):
    Image.fromarray(random_photo(75, 133)).save(tmp_path / "photo.png")
    image = tmp_path / "photo.png"
    done = run("fcos_odam_nms", quick_weights("fcos"), tmp_path / "out", images=image)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out" / "removals.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 0
    for row in rows:
        assert row["image"] == "photo.png" and float(row["by_score"]) >= float(row["score"])
        # The rule that removed it: T^l = .2 from IoU .6 on, T^h = .8 below.
        assert float(row["correlation"]) > (0.2 if float(row["iou"]) >= 0.6 else 0.8) - 1e-3
        assert row["distance"] == ""
    assert np.asarray(Image.open(tmp_path / "out" / "photo_pairs.png")).shape[2] == 3


def test_greedy_nms_is_listed_without_correlations(quick_weights, tmp_path, run):
    Image.fromarray(random_photo(75, 133)).save(tmp_path / "photo.png")
    opts = ("ODAM.NMS.NAME", "greedy")
    done = run("fcos_odam_nms", quick_weights("fcos"), tmp_path / "out", *opts, images=tmp_path / "photo.png")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out" / "removals.csv").open() as file:
        assert all(row["correlation"] == "" and float(row["iou"]) > 0.6 - 1e-3 for row in csv.DictReader(file))


def test_soft_nms_and_a_missing_image_give_one_sentence(quick_weights, tmp_path, run):
    Image.fromarray(random_photo(75, 133)).save(tmp_path / "photo.png")
    opts = ("ODAM.NMS.NAME", "soft")
    done = run("fcos_odam_nms", quick_weights("fcos"), tmp_path / "out", *opts, images=tmp_path / "photo.png")
    assert done.returncode == 1 and "Soft-NMS lowers scores" in done.stderr and "Traceback" not in done.stderr
    done = run("fcos_odam_nms", quick_weights("fcos"), tmp_path / "out", images=tmp_path / "none.png")
    assert done.returncode == 1 and "none.png" in done.stderr and "Traceback" not in done.stderr
