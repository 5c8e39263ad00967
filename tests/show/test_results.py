"""A folder of results from plain arrays: what is written, and that it is whole at every moment."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from odam_d2.show.results import ExplainedImage, ResultsFolder

DRISE_MEANINGS = {"class_score": "why this box with this class"}

RUN = {"config": "a.yaml", "targets": ["x1", "x2"]}


def example(file="photos/a.jpg", count=2, **changes):
    """1280 x 960, with maps of 3 x 4 cells; pictures are 0 for x1 and 1 for x2."""
    values = {
        "file": Path(file),
        "image": np.full((960, 1280, 3), 90, np.uint8),
        "boxes": np.array([[0, 0, 640.126, 480], [320, 240, 960, 720]], np.float32)[:count],
        "classes": np.array([16, 0])[:count],
        "class_names": ["dog", "person"][:count],
        "scores": np.array([0.87654321, 0.5], np.float32)[:count],
        "levels": ["p4", "p5"][:count],
        "maps": {"x1": np.full((count, 3, 4), 2, np.float32), "x2": np.full((count, 3, 4), 7, np.float32)},
        "stride": 8,
        "network_size": (24, 32),
        "pictures": {"x1": lambda size: np.zeros((count, *size)), "x2": lambda size: np.ones((count, *size))},
        "seconds_detection": 0.123456,
        "seconds_maps": 0.5,
    }
    return ExplainedImage(**{**values, **changes})


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


def test_an_image_has_its_line_its_raw_maps_and_its_sheet(tmp_path):
    results = ResultsFolder(tmp_path / "out", RUN, "Why")
    results.add(example())
    (entry,) = manifest(tmp_path / "out")["images"]
    assert entry == {
        "name": "a",
        "file": "photos/a.jpg",
        "size": [1280, 960],
        "classes": ["dog", "person"],
        "scores": [0.876543, 0.5],
        "boxes": [[0, 0, 640.13, 480], [320, 240, 960, 720]],
        "levels": ["p4", "p5"],
        "sheet": "sheets/a.png",
        "maps": "maps/a.npz",
        "seconds_detection": 0.1235,
        "seconds_maps": 0.5,
        "number_of_maps": 4,
    }
    with np.load(tmp_path / "out" / entry["maps"]) as raw:
        assert raw["stride"] == 8 and raw["network_size"].tolist() == [24, 32]
        assert raw["image_size"].tolist() == [960, 1280] and raw["classes"].tolist() == [16, 0]
        assert raw["x1"].shape == (2, 3, 4) and (raw["x2"] == 7).all() and raw["x2"].dtype == np.float32
        np.testing.assert_array_equal(raw["boxes"], example().boxes)
        np.testing.assert_array_equal(raw["scores"], example().scores)
    # A column for the photograph and one for each target, cells of 320 x 240 with 10 pixels between them.
    sheet = np.asarray(Image.open(tmp_path / "out" / entry["sheet"]))
    assert sheet.shape[1] == 10 + 3 * 330
    # A place of the last row outside its box: without heat it is dark grey, 0.6 * 90, with all of it bright.
    row = sheet[-10 - 10, [10 + 5, 340 + 5, 670 + 5]]
    assert row[0].tolist() == [90] * 3 and row[1].tolist() == [54] * 3 and row[2, 0] > 200


def test_captions_stand_on_the_sheet_and_on_the_page(tmp_path):
    for name, captions in (("usual", {}), ("captioned", {"x1": ["dog 0.02", "dog 0.50"]})):
        results = ResultsFolder(tmp_path / name, RUN, "Why")
        results.add(example(captions=captions))
        results.finish()
    usual, captioned = (Image.open(tmp_path / name / "sheets" / "a.png") for name in ("usual", "captioned"))
    columns = np.nonzero((np.asarray(usual) != np.asarray(captioned)).any(axis=2))[1]
    # In the column of x1 alone, which is 320 wide.
    assert 340 <= columns.min() and columns.max() < 660
    page = (tmp_path / "captioned" / "index.html").read_text()
    assert "dog 0.02" in page and "dog 0.02" not in (tmp_path / "usual" / "index.html").read_text()


def test_a_target_that_the_files_of_raw_maps_cannot_hold_is_refused(tmp_path):
    maps, pictures = ({"boxes": value} for value in (np.zeros((2, 3, 4)), lambda size: np.zeros((2, *size))))
    results = ResultsFolder(tmp_path, RUN, "Why")
    with pytest.raises(ValueError, match="a target called 'boxes' cannot be saved.*rename it"):
        results.add(example(maps=maps, pictures=pictures))
    assert not os.listdir(tmp_path / "maps") and not results.images


def test_pictures_are_made_at_the_sizes_that_are_shown(tmp_path):
    asked = []

    def draw(size):
        asked.append(size)
        return np.zeros((2, *size))

    ResultsFolder(tmp_path, RUN, "Why").add(example(pictures={"x1": draw}, maps={"x1": np.zeros((2, 3, 4))}))
    # On the page they are 200 pixels wide, and a cell of the sheet is 320.
    assert asked == [(150, 200), (240, 320)]


def test_the_page_holds_everything_added_and_the_facts_of_the_run(tmp_path):
    results = ResultsFolder(tmp_path, RUN, "Why a.yaml", DRISE_MEANINGS)
    results.add(example("one/a.jpg"))
    results.add(example("two/b.jpg", count=0))
    assert not (tmp_path / "index.html").exists()
    results.finish()
    page = (tmp_path / "index.html").read_text()
    for text in ("Why a.yaml", "a.jpg", "b.jpg", "a.yaml", "1280 x 960", "4 in 0.500 s", DRISE_MEANINGS["class_score"]):
        assert text in page
    assert sorted(os.listdir(tmp_path)) == ["index.html", "manifest.json", "maps", "sheets"]


def test_two_files_of_one_name_keep_both(tmp_path):
    results = ResultsFolder(tmp_path, RUN, "Why")
    for file in ("one/a.jpg", "two/a.jpg", "two/a.png", "a_2.jpg"):
        results.add(example(file, count=0))
    names = [entry["name"] for entry in manifest(tmp_path)["images"]]
    assert names == ["a", "a_2", "a_3", "a_2_2"]
    assert sorted(os.listdir(tmp_path / "maps")) == sorted(f"{name}.npz" for name in names)


def test_what_is_left_out_is_in_the_manifest_at_once(tmp_path):
    results = ResultsFolder(tmp_path, RUN, "Why")
    results.leave_out(Path("photos/b.jpg"), "photos/b.jpg is empty")
    assert manifest(tmp_path) == {
        "run": RUN,
        "images": [],
        "failed": [{"file": "photos/b.jpg", "reason": "photos/b.jpg is empty"}],
    }


def test_the_manifest_has_an_image_a_line(tmp_path):
    results = ResultsFolder(tmp_path, RUN, "Why")
    results.add(example("a.jpg", count=0))
    results.add(example("b.jpg", count=0))
    lines = (tmp_path / "manifest.json").read_text().splitlines()
    assert [line[:12] for line in lines if line.startswith('{"name"')] == ['{"name": "a"', '{"name": "b"']


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": np.zeros(3, np.float32)}, r"a.jpg: scores must be \(2,\)"),
        ({"pictures": {"x1": lambda size: np.full((2, *size), 2.0)}}, r"a.jpg: maps of x1 must lie in \[0,1\]"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_anything_is_written(changes, message, tmp_path):
    results = ResultsFolder(tmp_path, RUN, "Why")
    with pytest.raises(ValueError, match=message):
        results.add(example(**changes))
    assert not os.listdir(tmp_path / "maps") and not os.listdir(tmp_path / "sheets") and not results.images


def test_a_folder_that_cannot_be_written_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="the output folder .*file/out cannot be written: "):
        ResultsFolder(tmp_path / "file" / "out", RUN, "Why")


def test_results_need_neither_torch_nor_detectron2():
    code = "import sys, odam_d2.show.results; print({'torch', 'detectron2', 'cv2'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
