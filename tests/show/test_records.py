"""The lines of a run: whole at every moment, each image once, and never of two settings."""

import json

import pytest

from odam_d2.show.records import append_entry, begin_run, join_entries, read_entries


def files_of(folder):
    return [entry["file"] for entry in read_entries(folder)]


def test_a_folder_with_results_is_only_gone_on_with_when_that_was_said(tmp_path):
    begin_run(tmp_path, {"method": "odam"}, {"targets": ("x1",)})
    # Nothing is lost while there are no results.
    begin_run(tmp_path, {"method": "odam"}, {"targets": ("x2",)})
    append_entry(tmp_path, {"file": "a.jpg"})
    with pytest.raises(ValueError, match="holds the results of 1 images; add --resume .*or choose another --output"):
        begin_run(tmp_path, {}, {"targets": ("x2",)})
    begin_run(tmp_path, {"method": "odam"}, {"targets": ("x2",)}, resume=True)
    assert files_of(tmp_path) == ["a.jpg"]


@pytest.mark.parametrize(
    ("now", "words"),
    [
        ({"targets": ["x2"], "layer": "fpn"}, r"targets \['x1'\], not \['x2'\]"),
        ({"targets": ["x1"]}, "layer fpn, not nothing"),
        ({"targets": ["x1"], "layer": "fpn", "masks": 4}, "masks nothing, not 4"),
    ],
)
def test_other_settings_are_named(now, words, tmp_path):
    begin_run(tmp_path, {}, {"targets": ["x1"], "layer": "fpn"})
    append_entry(tmp_path, {"file": "a.jpg"})
    with pytest.raises(ValueError, match=f"was made with {words}; resume with the same settings"):
        begin_run(tmp_path, {}, now, resume=True)
    assert json.loads((tmp_path / "run.json").read_text())["settings"] == {"targets": ["x1"], "layer": "fpn"}


def test_a_line_without_an_end_is_none_and_does_not_spoil_the_next(tmp_path):
    begin_run(tmp_path, {}, {})
    append_entry(tmp_path, {"file": "a.jpg"})
    with open(tmp_path / "results.jsonl", "a") as file:
        file.write('{"file": "b.j')
    begin_run(tmp_path, {}, {}, resume=True)
    append_entry(tmp_path, {"file": "c.jpg"})
    assert files_of(tmp_path) == ["a.jpg", "c.jpg"]


def test_lines_of_many_processes_are_joined_by_number_and_each_image_once(tmp_path):
    for process, file in ((10, "d"), (2, "c"), (0, "a"), (2, "a"), (0, "b")):
        append_entry(tmp_path, {"file": file}, process)
    assert files_of(tmp_path) == ["a", "b", "c", "a", "d"]
    # Stopped between putting the lines together and dropping the others, and done again.
    for _ in range(2):
        join_entries(tmp_path)
        assert files_of(tmp_path) == ["a", "b", "c", "d"]
    assert [path.name for path in tmp_path.iterdir()] == ["results.jsonl"]


@pytest.mark.parametrize("line", ["{", "[1]", '{"name": "a"}'])
def test_a_line_that_is_no_result_is_named(line, tmp_path):
    append_entry(tmp_path, {"file": "a.jpg"})
    with open(tmp_path / "results.jsonl", "a") as file:
        file.write(f"{line}\n")
    with pytest.raises(ValueError, match=f"line 2 of {tmp_path / 'results.jsonl'} is no result of an image"):
        join_entries(tmp_path)
    assert (tmp_path / "results.jsonl").read_text().count("\n") == 2


def test_settings_that_cannot_be_read_are_named(tmp_path):
    append_entry(tmp_path, {"file": "a.jpg"})
    with pytest.raises(ValueError, match="run.json cannot be read, so nobody knows how"):
        begin_run(tmp_path, {}, {}, resume=True)
