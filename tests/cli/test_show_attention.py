"""``odam show-attention``: sheets of annotated and of detected objects, and what it says when something is wrong."""

import json

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from helpers import random_photo, small_cfg
from odam_d2.cli import figures, show_attention
from odam_d2.cli.show_attention import main
from odam_d2.show.sheets import stack_sheets


@pytest.fixture
def photos(tmp_path):
    for name, size in (("a", (75, 133)), ("b", (60, 60))):
        Image.fromarray(random_photo(*size)).save(tmp_path / f"{name}.png")
    return tmp_path


@pytest.fixture
def run(photos, quick_weights, tmp_path, call):
    torch.manual_seed(5)
    teacher = build_model(small_cfg("fcos"))
    torch.nn.init.constant_(teacher.head.bbox_pred.bias, 2.0)
    torch.save({"model": teacher.state_dict()}, tmp_path / "teacher.pth")

    def call_main(*words, images=("a.png", "b.png"), opts=(), command=(main,), output="out"):
        base = ["--config-file", "quick/fcos_odam_kd.yaml", "--output", tmp_path / output, "--input"]
        own = ["MODEL.WEIGHTS", quick_weights("fcos"), "ODAM.KD.TEACHER.WEIGHTS", tmp_path / "teacher.pth"]
        return call(*command, *base, *(photos / name for name in images), *words, "--opts", *own, *opts)

    return call_main


@pytest.fixture
def drawn(monkeypatch):
    """What each sheet was drawn of."""
    seen = []
    draw = show_attention.attention_sheet
    monkeypatch.setattr(show_attention, "attention_sheet", lambda *words: seen.append(words) or draw(*words))
    return seen


def write_annotations(folder):
    """An object in the middle of the first photograph, and a crowd."""
    annotations = [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [33, 15, 64, 48], "area": 3072, "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 1},
    ]
    images = [{"id": 1, "file_name": "a.png", "height": 75, "width": 133}]
    categories = [{"id": number, "name": f"class {number}"} for number in range(1, 81)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))
    return f"kd_mine={folder / 'annotations.json'}:{folder}"


def test_detections_are_the_objects_where_none_are_annotated(run, tmp_path, drawn):
    done = run()
    assert done.code == 0 and not done.err, done.err
    assert done.out == f"2 of 2 images: see {tmp_path / 'out'}\n"
    for name, (image, boxes, labels, rows) in zip("ab", drawn):
        sheet = np.asarray(Image.open(tmp_path / "out" / f"{name}_attention.png"))
        assert sheet.ndim == 3 and len(rows) == 5
        assert len(boxes) == len(labels) == 5  # TEST.DETECTIONS_PER_IMAGE
        assert [row.title for row in rows][:2] == ["p3, stride 8", "p4, stride 16"]
        for row in rows:
            assert all(heat.shape == image.shape[:2] for heat in row.maps.values())
            assert all(low <= 1 <= high for low, high in (row.ranges["M_bu"], row.ranges["M_td"]))


def test_annotations_are_the_objects_where_there_are_any(run, photos, drawn):
    done = run("--dataset", write_annotations(photos), images=["a.png"])
    assert done.code == 0, done.err
    ((_, boxes, labels, _),) = drawn
    assert boxes.tolist() == [[33.0, 15.0, 97.0, 63.0]] and labels == ["class 1"]
    done = run("--dataset", write_annotations(photos))
    assert done.code == 0 and "1 of 2 images" in done.out
    assert "the dataset has no image called b.png; leave out --dataset" in done.err + done.out


def test_no_detection_is_a_sheet_too(run, drawn):
    assert run("--confidence-threshold", "1", images=["a.png"]).code == 0
    ((_, boxes, _, rows),) = drawn
    assert len(boxes) == 0 and all(heat.max() < 1e-5 for row in rows for heat in [row.maps["M_td"]])


def test_the_attention_is_the_configs_unless_it_is_named(run, monkeypatch):
    asked = []
    look = show_attention.image_attention
    monkeypatch.setattr(show_attention, "image_attention", lambda *words: asked.append(words[-1]) or look(*words))
    for words, opts in (([], []), (["--attention", "gradcam"], []), ([], ["gradcam"]), ([], ["bottom_up"])):
        assert run(*words, images=["a.png"], opts=[x for name in opts for x in ("ODAM.KD.ATTENTION", name)]).code == 0
    # Bottom-up attention alone would leave nothing to show beside it.
    assert asked == ["odam", "gradcam", "gradcam", "odam"]


@pytest.mark.parametrize(
    ("opts", "words"),
    [
        (["MODEL.WEIGHTS", ""], "MODEL.WEIGHTS is empty"),
        (["ODAM.KD.TEACHER.CONFIG_FILE", ""], "ODAM.KD.TEACHER.CONFIG_FILE is empty; name the teacher's config"),
        (["ODAM.KD.TEACHER.WEIGHTS", "absent.pth"], "there is no weights file absent.pth"),
        (["ODAM.KD.TEACHER.OPTS", "['MODEL.FCOS.NUM_CLASSES', 3]"], "the teacher quick/fcos.yaml was not loaded"),
    ],
)
def test_what_is_missing_is_said(opts, words, run):
    done = run(opts=opts)
    assert done.code == 1 and words in done.err and done.err.startswith("error: ")


def test_figure_16_is_the_sheets_of_its_images(run, tmp_path):
    annotated = ("--dataset", write_annotations(tmp_path), "--attention", "gradcam")
    done = run(*annotated, images=("a.png",), command=(figures.main, "16"), output="figures/16.png")
    assert done.code == 0 and done.out == f"1 image: see {tmp_path / 'figures' / '16.png'}\n", done.err
    assert run(*annotated, images=("a.png",)).code == 0
    sheet = np.asarray(Image.open(tmp_path / "out" / "a_attention.png"))
    figure = np.asarray(Image.open(tmp_path / "figures" / "16.png"))
    np.testing.assert_array_equal(figure, stack_sheets([("a.png", sheet)]))
    done = run(*annotated, command=(figures.main, "16"), output="other.png")
    assert done.code == 1 and "the dataset has no image called b.png" in done.err
    assert not (tmp_path / "other.png").exists()
    done = run(command=(figures.main, "16"), output="figure")
    assert done.code == 1 and "figure is no image file" in done.err
