"""``odam trust``: pages and a key, tables and figures from SIMULATED files, and what it says of mistakes."""

import json
import subprocess
import sys

import numpy as np
import pytest

from evaluation.people.trust.simulated import make_study, random_ranks, rank_by, write_files
from odam_d2.cli.trust import main
from odam_d2.evaluation.people.trust.studies import read_key, write_key
from own_data import SIZE, write_coco

METHODS = ("odam", "gradcam", "drise")


@pytest.fixture
def run(call):
    return lambda *words: call(main, *words)


@pytest.fixture
def mapped(tmp_path):
    """A dataset's description and folders of maps, of five of its six objects."""
    word = "asked=" + write_coco(
        tmp_path / "photos", {0: "cat", 1: "dog"}, [(i % 2, 5 * i, 4, 12, 20) for i in range(6)]
    )
    folders = []
    for name in METHODS:
        folders.append(tmp_path / "maps" / name)
        folders[-1].mkdir(parents=True)
        for i in range(5):
            np.save(folders[-1] / f"{i}_{i}.npy", np.random.default_rng(i).random(SIZE, np.float32))
    return word, folders


def test_a_page_for_each_participant_and_a_key(run, mapped, tmp_path):
    word, folders = mapped
    words = ["make", "--study", "rank", "--dataset", word, "--maps", *folders, "--output", tmp_path / "study"]
    words += ["--participants", "2", "--questions", "3"]
    done = run(*words)
    assert done.code == 0, done.err
    names = sorted(path.name for path in (tmp_path / "study").iterdir())
    assert names == ["key.json", "participant-01.html", "participant-02.html"]
    study = read_key(tmp_path / "study" / "key.json")
    assert study.methods == METHODS and len(study.items) == 5 and {item.name for item in study.items} == {"cat", "dog"}
    assert f"study {study.id}: 2 pages with 3 questions each about 5 objects" in done.out
    again = run(*words)
    assert again.code == 1 and "holds the key of a study already" in again.err


def test_detectors_of_one_method_get_names(run, mapped, tmp_path):
    word, folders = mapped
    words = [
        "make",
        "--study",
        "choose",
        "--dataset",
        word,
        "--maps",
        folders[0],
        folders[1],
        "--output",
        tmp_path / "s",
    ]
    done = run(*words, "--names", "strong", "weak", "--participants", "1", "--questions", "2", "--objects", "2")
    assert done.code == 0, done.err
    study = read_key(tmp_path / "s" / "key.json")
    assert study.methods == ("strong", "weak") and len(study.items) == 2


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        (["--study", "guess"], "unknown study 'guess'"),
        (["--study", "choose"], "the study choose compares 2 methods; 3 were named"),
        (["--questions", "9"], "9 questions each need 9 objects"),
        (["--names", "a"], "3 folders of maps need a name each, not 1 names (a)"),
        (["--names", "a", "b", "a"], "'a' is not: give --names"),
        (["--dataset", "absent"], "unknown dataset 'absent'"),
        (["--maps", "absent", "missing"], "there is no folder of maps absent"),
        (["--objects", "-1"], "--objects is -1"),
    ],
)
def test_each_mistake_in_making_is_one_sentence(change, culprit, run, mapped, tmp_path):
    word, folders = mapped
    words = ["make", "--study", "rank", "--dataset", word, "--output", tmp_path / "study", "--questions", "3"]
    done = run(*words, "--maps", *folders, *change)
    assert done.code == 1 and culprit in done.err and done.err.startswith("error: ") and done.err.count("\n") == 1


def test_objects_without_maps_are_no_study(run, mapped, tmp_path):
    word, _ = mapped
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
    words = ["make", "--study", "rank", "--dataset", word, "--output", tmp_path / "s", "--questions", "1"]
    done = run(*words, "--maps", tmp_path / "x", tmp_path / "y")
    assert done.code == 1 and "no object of asked has a map in all 2 folders" in done.err


def analyse(run, tmp_path, study, answer, *more):
    (tmp_path / "study").mkdir(exist_ok=True)
    key = write_key(tmp_path / "study", study)
    write_files(tmp_path / "answers", study, answer)
    return run("analyse", tmp_path / "answers", "--key", key, "--output", tmp_path / "out", *more)


