"""``odam explain-nms``: what it lists and draws, and what it says when something is wrong."""

import csv

import numpy as np
import pytest
from PIL import Image

from helpers import random_photo
from odam_d2.cli.explain_nms import main


@pytest.fixture
def run(call):
    def call_main(kind, weights, output, *opts, images):
        words = ["--config-file", f"configs/quick/{kind}.yaml", "--input", images, "--output", output]
        return call(main, *words, "--opts", "MODEL.WEIGHTS", weights, *opts)

    return call_main


def test_removed_candidates_are_listed_and_pairs_drawn(quick_weights, tmp_path, run):
    Image.fromarray(random_photo(75, 133)).save(tmp_path / "photo.png")
    image = tmp_path / "photo.png"
    done = run("fcos_odam_nms", quick_weights("fcos"), tmp_path / "out", images=image)
    assert done.code == 0, done.err
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
    assert done.code == 0, done.err
    with (tmp_path / "out" / "removals.csv").open() as file:
        assert all(row["correlation"] == "" and float(row["iou"]) > 0.6 - 1e-3 for row in csv.DictReader(file))


def test_soft_nms_and_a_missing_image_give_one_sentence(quick_weights, tmp_path, run):
    Image.fromarray(random_photo(75, 133)).save(tmp_path / "photo.png")
    opts = ("ODAM.NMS.NAME", "soft")
    done = run("fcos_odam_nms", quick_weights("fcos"), tmp_path / "out", *opts, images=tmp_path / "photo.png")
    assert done.code == 1 and "Soft-NMS lowers scores" in done.err and "Traceback" not in done.err
    done = run("fcos_odam_nms", quick_weights("fcos"), tmp_path / "out", images=tmp_path / "none.png")
    assert done.code == 1 and "none.png" in done.err and "Traceback" not in done.err
