"""Folders that ``odam explain`` wrote, read again: names, photographs in common, and all that is refused."""

import json
import os
import shutil
from pathlib import Path

import pytest

from explained_folders import write_explained
from odam_d2.show.folders import name_folders, read_folder, read_folders, share_photographs, sheet_size


def shared(*folders):
    files, others = share_photographs(read_folders(folders))
    return files, {one.file: one.states for one in others}


def test_a_folder_gives_its_run_and_its_lines(tmp_path):
    folder = read_folder(
        write_explained(tmp_path / "a", {"/p/1.png": 2}, {"/p/2.png": "it is empty"}, settings={"k": 1})
    )
    assert folder.run["method"] == "odam" and folder.settings == {"k": 1}
    assert list(folder.entries) == ["/p/1.png"] and folder.entries["/p/1.png"]["classes"] == ["cat", "dog"]
    assert folder.left_out["/p/2.png"]["left_out"] == "it is empty"
    # Photograph and two maps, each widened to 220 pixels, and 10 between and around them.
    assert sheet_size(folder, folder.entries["/p/1.png"])[0] == 3 * 230 + 10


@pytest.mark.parametrize(
    ("architecture", "settings", "name"),
    [
        ("ODAMFCOS", {}, "FCOS"),
        ("ODAMRetinaNet", {}, "RetinaNet"),
        ("ODAMRCNN", {"MODEL.ROI_HEADS.NAME": "ODAMROIHeads", "MODEL.MASK_ON": False}, "Faster R-CNN"),
        ("ODAMRCNN", {"MODEL.ROI_HEADS.NAME": "ODAMROIHeads", "MODEL.MASK_ON": True}, "Mask R-CNN"),
        ("ODAMRCNN", {"MODEL.ROI_HEADS.NAME": "ODAMCascadeROIHeads"}, "Cascade R-CNN"),
        ("ODAMRCNN", {"MODEL.ROI_HEADS.NAME": "ODAMCascadeROIHeads", "MODEL.MASK_ON": True}, "Cascade Mask R-CNN"),
        ("MyDetector", {"MODEL.MASK_ON": True}, "MyDetector"),
    ],
)
def test_a_detector_is_called_as_people_call_it(architecture, settings, name, tmp_path):
    folder = write_explained(tmp_path / "a", {"1.png": 0}, settings=settings, meta_architecture=architecture)
    assert read_folder(folder).detector() == name


def test_runs_of_one_detector_are_told_by_their_folders(tmp_path):
    places = [tmp_path / place for place in ("x/a", "b", "c", "y/a")]
    for place, architecture in zip(places, ("ODAMFCOS", "ODAMRetinaNet", "ODAMFCOS", "ODAMFCOS")):
        write_explained(place, {"1.png": 0}, meta_architecture=architecture)
    folders = read_folders(places)
    assert name_folders(folders[:3]) == ["FCOS (a)", "RetinaNet", "FCOS (c)"]
    # Also the folders' names are alike.
    first, last = (f"FCOS (a) ({tmp_path / place})" for place in ("x/a", "y/a"))
    assert name_folders(folders) == [first, "RetinaNet", "FCOS (c)", last]
    assert name_folders(folders[:2], ["one", "the other"]) == ["one", "the other"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a"], r"2 folders need a name each, not 1 names \(a\)"),
        (["a", "a"], "the name 'a' does not tell one"),
        (["a", " "], "the name ' ' does not tell one"),
    ],
)
def test_names_that_do_not_fit_are_refused(names, words, tmp_path):
    folders = read_folders([write_explained(tmp_path / name, {"1.png": 0}) for name in "ab"])
    with pytest.raises(ValueError, match=words):
        name_folders(folders, names)


# ---- the same photograph -----------------------------------------------------------------------------------------


def test_a_photograph_is_its_file_and_not_the_name_of_its_sheet(tmp_path):
    # In a, /p/1.png has the sheet 1.jpg and /q/1.png 1_2.jpg; in b it is the other way round.
    first = write_explained(tmp_path / "a", {"/p/1.png": 1, "/q/1.png": 2, "/p/2.png": 1})
    second = write_explained(tmp_path / "b", {"/r/2.png": 1, "/q/1.png": 1, "/p/1.png": 2})
    files, others = shared(first, second)
    assert files == ["/p/1.png", "/q/1.png"]
    gone = "not among its images"
    assert others == {"/p/2.png": ["explained", gone], "/r/2.png": [gone, "explained"]}
    found = {file: entry["name"] for file, entry in read_folder(second).entries.items()}
    assert found["/p/1.png"] == "1_2" and found["/q/1.png"] == "1"


