"""``odam attention``: a Table 6 from made-up fixations, and what it says when something is wrong."""

import csv
import json

import numpy as np
import pytest

from evaluation.explained import SIZES, make_predictor, register, unregister, write_dataset
from odam_d2.cli.attention import main
from odam_d2.evaluation.people.attention import attention_map, crop
from odam_d2.evaluation.people.attention_settings import SIMILARITIES
from odam_d2.evaluation.people.fixations import read_fixations
from odam_d2.evaluation.people.similarity import compare

NAME = "odam_looked_at"
pytest.importorskip("ot", reason="optimal transport needs POT, the extra people")


@pytest.fixture(scope="module")
def dataset(quick_weights, tmp_path_factory):
    path = write_dataset(tmp_path_factory.mktemp("data") / "looked", make_predictor("fcos", quick_weights("fcos")))
    register(NAME, path)
    yield path
    unregister(NAME)


@pytest.fixture
def fixations(tmp_path):
    """Three people who looked at the first two of three images, at random places."""
    rng, lines = np.random.default_rng(0), ["image,observer,x,y,duration"]
    for number, (height, width) in enumerate(SIZES[:2], 1):
        for observer in "abc":
            for x, y in rng.uniform(0, [width, height], (8, 2)):
                lines.append(f"{number}.png,{observer},{x:.2f},{y:.2f},200")
    path = tmp_path / "fixations.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def run(dataset, quick_weights, call, fixations):
    def call_main(output, *more, fixations=fixations):
        words = ["--config-file", "configs/quick/fcos.yaml", "--dataset", NAME, "--fixations", fixations]
        words += ["--output", output, "--score-threshold", "0", "--methods", "odam,gradcam", *more]
        return call(main, *words, "--opts", "MODEL.WEIGHTS", quick_weights("fcos"))

    return call_main