def test_ranks_give_table_4(run, tmp_path):
    done = analyse(run, tmp_path, make_study(), rank_by(("odam", "drise", "gradcam")))
    assert done.code == 0, done.err
    content = json.loads((tmp_path / "out" / "analysis.json").read_text())
    assert content["table"]["rows"][0] == ["odam", "100.0", "0.0", "0.0", "1.00"]
    assert "12 responses of 4 of 4 participants" in done.out and "Wilcoxon" in done.out
    assert "independent of each other" in (tmp_path / "out" / "analysis.md").read_text()


def test_ranks_and_similarities_give_figure_14(run, tmp_path):
    study = make_study(items=6, participants=6, each=6)
    lines = ["image_id,annotation_id,method,window,cosine,correlation,otd,jsd,task"]
    for i, item in enumerate(study.items):
        lines.append(f"{item.image_id},{item.annotation_id},odam,object,{i / 9},{i / 9},{i / 9},{i / 9},looked freely")
    (tmp_path / "attention.csv").write_text("\n".join(lines) + "\n")
    done = analyse(run, tmp_path, study, random_ranks(), "--similarity", tmp_path / "attention.csv")
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "out" / "analysis.json").read_text())["figure 14"]
    assert found["task"] == "looked freely" and found["cosine"]["count"] == 6 and 0 <= found["cosine"]["p"] <= 1
    assert (tmp_path / "out" / "figure14.png").is_file() and "NOTE: looked freely" in done.out


def test_drawn_boxes_ask_for_a_marker(run, mapped, tmp_path):
    word, folders = mapped
    words = ["make", "--study", "draw", "--dataset", word, "--maps", *folders, "--output", tmp_path / "study"]
    assert run(*words, "--participants", "1", "--questions", "3").code == 0
    study = read_key(tmp_path / "study" / "key.json")
    write_files(tmp_path / "answers", study, lambda question: {"box": [1, 2, 3, 4], "confidence": 2})
    words = ["analyse", tmp_path / "answers", "--key", tmp_path / "study" / "key.json", "--output", tmp_path / "out"]
    done = run(*words)
    assert done.code == 0, done.err
    assert "not marked" in done.out and (tmp_path / "out" / "marker.html").is_file()
    done = run(*words, "--marks", tmp_path / "study" / "key.json")
    assert done.code == 1 and "holds no marks" in done.err


@pytest.mark.parametrize(
    ("more", "culprit"),
    [
        (["--marks", "x.json"], "--marks is about drawn boxes"),
        (["--similarity", "absent.csv"], "there is no file absent.csv"),
        (["--key", "absent.json"], "there is no key absent.json"),
        (["--similarity", "absent.csv", "--method", "dreams"], "unknown method 'dreams'; the study compares"),
    ],
)
def test_each_mistake_in_analysing_is_one_sentence(more, culprit, run, tmp_path):
    done = analyse(run, tmp_path, make_study(), random_ranks(), *more)
    assert done.code == 1 and culprit in done.err and done.err.startswith("error: ") and done.err.count("\n") == 1


def test_power_is_labelled_a_simulation(run, tmp_path):
    done = run("power", "--output", tmp_path / "power.png", "--repeats", "2")
    assert done.code == 0, done.err
    assert "SIMULATION, no people" in done.out and (tmp_path / "power.png").is_file()
    assert run("power", "--repeats", "0").code == 1


def test_analysing_needs_neither_torch_nor_detectron2(tmp_path):
    study = make_study()
    write_key(tmp_path, study)
    write_files(tmp_path / "answers", study, random_ranks())
    code = (
        "import sys\n"
        "from odam_d2.cli.trust import main\n"
        "code = main(sys.argv[1:])\n"
        "print(code, {'torch', 'detectron2', 'cv2'} & set(sys.modules))\n"
    )
    words = ["analyse", tmp_path / "answers", "--key", tmp_path / "key.json", "--output", tmp_path / "out"]
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0 set()", done.stderr
