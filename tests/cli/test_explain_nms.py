"""``odam explain-nms``: what it lists and draws, and what it says when something is wrong."""

import csv

import numpy as np
import pytest
from PIL import Image

from helpers import random_photo
from odam_d2.cli.explain_nms import main
from odam_d2.predictor import ODAMPredictor


@pytest.fixture
def run(call):
    def call_main(kind, weights, output, *opts, images):
        inputs = images if isinstance(images, list) else [images]
        words = ["--config-file", f"configs/quick/{kind}.yaml", "--output", output, "--input", *inputs]
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
        assert (row["image"], row["file"]) == ("photo", str(image)) and float(row["by_score"]) >= float(row["score"])
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


def read(folder):
    with (folder / "removals.csv").open() as file:
        return list(csv.DictReader(file))


def test_equal_names_in_two_folders_keep_their_own_lines_and_pictures(quick_weights, tmp_path, run):
    files = [tmp_path / name for name in ("a/photo.png", "b/photo.png", "a/photo.jpg", "a/photo_2.png")]
    for seed, file in enumerate(files):
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(random_photo(75, 133, seed)).save(file)
    done = run("fcos_odam_nms", quick_weights("fcos"), tmp_path / "all", images=files)
    assert done.code == 0, done.err
    assert "4 of 4 images" in done.out
    names = ["photo", "photo_2", "photo_3", "photo_2_2"]
    assert sorted(p.name for p in (tmp_path / "all").iterdir()) == sorted(
        [f"{name}_pairs.png" for name in names] + ["removals.csv"]
    )
    for file, name in zip(files, names):
        run("fcos_odam_nms", quick_weights("fcos"), tmp_path / "one", images=file)
        alone = read(tmp_path / "one")
        own = [row for row in read(tmp_path / "all") if row["file"] == str(file)]
        assert own == [row | {"image": name} for row in alone] and len(own) > 0
        picture, expected = (tmp_path / x / f"{y}_pairs.png" for x, y in (("all", name), ("one", file.stem)))
        assert picture.read_bytes() == expected.read_bytes()


def test_a_broken_image_is_left_out_with_its_reason_and_the_others_are_listed(quick_weights, tmp_path, run):
    files = [tmp_path / f"{name}.png" for name in ("first", "broken", "narrow", "last")]
    for file, size in zip(files, ((75, 133), None, (8, 20000), (90, 80))):
        if size is not None:
            Image.fromarray(random_photo(*size)).save(file)
    files[1].write_bytes(b"no image")
    done = run("fcos_odam_nms", quick_weights("fcos"), tmp_path / "out", images=files)
    assert done.code == 0 and "2 of 4 images" in done.out
    assert [f"left out: {files[1]} is not an image" in done.err, f"left out: {files[2]} is 20000x8" in done.err] == [
        True,
        True,
    ]
    assert list(dict.fromkeys(row["image"] for row in read(tmp_path / "out"))) == ["first", "last"]
    done = run("fcos_odam_nms", quick_weights("fcos"), tmp_path / "none", images=files[1:3])
    assert done.code == 1 and "0 of 2 images" in done.out and read(tmp_path / "none") == []


def test_whatever_goes_wrong_with_an_image_is_said_with_its_name(quick_weights, tmp_path, run, monkeypatch):
    for name in ("a", "b"):
        Image.fromarray(random_photo(75, 133)).save(tmp_path / f"{name}.png")
    explain = ODAMPredictor.explain_nms
    failures = iter([ValueError("the scores are not finite"), None])

    def explain_or_fail(self, image):
        if error := next(failures):
            raise error
        return explain(self, image)

    monkeypatch.setattr(ODAMPredictor, "explain_nms", explain_or_fail)
    done = run("fcos_odam_nms", quick_weights("fcos"), tmp_path / "out", images=tmp_path / "*.png")
    assert done.code == 0 and done.err == f"left out: {tmp_path / 'a.png'}: the scores are not finite\n"
    assert {row["image"] for row in read(tmp_path / "out")} == {"b"}


def test_ctrl_c_keeps_the_lines_of_finished_images(quick_weights, tmp_path, run, monkeypatch):
    for name in ("a", "b"):
        Image.fromarray(random_photo(75, 133)).save(tmp_path / f"{name}.png")
    explain = ODAMPredictor.explain_nms
    calls = []

    def explain_once(self, image):
        calls.append(image)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return explain(self, image)

    monkeypatch.setattr(ODAMPredictor, "explain_nms", explain_once)
    done = run("fcos_odam_nms", quick_weights("fcos"), tmp_path / "out", images=tmp_path / "*.png")
    assert done.code == 130 and done.err == "interrupted: the lines and pictures of finished images are kept\n"
    assert {row["image"] for row in read(tmp_path / "out")} == {"a"}


def test_soft_nms_and_a_missing_image_give_one_sentence(quick_weights, tmp_path, run):
    Image.fromarray(random_photo(75, 133)).save(tmp_path / "photo.png")
    opts = ("ODAM.NMS.NAME", "soft")
    done = run("fcos_odam_nms", quick_weights("fcos"), tmp_path / "out", *opts, images=tmp_path / "photo.png")
    assert done.code == 1 and "Soft-NMS lowers scores" in done.err and "ODAM.NMS.NAME" in done.err
    assert len(done.err.strip().splitlines()) == 1 and not (tmp_path / "out").exists()
    opts = ("ODAM.NMS.NAME", "feature")
    done = run("fcos_odam_nms", quick_weights("fcos"), tmp_path / "out", *opts, images=tmp_path / "photo.png")
    assert done.code == 1 and "set ODAM.EMBEDDING.DIM" in done.err and len(done.err.strip().splitlines()) == 1
    done = run("fcos_odam_nms", quick_weights("fcos"), tmp_path / "out", images=tmp_path / "none.png")
    assert done.code == 1 and "none.png" in done.err and "Traceback" not in done.err
