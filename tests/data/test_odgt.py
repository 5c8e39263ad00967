"""odgt files and detection files: what is read from a line, and what is said about a bad one."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from odam_d2.data.odgt import OdgtDetections, OdgtImage, read_detections, read_odgt

SAMPLE = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "crowdhuman_sample" / "annotation_train.odgt"


def person(box, **more):
    return {"tag": "person", "fbox": box, **more}


def write(path, *records):
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    return path


def test_boxes_become_corners_and_regions_to_be_ignored_are_marked(tmp_path):
    # x, y, w, h = 1, 2, 30, 40 -> 1, 2, 1 + 30, 2 + 40. Ignored: a tag that is no person, or extra.ignore not 0.
    boxes = [
        person([1, 2, 30, 40], vbox=[1, 2, 3, 4]),
        person([-5, 0, 10, 10], extra={"ignore": 0, "occ": 1}),
        person([0, 0, 10, 10], extra={"ignore": 1}),
        {"tag": "mask", "fbox": [0, 0, 7.5, 8], "extra": {}},
        person([0, 0, 10, 10], head_attr={"ignore": 1}),
    ]
    (image,) = read_odgt(write(tmp_path / "a.odgt", {"ID": "273,a", "gtboxes": boxes}))
    assert image.id == "273,a" and image.height is None and image.width is None
    assert image.boxes.dtype == np.float64
    assert image.boxes[:2].tolist() == [[1, 2, 31, 42], [-5, 0, 5, 10]]
    assert image.boxes[3].tolist() == [0, 0, 7.5, 8]
    assert image.ignored.tolist() == [False, False, True, True, False]
    assert image.visible_boxes[0].tolist() == [1, 2, 4, 6] and np.isnan(image.visible_boxes[1:]).all()


def test_sizes_are_read_where_a_line_has_them_and_images_keep_their_order(tmp_path):
    path = write(
        tmp_path / "a.odgt",
        {"ID": "b", "gtboxes": [], "height": 30, "width": 40},
        "",
        {"ID": "a", "gtboxes": [person([0, 0, 1, 1])]},
    )
    first, second = read_odgt(path)
    assert (first.id, first.height, first.width, first.boxes.shape) == ("b", 30, 40, (0, 4))
    assert first.ignored.shape == (0,) and first.ignored.dtype == bool
    assert (second.id, second.height) == ("a", None)


def test_detections_are_read_and_written_alike(tmp_path):
    boxes = [{"box": [1.5, 2, 30, 40], "score": 0.25, "tag": 1}, {"box": [0, 0, 1, 1], "score": 1}]
    empty = {"ID": "b", "height": 1, "width": 1, "dtboxes": []}
    path = write(tmp_path / "a.jsonl", {"ID": "a", "height": 100, "width": 200, "dtboxes": boxes}, empty)
    found, nothing = read_detections(path)
    assert found.boxes.tolist() == [[1.5, 2, 31.5, 42], [0, 0, 1, 1]] and found.scores.tolist() == [0.25, 1]
    assert (found.height, found.width) == (100, 200)
    assert nothing.boxes.shape == (0, 4) and nothing.scores.shape == (0,)
    (again,) = read_detections(write(tmp_path / "b.jsonl", found.to_json()))
    assert np.array_equal(again.boxes, found.boxes) and np.array_equal(again.scores, found.scores)
    assert json.loads(found.to_json())["dtboxes"][0] == boxes[0]


GOOD = {"ID": "good", "gtboxes": [person([0, 0, 5, 5])]}


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ('{"ID": "a", ', "no valid JSON"),
        ("\x00\x01", "no valid JSON"),
        ([GOOD], "the line is no JSON object"),
        ({"gtboxes": []}, "lacks the key 'ID'"),
        ({"ID": "a"}, "lacks the key 'gtboxes'"),
        ({"ID": None, "gtboxes": []}, "the ID is None"),
        ({"ID": "a", "gtboxes": {}}, "gtboxes is no list"),
        ({"ID": "a", "gtboxes": [7]}, r"gtboxes\[0\] is no JSON object"),
        ({"ID": "a", "gtboxes": [person([0, 0, 5, 5]), {"tag": "person"}]}, r"gtboxes\[1\] lacks the key 'fbox'"),
        ({"ID": "a", "gtboxes": [{"fbox": [0, 0, 5, 5]}]}, r"gtboxes\[0\] lacks the key 'tag'"),
        ({"ID": "a", "gtboxes": [person([0, 0, 5])]}, r"gtboxes\[0\] has the fbox \[0, 0, 5\]"),
        ({"ID": "a", "gtboxes": [person([0, 0, 5, "5"])]}, r"gtboxes\[0\] has the fbox"),
        ({"ID": "a", "gtboxes": [person([0, 0, 5, 5], vbox=None)]}, r"gtboxes\[0\] has the vbox None"),
        ({"ID": "a", "gtboxes": [person([0, 0, 5, 5], extra=3)]}, "'extra'"),
        ({"ID": "a", "gtboxes": [person([0, 0, float("nan"), 5])]}, r"gtboxes\[0\] .* not finite"),
        ({"ID": "a", "gtboxes": [person([0, 0, 5, 5]), person([3, 3, 0, 5])]}, r"gtboxes\[1\] has no positive width"),
        ({"ID": "a", "gtboxes": [person([3, 3, 5, -1])]}, r"gtboxes\[0\] has no positive width and height"),
        ({"ID": "a", "gtboxes": [], "height": 0, "width": 5}, "the height is 0"),
        (GOOD, "the ID good comes a second time"),
    ],
)
def test_a_bad_line_of_ground_truth_is_named(record, words, tmp_path):
    path = write(tmp_path / "bad.odgt", GOOD, record)
    with pytest.raises(ValueError, match=rf"bad\.odgt, line 2: .*{words}"):
        read_odgt(path)


def detection(box=(0, 0, 5, 5), score=0.5, **more):
    return {"ID": "a", "height": 10, "width": 10, "dtboxes": [{"box": list(box), "score": score}], **more}


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (detection(box=(0, 0, 0, 5)), r"dtboxes\[0\] has no positive width and height"),
        (detection(score=float("nan")), r"dtboxes\[0\] has a score that is no finite number"),
        (detection(score=None), r"dtboxes\[0\] has a score|score that is no number"),
        (detection(score={}), "score that is no number"),
        (detection(box=(0, 0, float("inf"), 5)), r"dtboxes\[0\] .* not finite"),
        (detection(height=None), "the height is None"),
        (detection(width=3.5), "the width is 3.5"),
        (detection(dtboxes=[{"score": 1}]), r"dtboxes\[0\] lacks the key 'box'"),
        (detection(dtboxes=[{"box": [0, 0, 1, 1]}]), r"dtboxes\[0\] lacks the key 'score'"),
        ({"ID": "a", "dtboxes": []}, "lacks the key 'height'"),
    ],
)
def test_a_bad_line_of_detections_is_named(record, words, tmp_path):
    path = write(tmp_path / "bad.jsonl", record)
    with pytest.raises(ValueError, match=rf"bad\.jsonl, line 1: .*({words})"):
        read_detections(path)


def test_a_region_to_be_ignored_may_be_empty(tmp_path):
    path = write(tmp_path / "a.odgt", {"ID": "a", "gtboxes": [{"tag": "mask", "fbox": [3, 3, 0, 0]}]})
    assert read_odgt(path)[0].boxes.tolist() == [[3, 3, 3, 3]]


def test_a_missing_file_is_named(tmp_path):
    for read in (read_odgt, read_detections):
        with pytest.raises(FileNotFoundError, match="nowhere.odgt"):
            read(tmp_path / "nowhere.odgt")


def test_arrays_that_do_not_fit_are_refused():
    boxes = np.array([[0.0, 0, 5, 5]])
    with pytest.raises(ValueError, match=r"flags of shape \(2,\) for 1 boxes"):
        OdgtImage("a", boxes, np.zeros(2, dtype=bool))
    with pytest.raises(ValueError, match=r"\(N,4\), not \(4,\)"):
        OdgtImage("a", boxes[0], np.zeros(1, dtype=bool))
    with pytest.raises(ValueError, match=r"scores of shape \(0,\) for 1 boxes"):
        OdgtDetections("a", boxes, np.zeros(0), 10, 10)


@pytest.mark.skipif(not SAMPLE.is_file(), reason=f"there is no line of CrowdHuman's own annotations, {SAMPLE}")
def test_a_line_of_crowdhuman_itself():
    (image,) = read_odgt(SAMPLE)
    assert image.id == "283554,35288000868e92d4" and image.height is None
    # fbox [1330, 317, 418, 1338] and vbox [1355, 323, 381, 1033] of the first person; the mask comes last.
    assert image.boxes[0].tolist() == [1330, 317, 1748, 1655]
    assert image.visible_boxes[0].tolist() == [1355, 323, 1736, 1356]
    assert image.ignored.tolist() == [False] * 6 + [True]
