"""``odam compare``: from what ``odam explain --sheets`` writes to the page, and what it says of mistakes."""

import subprocess
import sys

import pytest
from PIL import Image

from explained_folders import write_explained
from helpers import random_photo
from odam_d2.cli import explain
from odam_d2.cli.compare import main


@pytest.fixture
def run(call):
    return lambda *words: call(main, *words)


@pytest.fixture
def folders(tmp_path):
    return [write_explained(tmp_path / name, {"/1.png": 1, f"/{name}.png": 0}) for name in "ab"]


def test_runs_of_odam_explain_stand_side_by_side(quick_weights, tmp_path, call, run):
    photos = [tmp_path / f"{name}.png" for name in ("first", "second")]
    for seed, photo in enumerate(photos):
        Image.fromarray(random_photo(75, 133, seed=seed)).save(photo)
    for kind, inputs in (("fcos", photos), ("faster_rcnn", photos[1:])):
        words = [
            "--config-file",
            f"configs/quick/{kind}.yaml",
            "--output",
            tmp_path / kind,
            "--sheets",
            "--input",
            *inputs,
        ]
        words += ["--max-instances", "2", "--targets", "class_score,x2", "--opts", "MODEL.WEIGHTS", quick_weights(kind)]
        done = call(explain.main, *words)
        assert done.code == 0, done.err
    page = tmp_path / "page.html"
    done = run(tmp_path / "fcos", tmp_path / "faster_rcnn", "--output", page)
    assert done.code == 0, done.err
    assert done.out.splitlines() == ["1 photograph side by side, 1 more that not all folders have", f"open {page}"]
    text = page.read_text()
    assert "<title>FCOS and Faster R-CNN side by side</title>" in text and 'id="warning"' not in text
    assert "<h2>second.png</h2>" in text and "<h2>first.png</h2>" not in text
    for sheet in ("fcos/sheets/second.jpg", "faster_rcnn/sheets/second.jpg"):
        assert f'<img src="{sheet}"' in text and (tmp_path / sheet).is_file()


def test_names_may_hold_spaces_and_methods_have_their_own_words(folders, tmp_path, run):
    write_explained(tmp_path / "c", {"/1.png": 1}, method="drise", targets=["class_score"])
    page = tmp_path / "page.html"
    done = run(folders[0], tmp_path / "c", "--output", page, "--names", "ODAM, by gradients", "a black box")
    assert done.code == 0, done.err
    text = page.read_text()
    assert "<h1>ODAM, by gradients and a black box side by side</h1>" in text
    assert "why this class (ODAM, by gradients); why this box with this class (a black box)" in text


def test_a_method_of_a_later_version_costs_nothing(folders, tmp_path, run):
    write_explained(tmp_path / "c", {"/1.png": 1}, method="tomorrow")
    assert run(folders[0], tmp_path / "c", "--output", tmp_path / "page.html").code == 0


@pytest.mark.parametrize(
    ("words", "culprit"),
    [
        (
            ["a", "--output", "page.html"],
            "at least two folders that odam explain wrote are needed to compare them; only a",
        ),
        (["--output", "page.html"], "none was named"),
        (["a", "absent", "--output", "page.html"], "absent is no folder that odam explain wrote, it does not exist"),
        (["a", ".", "--output", "page.html"], ". is no folder that odam explain wrote, it holds no run.json"),
        (
            ["a", "bare", "--output", "page.html"],
            "bare has no sheets of 1 of its 1 photographs; run odam explain with --sheets",
        ),
        (
            ["a", "other", "--output", "page.html"],
            "no photograph was explained in all 2 folders, a has /1.png and 1 more",
        ),
        (["a", "b", "--output", "absent/page.html"], "there is no folder absent; make it first"),
        (["a", "b", "--output", "page.html", "--names", "x"], "2 folders need a name each, not 1 names (x)"),
    ],
)
def test_each_mistake_is_one_sentence_that_names_the_culprit(words, culprit, folders, tmp_path, run, monkeypatch):
    write_explained(tmp_path / "bare", {"/1.png": 1}, sheets=False)
    write_explained(tmp_path / "other", {"/9.png": 1})
    monkeypatch.chdir(tmp_path)
    done = run(*words)
    assert done.code == 1 and not done.out and not (tmp_path / "page.html").exists()
    assert done.err.startswith("error: ") and culprit in done.err and done.err.count("\n") == 1


def test_a_page_of_odams_maps_needs_neither_torch_nor_detectron2(folders, tmp_path):
    code = (
        "import sys\n"
        "from odam_d2.cli.compare import main\n"
        "code = main(sys.argv[1:])\n"
        "print(code, {'torch', 'detectron2', 'cv2'} & set(sys.modules))\n"
    )
    words = [*map(str, folders), "--output", str(tmp_path / "page.html")]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0 set()", done.stderr
