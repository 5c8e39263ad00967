"""``docs/your_data.md``: its five commands, one after the other as a reader types them, on a few small images."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from detectron2.data import DatasetCatalog
from PIL import Image, ImageDraw

from odam_d2.config import load_config
from odam_d2.data.voc import load_voc
from own_data import write_voc

PAGE = Path("docs/your_data.md")
SIZE = (96, 128)
CELLS = {"Platelets": "yellow", "RBC": "red", "WBC": "blue"}
# Appended to the first command; later ones take them from the config that it writes. A detector that learned nothing
# finds its cells among many weak detections.
TINY = (
    "SOLVER.MAX_ITER 2 SOLVER.IMS_PER_BATCH 2 SOLVER.WARMUP_ITERS 0 ODAM.INPUT.CROP_SIZE 96 INPUT.MIN_SIZE_TEST 96 "
    "MODEL.FCOS.SCORE_THRESH_TEST 0.0 ODAM.EXPLAIN.CONFIDENCE_THRESHOLD 0.0 ODAM.EXPLAIN.MAX_INSTANCES 2"
)
WEAK = {
    "evaluate": "--score-threshold 0 --iou-threshold 0.2 --max-objects 3",
    "sanity": "--score-threshold 0 --max-images 1",
}


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands():
    lines = "".join(blocks("bash")).replace("\\\n", " ")
    return [" ".join(line.split()) for line in lines.splitlines() if line]


@pytest.fixture
def bccd(tmp_path):
    """A folder like BCCD's, with a disc for each cell, and the same in COCO's format with everything counted from 0."""
    objects, centres = {}, {"Platelets": (24, 24), "RBC": (64, 48), "WBC": (100, 68)}
    for number in range(4):
        # At least 12 and at most 24 pixels from the centre to the rim.
        radius = 12 + 4 * number
        corners = {name: (x - radius, y - radius, x + radius, y + radius) for name, (x, y) in centres.items()}
        objects[f"BloodImage_{number:05}"] = [(name, np.clip(box, 1, 96).tolist(), 0) for name, box in corners.items()]
    names = list(objects)
    folder = write_voc(tmp_path / "bccd", objects, {"train": names[:2], "val": names[2:]}, SIZE)
    for name, cells in objects.items():
        image = Image.new("RGB", SIZE[::-1], "white")
        for label, box, _ in cells:
            ImageDraw.Draw(image).ellipse(box, fill=CELLS[label])
        image.save(folder / "JPEGImages" / f"{name}.jpg")
    for split in ("train", "val"):
        write_json(tmp_path / f"{split}.json", load_voc(folder, split))
    return folder


def write_json(path, dicts):
    annotations = []
    for number, image in enumerate(dicts):
        for one in image["annotations"]:
            x1, y1, x2, y2 = one["bbox"]
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
            own = {"id": len(annotations), "image_id": number, "category_id": one["category_id"]}
            annotations.append(own | box)
    images = [
        {"id": number, "file_name": Path(image["file_name"]).name, "height": SIZE[0], "width": SIZE[1]}
        for number, image in enumerate(dicts)
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(CELLS)]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def run(command, folder):
    """What a shell makes of a line of the page."""
    script = f'odam() {{ "{sys.executable}" -m odam_d2.cli "$@"; }}; {command}'
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr}"
    return done.stdout


def test_there_are_five_commands():
    assert [command.split()[1] for command in commands()] == ["train", "train", "explain", "evaluate", "sanity"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_the_five_commands_work_one_after_the_other(kind, bccd, tmp_path):
    train, test, explain, evaluate, sanity = commands()
    if kind == "coco":
        for split in ("train", "val"):
            train = train.replace(f"voc:bccd:{split}", f"{split}.json:bccd/JPEGImages/")
        assert "voc:" not in train
    out = run(f"{train} {TINY}", tmp_path)
    assert "head.cls_score.weight' to the model due to incompatible shapes: (80," in out
    out = run(test, tmp_path)
    assert re.search(r"copypaste: AP,AP50,.*\n.*copypaste: [\d.]+,", out), out[-2000:]
    assert "AP50 of each class" in out and all(name in out for name in CELLS)
    run(explain, tmp_path)
    lines = (tmp_path / "output/cells/explained/results.jsonl").read_text().splitlines()
    assert len(lines) == 4
    assert {name for line in lines for name in json.loads(line)["classes"]} <= set(CELLS)
    run(evaluate.replace("--opts", f"{WEAK['evaluate']} --opts"), tmp_path)
    summary = json.loads((tmp_path / "output/cells/measured/summary.json").read_text())
    assert summary["counts"]["annotated"] == 6 and summary["counts"]["objects"] == 3
    run(sanity.replace("--opts", f"{WEAK['sanity']} --opts"), tmp_path)
    assert (tmp_path / "output/cells/checked/sanity.png").is_file()


def test_the_yaml_describes_what_it_trains_on(bccd, catalogs, tmp_path, monkeypatch):
    (text,) = blocks("yaml")
    (tmp_path / "mine.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    cfg = load_config("mine.yaml")
    assert set(yaml.safe_load(text)) == {"ODAM", "DATASETS", "MODEL"}
    assert [len(DatasetCatalog.get(name)) for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)] == [2, 2]


def test_the_lines_of_python_read_the_folder(bccd, tmp_path, monkeypatch, capsys):
    (code,) = blocks("python")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    assert capsys.readouterr().out == f"{list(CELLS)}\n" and len(names["dicts"]) == 2
