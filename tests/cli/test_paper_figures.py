"""``odam figures``: the figures made of photographs and of evaluations, on random detectors; 18 has its own tests."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

from helpers import random_photo
from odam_d2 import read_image
from odam_d2.cli.figures import main
from odam_d2.cli.paper_figures import attention, classes, layers, methods, sides, targets
from odam_d2.cli.paper_figures.common import Detector, draw_rows
from odam_d2.cli.paper_figures.objects import SharedObject, _match
from odam_d2.config import load_config
from odam_d2.evaluation.people.attention import attention_map
from odam_d2.evaluation.people.fixations import Fixations
from odam_d2.evaluation.study.examples import shrink_map
from odam_d2.explain import METHODS
from odam_d2.predictor import ODAMPredictor

# Of the photograph, which is smaller than a cell of a sheet: maps are shown at its size.
SIZE = (75, 133)


@pytest.fixture
def photo(tmp_path):
    Image.fromarray(random_photo(*SIZE)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def run(photo, quick_weights, tmp_path, call):
    """(number, its words) -> what the command did; random detectors score low."""

    def call_main(number, *words, kinds=("fcos",), weights=None, opts=()):
        configs = [f"configs/quick/{kind}.yaml" for kind in kinds]
        base = [number, "--config-file", *configs, "--input", photo, "--output", tmp_path / "out" / "figure.png"]
        last = ["--opts", "MODEL.WEIGHTS", weights or quick_weights(kinds[0]), *opts]
        return call(main, *base, "--confidence-threshold", "0", *words, *last)

    return call_main


@pytest.fixture
def drawn(monkeypatch):
    """The rows and meanings of each sheet that was drawn."""
    seen = []

    def draw(image, rows, meanings):
        seen.append((rows, meanings))
        return draw_rows(image, rows, meanings)

    for module in (attention, classes, layers, methods, sides, targets):
        monkeypatch.setattr(module, "draw_rows", draw)
    return seen


def explained(quick_weights, photo, kind="fcos", count=3, **said):
    """What the predictor says of the same detections."""
    cfg = load_config(f"configs/quick/{kind}.yaml", ["MODEL.WEIGHTS", quick_weights(kind)])
    return ODAMPredictor(cfg).explain(
        read_image(photo), instances=None if count is None else list(range(count)), **said
    )


def picture(explanation, target="class_score"):
    return explanation.heat_maps[target].to_picture(SIZE).cpu().numpy()


def is_written(done, tmp_path):
    assert done.code == 0, done.err
    assert done.out.rstrip().endswith(f"see {tmp_path / 'out' / 'figure.png'}")
    figure = np.asarray(Image.open(tmp_path / "out" / "figure.png"))
    return figure.ndim == 3 and figure.shape[1] > 400


# ---- Figure 1


def test_figure_1_shows_methods_side_by_side(run, drawn, quick_weights, photo, tmp_path):
    done = run("1", "--methods", "gradcam,drise,odam", "--drise-masks", "2")
    assert is_written(done, tmp_path) and done.out.startswith("3 methods in 1 image: see ")
    ((rows, meanings),) = drawn
    assert len(rows) == 3 and list(rows[0].maps) == ["Grad-CAM", "D-RISE", "ODAM"]
    assert meanings == {METHODS[name].title: METHODS[name].source for name in ("gradcam", "drise", "odam")}
    for method, column in (("odam", "ODAM"), ("gradcam", "Grad-CAM")):
        own = explained(quick_weights, photo, method=method)
        for row, expected in enumerate(picture(own)):
            np.testing.assert_allclose(rows[row].maps[column], expected, atol=1e-6)
            np.testing.assert_allclose(rows[row].box, own.instances.pred_boxes.tensor[row], atol=1e-4)
        assert [row.label for row in rows] == own.labels
    assert rows[0].maps["D-RISE"].max() == 1


def test_figure_1_takes_any_target_several_images_and_bbam(run, drawn, tmp_path, photo):
    words = [
        "--methods",
        "odam",
        "bbam",
        "--target",
        "combined",
        "--max-instances",
        "1",
        "--input",
        photo,
        photo.parent,
    ]
    done = run("1", *words, kinds=("faster_rcnn",), opts=("ODAM.EXPLAIN.BBAM_STEPS", "1"))
    assert is_written(done, tmp_path), done.err
    assert list(drawn[0][0][0].maps) == ["ODAM", "BBAM"]


# ---- Figure 3


def test_figure_3_shows_targets_of_several_detectors(run, drawn, quick_weights, photo, tmp_path):
    done = run("3", "--names", "this", "that", kinds=("fcos", "fcos"))
    assert is_written(done, tmp_path) and done.out.startswith("1 object by 2 detectors: see ")
    (((this, that), meanings),) = drawn
    assert list(meanings) == ["class_score", "x1", "y1", "x2", "y2", "combined"]
    assert this.label.startswith("this: ") and that.label == this.label.replace("this", "that")
    own = explained(quick_weights, photo, count=1, targets=list(meanings))
    for target in meanings:
        np.testing.assert_allclose(this.maps[target], picture(own, target)[0], atol=1e-6)
        np.testing.assert_array_equal(this.maps[target], that.maps[target])


def test_a_detection_of_the_same_class_and_place_is_the_same_object():
    detector = Detector("other", SimpleNamespace(class_names=["cat", "dog"]))
    found = Instances((100, 100))
    # IoU with the object 1 (a dog), 50 / 100, 80 / 100 and 0.
    boxes = [[0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 8], [50, 50, 60, 60]]
    found.pred_boxes, found.pred_classes = Boxes(torch.tensor(boxes).float()), torch.tensor([1, 0, 0, 0])
    objects = [SharedObject("cat", np.array(box, dtype=float), []) for box in (boxes[0], [0, 20, 10, 30])]
    assert _match(objects, detector, found, np.array(boxes, dtype=float)) == [2, None]
    # Half is not more than half; nothing found is no match.
    assert _match(objects[:1], detector, found[:2], np.array(boxes[:2], dtype=float)) == [None]
    assert _match(objects, detector, found[:0], np.zeros((0, 4))) == [None, None]


def test_an_object_that_another_detector_lacks_is_said_in_its_row(drawn, quick_weights, photo, tmp_path, call):
    files = []
    for name, kept in (("one", 8), ("blind", 0)):
        base, weights = Path.cwd() / "configs/quick/fcos.yaml", quick_weights("fcos")
        files.append(tmp_path / f"{name}.yaml")
        files[-1].write_text(f"_BASE_: {base}\nMODEL:\n  WEIGHTS: {weights}\nTEST:\n  DETECTIONS_PER_IMAGE: {kept}\n")
    words = ["3", "--config-file", *files, "--input", photo, "--output", tmp_path / "out" / "figure.png"]
    done = call(main, *words, "--confidence-threshold", "0", "--targets", "x1")
    assert is_written(done, tmp_path)
    (((found, missing), _),) = drawn
    assert found.label.startswith("one: ") and found.maps["x1"].max() == 1
    name = found.label.split()[1]
    assert missing.label == f"blind: no {name} found here" and missing.maps == {"x1": None}
    np.testing.assert_array_equal(found.box, missing.box)


# ---- Figure 4


def test_figure_4_shows_layers(run, drawn, quick_weights, photo, tmp_path):
    done = run("4", "--layers", "res4", "fpn", "roi_pool", kinds=("faster_rcnn",))
    assert is_written(done, tmp_path) and done.out.startswith("1 object at 3 layers of 1 detector: see ")
    ((rows, meanings),) = drawn
    assert [row.label for row in rows] == ["faster_rcnn: why this class", "faster_rcnn: why its top side is there"]
    assert list(meanings) == ["res4", "fpn", "roi_pool"]
    for layer in meanings:
        own = explained(quick_weights, photo, "faster_rcnn", 1, targets=["class_score", "y1"], layer=layer)
        for row, target in zip(rows, ("class_score", "y1")):
            np.testing.assert_allclose(row.maps[layer], picture(own, target)[0], atol=1e-5)


def test_a_layer_that_a_detector_lacks_is_said_on_its_place(run, drawn, tmp_path):
    assert is_written(run("4", "--targets", "x2"), tmp_path)
    (((row,), _),) = drawn
    assert list(row.maps) == ["res3", "res4", "res5", "fpn", "roi_pool"]
    assert row.maps["roi_pool"] is None and row.captions == {"roi_pool": "pools no regions"}


# ---- Figure 5


@pytest.mark.parametrize(
    ("places", "first", "least", "most", "chosen"),
    [
        # From 10: farthest is 50; then 26, 16 from 10 and 24 from 50, more than 12's 2; then 12, too near.
        ([10, 12, 26, 50], 0, 5, 4, [0, 2, 3]),
        ([10, 12, 26, 50], 0, 5, 2, [0, 3]),
        ([10, 12, 26, 50], 2, 0, 4, [2, 0, 1, 3]),
        ([10, 10, 10], 1, 0, 3, [1]),
        ([7], 0, 1, 3, [0]),
    ],
)
def test_predictions_differ_most_from_each_other(places, first, least, most, chosen):
    assert sides.differing(np.array(places, dtype=float), first, least, most) == chosen


def test_a_distance_is_said_outwards():
    assert sides.say_distance("x1", 3.2) == "left side 3 px further out"
    assert sides.say_distance("y2", -12) == "bottom side 12 px further in"


@pytest.mark.parametrize("kind", ["fcos", "faster_rcnn"])
@pytest.mark.parametrize("side", ["x1", "y2"])
def test_figure_5_begins_with_the_detection(kind, side, run, drawn, quick_weights, photo, tmp_path):
    done = run("5", "--side", side, "--least-score", "0", kinds=(kind,))
    assert is_written(done, tmp_path) and done.out.startswith("1 object: see ")
    ((rows, _),) = drawn
    own = explained(quick_weights, photo, kind, 1, targets=side)
    np.testing.assert_allclose(rows[0].box, own.instances.pred_boxes.tensor[0].cpu(), atol=1e-2)
    np.testing.assert_allclose(rows[0].maps[side], picture(own, side)[0], atol=1e-4)
    assert rows[0].label.endswith(": the detection") and 1 <= len(rows) <= 4
    number = {"x1": 0, "y2": 3}[side]
    extent = rows[0].box[2 + number % 2] - rows[0].box[number % 2]
    places = [float(row.box[number]) for row in rows]
    gaps = [abs(a - b) for i, a in enumerate(places) for b in places[:i]]
    assert all(gap >= 0.1 * extent - 1e-3 for gap in gaps)
    outwards = -1 if side == "x1" else 1
    for row, place in zip(rows[1:], places[1:]):
        assert row.label.endswith("out" if outwards * (place - places[0]) > 0 else "in")


# ---- Figure 6


def test_the_second_class_and_the_closest_call_come_first():
    scores = np.array([[0.9, 0.3, 0.1], [0.5, 0.4, 0.45], [0.1, 0.0, 0.8]])
    others, order = classes.other_classes(scores, np.array([0, 0, 2]))
    # .3 / .9, .45 / .5 and .1 / .8.
    assert others.tolist() == [1, 2, 0] and order.tolist() == [1, 0, 2]
    others, order = classes.other_classes(scores, np.array([0, 0, 2]), instead=2)
    # The last is taken for class 2 already; .1 / .9 and .45 / .5.
    assert others.tolist() == [2, 2, 2] and order.tolist() == [1, 0]


def test_figure_6_shows_why_this_class_and_why_not_that_one(run, drawn, quick_weights, photo, tmp_path):
    done = run("6", "--instead", "dog")
    assert is_written(done, tmp_path) and done.out.startswith("1 image: see ")
    ((rows, meanings),) = drawn
    assert list(rows[0].maps) == list(meanings) and len(rows) == 3
    every = explained(quick_weights, photo, count=None, targets=["class_score", "class_score[dog]"])
    boxes, doubt = every.instances.pred_boxes.tensor.cpu().numpy(), []
    for row in rows:
        (own,) = [
            d for d in range(len(every)) if np.allclose(boxes[d], row.box, atol=1e-3) and every.labels[d] == row.label
        ]
        np.testing.assert_allclose(row.maps[classes.THIS], picture(every)[own], atol=1e-5)
        np.testing.assert_allclose(row.maps[classes.OTHER], picture(every, "class_score[dog]")[own], atol=1e-5)
        this, other = (float(every.values[target][own]) for target in every.values)
        assert row.captions == {classes.THIS: row.label, classes.OTHER: f"dog {other:.2f}"}
        doubt.append(other / this)
    assert doubt == sorted(doubt, reverse=True)


# ---- Figure 10


CURVES = {
    "deletion_curve": {"x": [0, 50, 100], "odam": [100, 60, 40], "mine": [100, 80, 70]},
    "vea_curve": {"x": [0.1, 0.5, 0.9], "odam": [0.3, 0.2, 0.0]},
}


def test_figure_10_draws_the_curves_of_an_evaluation(tmp_path, call):
    (tmp_path / "curves.json").write_text(json.dumps(CURVES))
    done = call(main, "10", "--input", tmp_path, "--output", tmp_path / "new" / "f.png")
    assert done.code == 0, done.err
    assert done.out == f"Deletion, Visual explanation accuracy: see {tmp_path / 'new' / 'f.png'}\n"
    width, height = Image.open(tmp_path / "new" / "f.png").size
    # Two panels beside each other.
    assert width > 2 * height


def test_methods_have_their_titles_and_foreign_ones_their_names(tmp_path):
    from odam_d2.cli.paper_figures.curves import read_curves

    (tmp_path / "curves.json").write_text(json.dumps(CURVES))
    assert list(read_curves(tmp_path)["deletion_curve"]) == ["x", "ODAM", "mine"]


@pytest.mark.parametrize(
    ("text", "culprit"),
    [
        (None, "curves.json; --input is a folder that odam evaluate wrote to its end"),
        ("{", "holds no curves of odam evaluate; run it again"),
        ("[1]", "holds no curves of odam evaluate; run it again"),
        ('{"vea_curve": 3}', "holds no curves of odam evaluate; run it again"),
        ("{}", "holds no curve; run odam evaluate with --metrics"),
    ],
)
def test_a_folder_without_curves_is_named(text, culprit, tmp_path, call):
    if text is not None:
        (tmp_path / "curves.json").write_text(text)
    done = call(main, "10", "--input", tmp_path, "--output", tmp_path / "f.png")
    assert done.code == 1 and culprit in done.err and done.err.count("\n") == 1
    assert not (tmp_path / "f.png").exists()


# ---- Figure 13


def test_figure_13_shows_people_beside_methods(run, drawn, tmp_path):
    (tmp_path / "seen.csv").write_text("image,x,y,duration\nphoto.png,30,20,200\nphoto.png,100,50,100\n")
    done = run("13", "--fixations", tmp_path / "seen.csv", "--methods", "odam", "--pixels-per-degree", "9")
    assert is_written(done, tmp_path), done.err
    ((rows, meanings),) = drawn
    assert len(rows) == 2 and list(rows[0].maps) == ["human attention", "ODAM"] == list(meanings)
    assert meanings["human attention"] == "2 fixations"
    looked = attention_map(Fixations.of([(30, 20, 200, 0), (100, 50, 100, 0)]), SIZE, 9)
    for row in rows:
        np.testing.assert_array_equal(row.maps["human attention"], shrink_map(looked, SIZE) / 255)


# ---- What can go wrong


@pytest.mark.parametrize(
    ("number", "change", "culprit"),
    [
        ("1", ["--output", "figure"], "--output figure is no image file; valid endings are .jpg"),
        ("1", ["--input", "absent.png"], "absent.png"),
        ("1", ["--methods", "lime"], "unknown method 'lime'"),
        ("1", ["--methods", "bbam"], "ODAMFCOS pools none"),
        ("1", ["--methods", "drise", "--target", "x1"], "not 'x1'"),
        ("1", ["--max-instances", "0"], "--max-instances is 0; at least 1"),
        ("1", ["--confidence-threshold", "0.99"], "fcos detects nothing in photo.png with a score of at least 0.99"),
        ("3", ["--confidence-threshold", "0.99"], "lower --confidence-threshold"),
        ("3", ["--targets", "size"], "unknown target 'size'"),
        ("3", ["--names", "a", "b"], "--names has 2 names for 1 detectors"),
        ("4", ["--layers", "res9"], "'res9'"),
        ("5", ["--side", "left"], "unknown side 'left'; valid sides are x1, y1, x2, y2"),
        ("5", ["--predictions", "0"], "--predictions is 0"),
        ("5", ["--least-score", "2"], "--least-score is 2.0"),
        ("6", ["--instead", "dgo"], "--instead dgo is no class of fcos; the closest of its 80 classes are dog"),
        ("6", ["--confidence-threshold", "0.99"], "detects nothing"),
        ("13", ["--fixations", "absent.csv"], "absent.csv"),
        (
            "13",
            ["--fixations", "other.csv"],
            "other.csv has no fixations on photo.png; it has them on images such as b",
        ),
    ],
)
def test_each_mistake_is_one_sentence(number, change, culprit, run, tmp_path):
    (tmp_path / "other.csv").write_text("image,x,y,duration\nb.jpg,3,2,200\n")
    change = [str(tmp_path / word) if word == "other.csv" else word for word in change]
    done = run(number, *change)
    assert done.code == 1 and culprit in done.err and not done.out
    assert done.err.startswith("error: ") and done.err.count("\n") == 1, done.err
    assert not (tmp_path / "out").exists()


def test_two_detectors_of_one_name_are_refused(run):
    done = run("3", kinds=("fcos", "fcos"))
    assert done.code == 1 and "two detectors are called fcos; tell them apart with --names" in done.err
