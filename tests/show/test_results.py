"""A folder of results from plain arrays: what is written, and that it is whole at every moment."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from odam_d2.files import name_images
from odam_d2.show import parts
from odam_d2.show.records import begin_run
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


def started(folder, title="Why", *more, run=RUN, resume=False, **options):
    begin_run(folder, run, {"targets": ["x1"]}, resume)
    return ResultsFolder(folder, title, *more, **options)


def add(results, explained, name=None):
    results.add(results.prepare(explained, name or explained.file.stem))


def lines(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_an_image_has_its_line_its_raw_maps_and_its_sheet(tmp_path):
    results = started(tmp_path / "out", sheets=True)
    add(results, example())
    assert json.loads((tmp_path / "out" / "run.json").read_text())["run"] == RUN
    (entry,) = lines(tmp_path / "out")
    assert entry.pop("page_bytes") == (tmp_path / "out" / "pages" / "00-0000.html").stat().st_size
    assert entry == {
        "name": "a",
        "file": "photos/a.jpg",
        "size": [1280, 960],
        "classes": ["dog", "person"],
        "scores": [0.876543, 0.5],
        "boxes": [[0, 0, 640.13, 480], [320, 240, 960, 720]],
        "levels": ["p4", "p5"],
        "sheet": "sheets/a.jpg",
        "page": "pages/00-0000.html#image=0",
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
    assert np.abs(row[:2].astype(int) - [[90] * 3, [54] * 3]).max() <= 2 and row[2, 0] > 200


def test_captions_stand_on_the_sheet_and_on_the_page(tmp_path):
    for name, captions in (("usual", {}), ("captioned", {"x1": ["dog 0.02", "dog 0.50"]})):
        results = started(tmp_path / name, sheets=True)
        add(results, example(captions=captions))
        results.finish()
    usual, captioned = (Image.open(tmp_path / name / "sheets" / "a.jpg") for name in ("usual", "captioned"))
    # More than a JPEG's blocks carry over to their neighbours.
    columns = np.nonzero((np.abs(np.asarray(usual).astype(int) - np.asarray(captioned)) > 60).any(axis=2))[1]
    # In the column of x1 alone, which is 320 wide.
    assert 340 <= columns.min() and columns.max() < 660
    page = (tmp_path / "captioned" / "index.html").read_text()
    assert "dog 0.02" in page and "dog 0.02" not in (tmp_path / "usual" / "index.html").read_text()


def test_a_target_that_the_files_of_raw_maps_cannot_hold_is_refused(tmp_path):
    maps, pictures = ({"boxes": value} for value in (np.zeros((2, 3, 4)), lambda size: np.zeros((2, *size))))
    results = started(tmp_path)
    with pytest.raises(ValueError, match="a target called 'boxes' cannot be saved.*rename it"):
        add(results, example(maps=maps, pictures=pictures))
    assert not os.listdir(tmp_path / "maps") and not list(results.entries())


def test_pictures_are_made_at_the_sizes_that_are_shown(tmp_path):
    asked = []

    def draw(size):
        asked.append(size)
        return np.zeros((2, *size))

    for name, sheets in (("pages", False), ("sheets", True)):
        add(started(tmp_path / name, sheets=sheets), example(pictures={"x1": draw}, maps={"x1": np.zeros((2, 3, 4))}))
    # On the page they are 200 pixels wide, and a cell of the sheet, where one is asked for, is 320.
    assert asked == [(150, 200), (150, 200), (240, 320)]
    assert not (tmp_path / "pages" / "sheets").exists()


def test_the_page_holds_everything_added_and_the_facts_of_the_run(tmp_path):
    results = started(tmp_path, "Why a.yaml", DRISE_MEANINGS)
    add(results, example("one/a.jpg"))
    add(results, example("two/b.jpg", count=0))
    assert not (tmp_path / "index.html").exists()
    results.finish()
    page = (tmp_path / "index.html").read_text()
    for text in ("Why a.yaml", "a.jpg", "b.jpg", "a.yaml", "1280 x 960", "4 in 0.500 s", DRISE_MEANINGS["class_score"]):
        assert text in page
    assert sorted(os.listdir(tmp_path)) == ["index.html", "maps", "pages", "results.jsonl", "run.json"]


def test_two_files_of_one_name_keep_both():
    files = [Path(file) for file in ("one/a.jpg", "two/a.jpg", "two/a.png", "a_2.jpg")]
    assert list(name_images(files).values()) == ["a", "a_2", "a_3", "a_2_2"]
    # The one that is there keeps its name, also where another comes before it now.
    assert list(name_images(files, {"two/a.jpg": "a"}).values()) == ["a_2", "a", "a_3", "a_2_2"]


def test_what_is_left_out_has_its_line_at_once(tmp_path):
    started(tmp_path).leave_out(Path("photos/b.jpg"), "photos/b.jpg is empty")
    assert lines(tmp_path) == [{"file": "photos/b.jpg", "left_out": "photos/b.jpg is empty"}]


def names_on(path):
    return [json.loads(text)["name"] for text in re.findall(r'id="summary-\d+">(.*?)</script>', path.read_text())]


def test_a_run_that_was_killed_goes_on_behind_its_last_whole_line(tmp_path):
    results = started(tmp_path)
    add(results, example("a.jpg"))
    add(results, example("b.jpg"))
    # Killed while it wrote the line of b.jpg: that image is on the page, but does not count.
    whole = (tmp_path / "results.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "results.jsonl").write_text(whole[0] + whole[1][:30])
    results = started(tmp_path, resume=True)
    assert [entry["file"] for entry in results.entries()] == ["a.jpg"]
    for file in ("b.jpg", "c.jpg"):
        add(results, example(file))
    results.finish()
    assert [entry["page"][-8:] for entry in lines(tmp_path)] == ["#image=0", "#image=1", "#image=2"]
    assert names_on(tmp_path / "index.html") == ["a.jpg", "b.jpg", "c.jpg"]
    # What is finished goes on as well.
    results = started(tmp_path, resume=True)
    add(results, example("d.jpg"))
    results.finish()
    assert names_on(tmp_path / "index.html") == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert (tmp_path / "index.html").read_text().count("</html>") == 1


def test_many_images_are_parts_with_an_index(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "IMAGES_OF_A_PART", 2)
    results = started(tmp_path)
    for i in range(5):
        add(results, example(f"{i}.jpg", count=2 if i != 3 else 0))
    results.leave_out(Path("broken.jpg"), "broken.jpg is empty")
    results.finish()
    assert sorted(os.listdir(tmp_path / "pages")) == ["00-0000.html", "00-0001.html", "00-0002.html"]
    assert names_on(tmp_path / "pages" / "00-0001.html") == ["2.jpg", "3.jpg"]
    index = (tmp_path / "index.html").read_text()
    entries = [json.loads(text) for text in re.findall(r'id="summary-\d+">(.*?)</script>', index)]
    assert entries[2] == {
        "name": "2.jpg",
        "labels": ["dog", "person"],
        "scores": [0.8765, 0.5],
        "href": "pages/00-0001.html#image=0",
    }
    assert [entry["name"] for entry in entries] == [f"{i}.jpg" for i in range(5)] and entries[3]["labels"] == []
    # No photograph and no map.
    assert len(index) < 5000 + len((tmp_path / "pages" / "00-0002.html").read_text())
    report = re.search(r'id="report">(.*?)</script>', (tmp_path / "pages" / "00-0001.html").read_text())[1]
    beside = {"index": "../index.html", "previous": "00-0000.html", "next": "00-0002.html", "number": 2, "count": 3}
    assert json.loads(report)["beside"] == beside


def test_several_processes_fill_one_folder(tmp_path):
    begin_run(tmp_path, RUN, {})
    first, second = (ResultsFolder(tmp_path, "Why", process=process) for process in (0, 1))
    for results, file in ((second, "c.jpg"), (first, "a.jpg"), (second, "d.jpg"), (first, "b.jpg")):
        add(results, example(file))
    first.finish()
    assert [entry["file"] for entry in lines(tmp_path)] == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert not list(tmp_path.glob("results.*.jsonl"))
    assert names_on(tmp_path / "index.html") == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert names_on(tmp_path / "pages" / "01-0000.html") == ["c.jpg", "d.jpg"]


def test_a_page_that_nobody_finished_an_image_of_is_dropped(tmp_path):
    begin_run(tmp_path, RUN, {})
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "01-0000.html").write_text("half an image")
    results = ResultsFolder(tmp_path, "Why")
    add(results, example())
    results.finish()
    assert os.listdir(tmp_path / "pages") == ["00-0000.html"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": np.zeros(3, np.float32)}, r"a.jpg: scores must be \(2,\)"),
        ({"pictures": {"x1": lambda size: np.full((2, *size), 2.0)}}, r"a.jpg: maps of x1 must lie in \[0,1\]"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_anything_is_written(changes, message, tmp_path):
    results = started(tmp_path, sheets=True)
    with pytest.raises(ValueError, match=message):
        add(results, example(**changes))
    assert not os.listdir(tmp_path / "maps") and not os.listdir(tmp_path / "sheets") and not list(results.entries())


def test_a_folder_that_cannot_be_written_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="the output folder .*file/out cannot be written: "):
        begin_run(tmp_path / "file" / "out", RUN, {})


def test_results_need_neither_torch_nor_detectron2():
    code = "import sys, odam_d2.show.results; print({'torch', 'detectron2', 'cv2'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
