"""``scripts/evaluate_crowdhuman.py`` and ``scripts/convert_odgt.py``: what they write, and what they say when wrong."""

import json
import os
import runpy
import subprocess
import sys

import numpy as np
import pytest
from detectron2.data.datasets import load_coco_json
from detectron2.structures import BoxMode
from PIL import Image


def run(*words):
    environment = {**os.environ, "COLUMNS": "200", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "scripts/evaluate_crowdhuman.py", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


def write(path, *records):
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


@pytest.fixture
def convert(monkeypatch):
    """The converter in this process: importing Detectron2 again for each command would take most of the time."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["convert_odgt.py", *map(str, words)])
        return runpy.run_path("scripts/convert_odgt.py")["main"]()

    return call


@pytest.fixture
def annotations(tmp_path):
    boxes = [
        {"tag": "person", "fbox": [0, 0, 10, 10], "vbox": [1, 2, 3, 4]},
        {"tag": "person", "fbox": [50, 50, 9, 9]},
        {"tag": "mask", "fbox": [20, 20, 20, 20], "extra": {"ignore": 1}},
    ]
    return write(tmp_path / "val.odgt", {"ID": "1,a", "gtboxes": boxes}, {"ID": "2,b", "gtboxes": []})


def detections(path, name="1,a", boxes=((0, 0, 10, 10), (70, 70, 5, 5), (21, 21, 5, 5))):
    found = [{"box": list(box), "score": 0.95 - i / 10, "tag": 1} for i, box in enumerate(boxes)]
    return write(path, {"ID": name, "height": 100, "width": 100, "dtboxes": found})


def test_the_table_shows_the_measures(annotations, tmp_path):
    # Hit, false, one dropped, of 2 people: recall 1/2, 1/2 -> AP 0. MR: 1/2 false positives an image at the end, .5.
    # JI: at .9 the false one (.85) is out, 1/2.
    done = run(detections(tmp_path / "det.json"), annotations)
    assert done.returncode == 0, done.stderr
    for name in ("AP", "MR-2", "JI (scores > 0.9)", "Recall"):
        assert name in done.stdout
    row = next(line for line in done.stdout.splitlines() if "0.00" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == ["0.00", "50.00", "50.00", "50.00"]
    assert "2 images, 2 people, 3 detections, 1 of them in regions to be ignored" in done.stdout


@pytest.mark.parametrize(
    ("name", "words"),
    [("3,c", "image 3,c, which is not in the ground truth"), (None, "det.json, line 1: the ID is None")],
)
def test_a_file_that_does_not_fit_gives_one_sentence(name, words, annotations, tmp_path):
    done = run(detections(tmp_path / "det.json", name), annotations)
    assert done.returncode == 1 and words in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and not done.stdout


def test_a_missing_file_gives_one_sentence(annotations, tmp_path):
    done = run(tmp_path / "nowhere.json", annotations)
    assert done.returncode == 1 and "there is no file" in done.stderr and done.stderr.count("\n") == 1


def test_conversion_to_coco_is_what_detectron2_reads(annotations, convert, capsys, tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("1,a", "2,b"):
        Image.fromarray(np.zeros((100, 120, 3), np.uint8)).save(tmp_path / "images" / f"{name}.jpg")
    output = tmp_path / "made" / "val.json"
    assert convert(annotations, "--images", tmp_path / "images", "--output", output) == 0
    assert "2 images, 2 people, 1 regions to be ignored" in capsys.readouterr().out
    content = json.loads(output.read_text())
    first, second, region = content["annotations"]
    assert first["bbox"] == [0, 0, 10, 10] and first["visible_bbox"] == [1, 2, 3, 4] and first["area"] == 100
    assert "visible_bbox" not in second and second["bbox"] == [50, 50, 9, 9]
    assert [a["iscrowd"] for a in content["annotations"]] == [0, 0, 1] and region["bbox"] == [20, 20, 20, 20]
    assert [i["odgt_id"] for i in content["images"]] == ["1,a", "2,b"]
    dicts = load_coco_json(str(output), str(tmp_path / "images"))
    assert dicts[0]["file_name"] == str(tmp_path / "images" / "1,a.jpg")
    assert (dicts[0]["height"], dicts[0]["width"], len(dicts[0]["annotations"])) == (100, 120, 3)
    assert dicts[0]["annotations"][0]["bbox_mode"] == BoxMode.XYWH_ABS and dicts[1]["annotations"] == []


def test_conversion_without_images_says_where_to_get_them(annotations, convert, capsys, tmp_path):
    assert convert(annotations, "--images", tmp_path, "--output", tmp_path / "val.json") == 1
    message = capsys.readouterr().err
    assert message.startswith("error: ") and "www.crowdhuman.org" in message and message.count("\n") == 1
    assert not (tmp_path / "val.json").exists()
