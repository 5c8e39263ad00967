"""The errors of a random detector whose kinds are made: its own detections, moved and renamed, are the truth."""

import csv
import json
import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from evaluation.explained import CATEGORIES, annotation, make_predictor, register, unregister
from helpers import random_photo
from odam_d2.evaluation.study.errors.cases import side_offsets, wrong_sides
from odam_d2.evaluation.study.errors.run import ErrorStudy
from odam_d2.evaluation.study.errors.settings import ErrorSettings
from odam_d2.evaluation.study.errors.summary import say_energy, summarize_errors

NAME, SIZE = "odam_errors", (96, 128)
SETTINGS = ErrorSettings(score_threshold=0.0, max_images=None)


@pytest.fixture(scope="module")
def predictor(quick_weights):
    return make_predictor("fcos", quick_weights("fcos"))


@pytest.fixture(scope="module")
def found(predictor):
    """Boxes, classes and scores of the detections in the only image."""
    instances = predictor(random_photo(*SIZE, seed=5)[:, :, ::-1])["instances"]
    return instances.pred_boxes.tensor.numpy(), instances.pred_classes.tolist(), instances.scores.tolist()


def write(folder, objects, masks=True):
    """A dataset of one image with (box, class) objects."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(random_photo(*SIZE, seed=5)).save(folder / "1.png")
    annotations = [annotation(i, 1, [float(v) for v in box], label) for i, (box, label) in enumerate(objects, 1)]
    if not masks:
        for one in annotations:
            del one["segmentation"]
    content = {
        "images": [{"id": 1, "file_name": "1.png", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": annotations,
        "categories": [{"id": c["id"], "name": c["name"]} for c in CATEGORIES],
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def look(predictor, tmp_path):
    def look(objects, masks=True, settings=SETTINGS):
        register(NAME, write(tmp_path / "data", objects, masks))
        try:
            study = ErrorStudy(predictor, NAME, predictor.make_explainer(), settings)
            (cases,) = study.run()
            (tmp_path / "out").mkdir()
            return cases, study.write(tmp_path / "out", {"made": "by a test"}), tmp_path / "out"
        finally:
            unregister(NAME)

    return look


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_without_errors_the_page_says_so(look, found):
    """The truth is what was detected; of two detections that overlap, the better one comes first anyway."""
    boxes, labels, _ = found
    cases, summary, out = look(list(zip(boxes, labels)))
    assert cases == [] and summary["kinds"]["correct"] == len(boxes) and summary["energy"] == {}
    assert "This detector made no error here." in (out / "index.html").read_text()
    assert rows(out / "errors.csv") == [] and rows(out / "maps.csv") == []


def test_without_objects_every_detection_is_background(look, found):
    cases, summary, _ = look([])
    assert Counter(case.kind for case in cases) == {"background": len(found[0])}
    view = cases[0].views[0]
    assert (view.role, view.target) == ("behind", "class_score") and view.shares.background == pytest.approx(1)
    assert summary["energy"]["detections of background"]["looks_at"]["background"] == 1


def test_a_wrong_class_is_asked_why_and_why_not(look, found, predictor):
    boxes, labels, scores = found
    other = (labels[0] + 7) % 80
    cases, _, _ = look([(boxes[0], other), *zip(boxes[1:], labels[1:])])
    case = next(case for case in cases if case.kind == "classification" and case.box == pytest.approx(boxes[0]))
    names = predictor.class_names
    assert (case.class_name, case.true_class) == (names[labels[0]], names[other])
    own, true = case.views
    assert (own.role, own.class_name) == ("behind", names[labels[0]]) and own.title.endswith(f"{scores[0]:.2f}")
    assert (true.role, true.class_name) == ("reference", names[other])
    # The maps are those of the predictor's own targets.
    image = random_photo(*SIZE, seed=5)[:, :, ::-1].copy()
    targets = ("class_score", f"class_score[{names[other]}]")
    explained = predictor.explain(image, targets, instances=[0])
    for view, target in zip(case.views, targets):
        expected = explained.heat_maps[target].to_image()[0].numpy()
        assert view.heat == pytest.approx(expected / expected.max(), abs=1e-4)


def test_a_wrong_side_stands_beside_the_same_side_of_a_better_box(look, found, predictor):
    boxes, labels, _ = found
    x1, y1, x2, y2 = boxes[0]
    # The object is the detection's left two fifths: IoU .4, only the right side is wrong, by 1.5 widths.
    object_box = [x1, y1, x1 + 0.4 * (x2 - x1), y2]
    cases, summary, out = look([(object_box, labels[0]), *zip(boxes[1:], labels[1:])])
    case = next(case for case in cases if case.box == pytest.approx(boxes[0]) and case.kind == "localisation")
    assert case.iou == pytest.approx(0.4, abs=0.01) and case.sides == [("x2", pytest.approx(1.5, abs=0.01))]
    behind = case.views[0]
    assert (behind.role, behind.target) == ("behind", "x2")
    explained = predictor.explain(random_photo(*SIZE, seed=5)[:, :, ::-1].copy(), "x2", instances=[0])
    expected = explained.heat_maps["x2"].to_image()[0].numpy()
    assert behind.heat == pytest.approx(expected / expected.max(), abs=1e-4)
    for view in case.views[1:]:
        assert (view.role, view.target) == ("reference", "x2")
    assert summary["energy"]["mislocalised right sides"]["maps"] >= 1
    assert "mislocalised right sides look at" in (out / "index.html").read_text()


def test_what_stands_beside_a_wrong_side_has_it_right(look, found):
    """Objects are the upper left 60 % of detections, which boxes of a finer level fit."""
    boxes, labels, _ = found
    parts = [np.array([x1, y1, x1 + 0.6 * (x2 - x1), y1 + 0.6 * (y2 - y1)]) for x1, y1, x2, y2 in boxes]
    settings = ErrorSettings(score_threshold=0.0, side_tolerance=0.2)
    cases, _, _ = look([(box.tolist(), label) for box, label in zip(parts, labels)], settings=settings)
    beside = [
        (case.object_box, view)
        for case in cases
        for view in case.views
        if case.kind in ("localisation", "both") and view.role == "reference" and view.target != "class_score"
    ]
    assert len(beside) >= 3
    for box, view in beside:
        number = ["x1", "y1", "x2", "y2"].index(view.target)
        extent = box[2 + number % 2] - box[number % 2]
        assert abs(view.box[number] - box[number]) <= 0.2 * extent + 1e-6 and _iou(view.box, box) >= 0.5
        assert "that has it right" in view.title


def test_how_far_sides_are_out_is_told_in_extents():
    """An object of 100 x 50; a box that is 79 too far right, 5 too far up, and 10 short at the bottom."""
    object_box = np.array([0.0, 10, 100, 60])
    offsets = side_offsets(np.array([[0.0, 5, 179, 50], [0, 10, 100, 60]]), object_box)
    assert offsets.tolist() == [[0, pytest.approx(0.1), pytest.approx(0.79), pytest.approx(-0.2)], [0, 0, 0, 0]]
    assert wrong_sides(np.array([0.0, 5, 179, 50]), object_box, 0.15) == [
        ("x2", pytest.approx(0.79)),
        ("y2", pytest.approx(-0.2)),
    ]


def test_an_object_whose_detection_found_another_one_says_so(look, found):
    """Two objects around one detection: it finds the nearer one, and the other is missed."""
    boxes, labels, scores = found
    x1, y1, x2, y2 = boxes[0]
    moved = [x1 + 0.2 * (x2 - x1), y1, x2, y2]  # IoU .8
    cases, _, _ = look(
        [(boxes[0].tolist(), labels[0]), (moved, labels[0])], settings=ErrorSettings(score_threshold=scores[0] - 1e-6)
    )
    (case,) = [case for case in cases if case.kind == "missed"]
    assert case.reason == "the detection made there found another object"


def test_a_duplicate_comes_with_both_maps_and_their_correlation(look, found, predictor):
    """One object that two detections of a class fit: the box around both, with a threshold that both pass."""
    boxes, labels, _ = found

    def fit_of(pair):
        first, second = (boxes[i] for i in pair)
        union = [*np.minimum(first, second)[:2], *np.maximum(first, second)[2:]]
        return min(_iou(box, union) for box in (first, second)), union

    pairs = [(i, j) for j in range(len(boxes)) for i in range(j) if labels[i] == labels[j]]
    first, _ = pair = max(pairs, key=lambda pair: fit_of(pair)[0])
    foreground, union = fit_of(pair)
    foreground = 0.9 * float(foreground)
    settings = ErrorSettings(score_threshold=0.0, foreground=foreground, background=0.0)
    cases, _, _ = look([(union, labels[first])], settings=settings)
    duplicates = [case for case in cases if case.kind == "duplicate"]
    assert duplicates
    case = duplicates[0]
    own, rival = case.views
    assert (own.role, rival.role) == ("behind", "reference")
    a, b = own.heat.ravel(), rival.heat.ravel()
    assert case.correlation == pytest.approx(float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)), abs=1e-4)


def test_a_missed_object_is_asked_at_the_place_that_came_closest(look, found, predictor):
    boxes, labels, _ = found
    threshold = 0.999
    cases, summary, _ = look([(boxes[0], labels[0])], settings=ErrorSettings(score_threshold=threshold))
    (case,) = cases
    assert case.kind == "missed" and case.iou >= 0.5 and summary["kinds"]["missed"] == 1
    assert "not more than 0.999" in case.reason and case.views[0].class_name == case.true_class
    # Of all places whose box fits, the one with the highest score of the object's class.
    observation = predictor.observe([random_photo(*SIZE, seed=5)[:, :, ::-1].copy()])
    every = observation.predictions(0)
    scale = [SIZE[1] / every.image_size[1], SIZE[0] / every.image_size[0]] * 2
    placed = np.clip(every.boxes_of(labels[0]).numpy() * scale, 0, [SIZE[1], SIZE[0]] * 2)
    fits = np.array([_iou(box, boxes[0]) for box in placed]) >= 0.5
    assert case.score == pytest.approx(float(every.class_scores[:, labels[0]].numpy()[fits].max()))


def test_an_object_that_no_place_fits_says_so(look):
    (case,) = look([([60.0, 40, 61, 41], 3)], settings=ErrorSettings(score_threshold=0.999))[0]
    assert "no place has a box that fits it" in case.reason and case.iou < 0.5


def test_a_dataset_without_masks_is_measured_by_boxes_and_says_so(look, found):
    boxes, labels, _ = found
    objects = [(boxes[0], (labels[0] + 1) % 80)]
    _, summary, out = look(objects, masks=False)
    assert summary["counts"]["with_mask"] == 0
    assert (
        "The dataset has no masks: where the energy of a map lies is told by boxes." in (out / "index.html").read_text()
    )


def test_the_files_agree_with_each_other(look, found):
    boxes, labels, _ = found
    # Half of the objects keep their class, half have another; one is where nothing was detected.
    objects = [(box, label if i % 2 else (label + 3) % 80) for i, (box, label) in enumerate(zip(boxes, labels))]
    cases, summary, out = look([*objects, ([60.0, 40, 61, 41], 3)])
    errors, maps = rows(out / "errors.csv"), rows(out / "maps.csv")
    assert len(errors) == len(cases) and len(maps) == sum(len(case.views) for case in cases)
    assert Counter(row["kind"] for row in errors) == {k: n for k, n in summary["kinds"].items() if n and k != "correct"}
    for row in maps:
        if row["energy_object"]:
            parts = sum(float(row[f"energy_{name}"]) for name in ("object", "neighbour", "background"))
            assert parts == pytest.approx(1, abs=2e-4)
    text = (out / "index.html").read_text()
    assert (
        "http://" not in text
        and "https://" not in text
        and "default-src 'none'" in text
        and "<!-- groups -->" not in text
    )
    # On the page the worst come first, at most so many of a class.
    for section in re.split(r'<section class="class">', text)[1:]:
        scores = [float(score) for score in re.findall(r"<h4>1\.png: .*? ([\d.]+)(?:,|<)", section)]
        assert 1 <= len(scores) <= SETTINGS.pictures and scores == sorted(scores, reverse=True)


def test_sentences_say_where_the_maps_look():
    looks = {"object": 0.5, "neighbour": 0.41, "background": 0.09, "nothing": 0.0}
    energy = {"mislocalised right sides": {"maps": 22, "looks_at": looks, "neighbours": {"person": 6, "chair": 3}}}
    assert say_energy(energy) == [
        "41 % of the 22 mislocalised right sides look at a neighbour (person 6, chair 3), 50 % at the object itself, "
        "9 % at the background."
    ]
    # What is said of errors means little without the same of what is right.
    right = {"maps": 18, "looks_at": looks | {"neighbour": 0.1}}
    energy["mislocalised right sides"]["reference"] = right
    assert say_energy(energy)[0].endswith("9 % at the background. Where the side is right, 10 % of 18 do.")


def test_sides_that_are_right_are_counted_beside_the_wrong_ones():
    def row(error, role, target, looks_at):
        shares = dict.fromkeys(("energy_object", "energy_neighbour", "energy_background", "energy_box"), 0.25)
        return {
            "error": error,
            "role": role,
            "target": target,
            "looks_at": looks_at,
            "neighbour_class": "dog",
            **shares,
        }

    errors = [{"error": n, "kind": "localisation", "class": "cat"} for n in range(2)]
    maps = [row(0, "behind", "x2", "neighbour"), row(0, "reference", "x2", "object")]
    maps += [row(1, "behind", "x2", "neighbour"), row(1, "reference", "x2", "neighbour")]
    maps += [row(1, "behind", "y1", "background"), row(1, "reference", "class_score", "object")]
    energy = summarize_errors(errors, maps, {}, {})["energy"]
    assert list(energy) == ["mislocalised top sides", "mislocalised right sides"]
    assert "reference" not in energy["mislocalised top sides"]
    sides = energy["mislocalised right sides"]
    assert sides["looks_at"]["neighbour"] == 1 and sides["reference"]["looks_at"]["neighbour"] == 0.5
    assert sides["reference"]["maps"] == 2


def _iou(a, b):
    shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        ({"score_threshold": 1.0}, "score_threshold is 1.0"),
        ({"background": 0.6}, "background 0.6 and foreground 0.5"),
        ({"side_tolerance": -0.1}, "side_tolerance is -0.1"),
        ({"max_images": 0}, "max_images 0"),
    ],
)
def test_settings_out_of_their_range_are_refused(change, culprit):
    with pytest.raises(ValueError, match=culprit):
        ErrorSettings(**change)