def read_rows(folder):
    with open(folder / "attention.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_every_method_is_compared_with_where_people_looked(run, tmp_path, fixations):
    done = run(tmp_path / "out", "--task", "they counted chairs", "--pixels-per-degree", "9")
    assert done.code == 0, done.err
    rows = read_rows(tmp_path / "out")
    # 3 and 2 objects are found in the images that people looked at, by two methods, with ceiling and floor.
    assert len(rows) == (3 + 2) * 4 * 2 and {row["task"] for row in rows} == {"they counted chairs"}
    assert {row["method"] for row in rows} == {"odam", "gradcam", "observers", "centre"}
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["counts"] == {
        "images": 2,
        "without_fixations": 1,
        "left_out": 0,
        "objects": 5,
        "not_looked_at": sum(row["fixations"] == "0" for row in rows) // 8,
    }
    own = [float(row["cosine"]) for row in rows if row["method"] == "odam" and row["window"] == "image"]
    assert summary["image"]["odam"]["cosine"] == pytest.approx(np.mean(own))
    text = (tmp_path / "out" / "tables.md").read_text()
    # Wherever numbers stand: four tables and the facts.
    assert text.count("they counted chairs") == 5 and "odam less" in text
    assert "note: they counted chairs" in done.out and "5 objects in 2 images" in done.out
    assert sorted(path.name for path in (tmp_path / "out" / "examples").iterdir()) == ["1.jpg", "2.jpg"]


def test_the_numbers_are_those_of_the_maps(run, tmp_path, dataset, quick_weights, fixations):
    assert run(tmp_path, "--max-images", "1").code == 0
    objects = [a for a in json.loads(dataset.read_text())["annotations"] if a["image_id"] == 1]
    predictor = make_predictor("fcos", quick_weights("fcos"))
    looked = attention_map(read_fixations(fixations).images["1.png"], SIZES[0])
    from odam_d2 import read_image

    explanation = predictor.explain(read_image(str(dataset.parent / "1.png")))
    heat = explanation.heat_maps["class_score"].to_image(rows=[0])[0].numpy()
    # The first annotation is the first detection; the file rounds nothing.
    rows = [row for row in read_rows(tmp_path) if row["method"] == "odam" and row["annotation_id"] == "10"]
    x, y, w, h = objects[0]["bbox"]
    for row, expected in zip(
        rows, (compare(heat, looked), compare(*(crop(m, (x, y, x + w, y + h)) for m in (heat, looked))))
    ):
        if row["window"] == "image" or row["fixations"] != "0":
            assert [float(row[name]) for name in SIMILARITIES] == pytest.approx(list(expected), rel=1e-4)


def test_maps_of_another_tool_are_compared_too_and_missing_ones_are_counted(run, tmp_path, fixations):
    """The tool has one map, human attention itself: nothing is more like it."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    np.save(folder / "1_10.npy", attention_map(read_fixations(fixations).images["1.png"], SIZES[0]))
    assert run(tmp_path / "out", "--max-images", "1", "--maps", folder).code == 0
    rows = [row for row in read_rows(tmp_path / "out") if row["method"] == "theirs" and row["window"] == "image"]
    assert [row["missing"] for row in rows] == ["0", "1", "1"] and [row["cosine"] == "" for row in rows] == [
        False,
        True,
        True,
    ]
    assert [float(rows[0][name]) for name in SIMILARITIES] == pytest.approx([1, 1, 0, 0], abs=1e-9)
    assert "theirs: 2 maps missing, which have no number" in (tmp_path / "out" / "tables.md").read_text()


def test_people_who_look_at_the_same_place_agree_fully(run, tmp_path):
    path = tmp_path / "same.csv"
    path.write_text("image,observer,x,y,duration\n" + "".join(f"1.png,{who},40,40,100\n" for who in "abcd"))
    assert run(tmp_path / "out", fixations=path).code == 0
    rows = [row for row in read_rows(tmp_path / "out") if row["method"] == "observers" and row["window"] == "image"]
    assert len(rows) == 3
    for row in rows:
        numbers = [float(row[name]) for name in SIMILARITIES]
        assert numbers == pytest.approx([1, 1, 0, 0], abs=1e-9)


def test_where_nobody_looked_there_is_no_number(run, tmp_path):
    """All look at the upper left corner of the first image; objects elsewhere have no window to compare."""
    path = tmp_path / "corner.csv"
    path.write_text("image,observer,x,y,duration\n1.png,a,0,0,100\n1.png,b,0,0,100\n")
    assert run(tmp_path / "out", fixations=path).code == 0
    rows = read_rows(tmp_path / "out")
    empty = [row["cosine"] == "" for row in rows if row["window"] == "object"]
    assert empty == [row["fixations"] == "0" for row in rows if row["window"] == "object"] and any(empty)
    assert "nobody looked: they have no number" in (tmp_path / "out" / "tables.md").read_text()


def test_maps_that_lie_beside_the_box_are_counted_in_it(run, tmp_path, dataset):
    """A map that is bright at one pixel outside of the object's box."""
    (box,) = (a["bbox"] for a in json.loads(dataset.read_text())["annotations"] if a["id"] == 10)
    heat = np.ones(SIZES[0])
    x, y, w, h = box
    heat[int(y) : int(np.ceil(y + h)), int(x) : int(np.ceil(x + w))] = 0
    folder, path = tmp_path / "theirs", tmp_path / "middle.csv"
    folder.mkdir()
    np.save(folder / "1_10.npy", heat)
    path.write_text(f"image,observer,x,y,duration\n1.png,a,{x + w / 2},{y + h / 2},100\n")
    assert run(tmp_path / "out", "--maps", folder, fixations=path).code == 0
    rows = [row for row in read_rows(tmp_path / "out") if row["method"] == "theirs" and row["annotation_id"] == "10"]
    assert {row["window"]: (row["zero_map"], row["cosine"] == "") for row in rows} == {
        "object": ("1", True),
        "image": ("0", False),
    }
    assert "theirs: 1 maps all zero in the box, 2 maps missing" in (tmp_path / "out" / "tables.md").read_text()


def test_halves_of_which_one_looked_elsewhere_are_no_ceiling_of_a_box(run, tmp_path, dataset):
    """One of two people looked at the middle of an object, the other one outside of it."""
    boxes = {a["id"]: a["bbox"] for a in json.loads(dataset.read_text())["annotations"] if a["image_id"] == 1}
    x, y, w, h = boxes[10]
    far = (1.0, 1.0) if x > 2 or y > 2 else (SIZES[0][1] - 1.0, SIZES[0][0] - 1.0)
    path = tmp_path / "apart.csv"
    path.write_text(
        f"image,observer,x,y,duration\n1.png,a,{x + w / 2},{y + h / 2},100\n1.png,b,{far[0]},{far[1]},100\n"
    )
    assert run(tmp_path / "out", fixations=path).code == 0
    rows = [row for row in read_rows(tmp_path / "out") if row["annotation_id"] == "10"]
    found = {(row["method"], row["window"]): row["cosine"] for row in rows}
    assert found["observers", "object"] == "" and found["observers", "image"] != "" and found["odam", "object"] != ""


def test_one_person_alone_gives_no_ceiling(run, tmp_path):
    path = tmp_path / "one.csv"
    path.write_text("image,x,y,duration\n1.png,40,40,100\n")
    done = run(tmp_path / "out", fixations=path)
    assert done.code == 0, done.err
    rows = read_rows(tmp_path / "out")
    assert {row["cosine"] for row in rows if row["method"] == "observers"} == {""}
    assert "is not said (--task)" in done.out


def test_an_even_choice_of_objects_is_compared(run, tmp_path):
    assert run(tmp_path / "out", "--max-objects", "2").code == 0
    # Of 3 and 2 objects, the middles of two halves of five: the second and the fourth.
    assert list(dict.fromkeys(row["annotation_id"] for row in read_rows(tmp_path / "out"))) == ["20", "50"]


@pytest.mark.parametrize(
    ("line", "more", "culprit"),
    [
        ("1.png,999,10,5", [], "1.png: 1 of 1 fixations lie outside the image of 133 x 75 pixels"),
        ("9.png,1,1,5", [], "the fixations name images that the dataset does not have: 9.png"),
        ("", [], "holds no fixation"),
        ("1.png,1,1,5", ["--weights", "time"], "unknown weights 'time'"),
        ("1.png,1,1,5", ["--methods", "dreams"], "unknown method 'dreams'"),
        ("1.png,1,1,5", ["--splits", "0"], "splits is 0"),
    ],
)
def test_each_mistake_is_one_sentence(line, more, culprit, run, tmp_path):
    path = tmp_path / "wrong.csv"
    path.write_text(f"image,x,y,duration\n{line}\n")
    done = run(tmp_path / "out", *more, fixations=path)
    assert done.code == 1 and culprit in done.err and done.err.startswith("error: ") and done.err.count("\n") == 1


def test_fixations_outside_can_be_left_out_and_are_counted(run, tmp_path):
    path = tmp_path / "some.csv"
    path.write_text("image,x,y,duration\n1.png,40,40,100\n1.png,999,1,5\n")
    done = run(tmp_path / "out", "--leave-out-outside", fixations=path)
    assert done.code == 0 and "1 fixations left out" in done.out


def test_nothing_found_is_said(run, tmp_path):
    done = run(tmp_path / "out", "--score-threshold", "0.99")
    assert done.code == 1 and "no object takes part" in done.out and not done.err