def test_a_file_that_is_named_in_several_ways_is_one(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.png").touch()
    (tmp_path / "link.png").symlink_to(tmp_path / "photos" / "1.png")
    monkeypatch.chdir(tmp_path)
    names = ["photos/1.png", "photos/../photos/1.png", str(tmp_path / "photos" / "1.png"), "link.png"]
    folders = [write_explained(tmp_path / str(i), {name: 1}) for i, name in enumerate(names)]
    assert shared(*folders) == ([os.path.realpath("photos/1.png")], {})
    # Others are called as their runs call them.
    folders = [
        write_explained(tmp_path / f"{i} and 2", {name: 1, f"photos/{i}.jpg": 1}) for i, name in enumerate(names)
    ]
    assert list(shared(*folders)[1]) == [f"photos/{i}.jpg" for i in range(4)]


def test_what_became_of_the_others_is_told(tmp_path):
    first = write_explained(tmp_path / "a", {"/1.png": 1, "/2.png": 1, "/3.png": 1})
    second = write_explained(tmp_path / "b", {"/1.png": 1}, {"/2.png": "/2.png is empty", "/4.png": "too small"})
    files, others = shared(first, second)
    assert files == ["/1.png"]
    assert others == {
        "/2.png": ["explained", "left out, /2.png is empty"],
        "/3.png": ["explained", "not among its images"],
        "/4.png": ["not among its images", "left out, too small"],
    }


def test_nothing_in_common_is_refused_with_an_example_of_each(tmp_path):
    folders = [
        write_explained(tmp_path / "a", {"/1.png": 1, "/2.png": 1}),
        write_explained(tmp_path / "b", {"/3.png": 1}),
        write_explained(tmp_path / "c", {}, {"/1.png": "it is empty"}),
    ]
    words = "in all 3 folders, .*/a has /1.png and 1 more, .*/b has /3.png, .*/c has none; give all one --input"
    with pytest.raises(ValueError, match=words):
        share_photographs(read_folders(folders))


def test_a_photograph_of_another_size_is_said_to_be_another(tmp_path):
    first = write_explained(tmp_path / "a", {"/1.png": 1, "/2.png": 1})
    second = write_explained(tmp_path / "b", {"/1.png": 1, "/2.png": 1})
    text = (second / "results.jsonl").read_text()
    assert text.count('"size": [40, 30]') == 2
    (second / "results.jsonl").write_text(text.replace('"size": [40, 30]', '"size": [50, 30]', 1))
    assert shared(first, second) == (["/2.png"], {"/1.png": ["explained at 40 x 30", "explained at 50 x 30"]})


# ---- what is refused ---------------------------------------------------------------------------------------------


def without_page(folder):
    (folder / "index.html").unlink()


def without_record(folder):
    (folder / "run.json").unlink()


def broken_record(folder):
    (folder / "run.json").write_text("[]")


def other_record(folder):
    (folder / "run.json").write_text(json.dumps({"run": {"method": "odam", "targets": []}, "settings": {}}))


def without_a_sheet(folder):
    (folder / "sheets" / "1.jpg").unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (shutil.rmtree, "is no folder that odam explain wrote, it does not exist; name an --output"),
        (without_record, "is no folder that odam explain wrote, it holds no run.json; name an --output"),
        (broken_record, "run.json cannot be read, so nobody knows how"),
        (other_record, "does not tell meta_architecture, confidence_threshold, max_instances; explain into another"),
        (without_page, "has no page, its run was stopped; give the same odam explain with --resume"),
        (without_a_sheet, "has no sheets of 1 of its 2 photographs; run odam explain with --sheets"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_in_one_sentence(damage, words, tmp_path):
    folder = write_explained(tmp_path / "a", {"1.png": 1, "2.png": 0})
    read_folder(folder)
    damage(folder)
    with pytest.raises(ValueError, match=words) as raised:
        read_folder(folder)
    assert str(folder) in str(raised.value) and "\n" not in str(raised.value)


def test_a_run_without_sheets_is_told_how_to_get_them(tmp_path):
    folder = write_explained(tmp_path / "a", {"1.png": 1, "2.png": 0}, sheets=False)
    with pytest.raises(
        ValueError, match="no sheets of 2 of its 2 photographs; run odam explain with --sheets into another"
    ):
        read_folder(folder)


def test_a_sheet_that_is_no_picture_is_named(tmp_path):
    folder = read_folder(write_explained(tmp_path / "a", {"1.png": 1}))
    (entry,) = folder.entries.values()
    (tmp_path / "a" / "sheets" / "1.jpg").write_text("no picture")
    with pytest.raises(ValueError, match="the sheet .*sheets/1.jpg cannot be read; explain into another"):
        sheet_size(folder, entry)


def test_two_different_folders_are_needed(tmp_path, monkeypatch):
    folder = write_explained(tmp_path / "a", {"1.png": 1})
    with pytest.raises(ValueError, match="at least two folders .* are needed to compare them; none was named"):
        read_folders([])
    with pytest.raises(ValueError, match="at least two folders .*; only .*/a was named"):
        read_folders([folder])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="the folder a is named twice"):
        read_folders([folder, Path("a")])
