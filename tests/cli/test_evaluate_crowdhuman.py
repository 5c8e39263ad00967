"""``odam evaluate-crowdhuman``: what it prints, and what it says when something is wrong."""

import json

import pytest

from odam_d2.cli.evaluate_crowdhuman import main


def write_detections(path, name="1,a", boxes=((0, 0, 10, 10), (70, 70, 5, 5), (21, 21, 5, 5))):
    found = [{"box": list(box), "score": 0.95 - i / 10, "tag": 1} for i, box in enumerate(boxes)]
    path.write_text(json.dumps({"ID": name, "height": 100, "width": 100, "dtboxes": found}) + "\n")
    return path


def test_the_table_shows_the_measures(annotations, tmp_path, call):
    # Hit, false, one dropped, of 2 people: recall 1/2, 1/2 -> AP 0. MR: 1/2 false positives an image at the end, .5.
    # JI: at .9 the false one (.85) is out, 1/2.
    done = call(main, write_detections(tmp_path / "det.json"), annotations)
    assert done.code == 0, done.err
    for name in ("AP", "MR-2", "JI (scores > 0.9)", "Recall"):
        assert name in done.out
    row = next(line for line in done.out.splitlines() if "0.00" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == ["0.00", "50.00", "50.00", "50.00"]
    assert "2 images, 2 people, 3 detections, 1 of them in regions to be ignored" in done.out


@pytest.mark.parametrize(
    ("name", "words"),
    [("3,c", "image 3,c, which is not in the ground truth"), (None, "det.json, line 1: the ID is None")],
)
def test_a_file_that_does_not_fit_gives_one_sentence(name, words, annotations, tmp_path, call):
    done = call(main, write_detections(tmp_path / "det.json", name), annotations)
    assert done.code == 1 and words in done.err
    assert done.err.startswith("error: ") and done.err.count("\n") == 1 and not done.out


def test_a_missing_file_gives_one_sentence(annotations, tmp_path, call):
    done = call(main, tmp_path / "nowhere.json", annotations)
    assert done.code == 1 and "there is no file" in done.err and done.err.count("\n") == 1
