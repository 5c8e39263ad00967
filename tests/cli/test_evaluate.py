"""``odam evaluate``: its results, and what it says when something is wrong."""

import json
import os
import subprocess
import sys

import pytest
import torch

from evaluation.explained import DETECTED, make_predictor, register, unregister, write_dataset
from odam_d2.cli.common import make_table, print_table
from odam_d2.cli.evaluate import main, summary_table
from odam_d2.evaluation.study.run import ExplanationEvaluator
from odam_d2.evaluation.study.settings import METRICS, ExplanationSettings

NAME = "odam_commanded"


@pytest.fixture(scope="module")
def dataset(quick_weights, tmp_path_factory):
    """The quick detector's own detections."""
    folder = tmp_path_factory.mktemp("datasets") / "coco_mini"
    folder.mkdir()
    path = write_dataset(folder / "val2017", make_predictor("fcos", quick_weights("fcos")))
    register(NAME, path)
    yield path
    unregister(NAME)


@pytest.fixture
def run(dataset, call):
    def call_main(*words):
        done = call(main, *words)
        return done.code, done.out, done.err

    return call_main


def command(weights, output, *more, dataset=NAME):
    base = ["--config-file", "configs/quick/fcos.yaml", "--dataset", dataset, "--output", output]
    return [*base, "--score-threshold", "0", *more, "--opts", "MODEL.WEIGHTS", weights]


def test_one_command_measures_and_another_scores_the_maps_it_saved(run, quick_weights, tmp_path):
    weights = quick_weights("fcos")
    code, out, err = run(*command(weights, tmp_path / "own", "--methods", "odam,gradcam", "--save-maps"))
    assert code == 0 and not err, err
    assert "6 objects in 3 of 3 images" in out and "index.html" in out
    own = json.loads((tmp_path / "own" / "summary.json").read_text())
    assert set(own) == {"odam", "gradcam", "counts"} and own["counts"]["objects"] == sum(DETECTED)
    folder = tmp_path / "own" / "maps" / "odam"
    (folder / "1_10.npy").unlink()
    code, out, err = run(*command(weights, tmp_path / "again", "--maps", folder, "--metrics", "enpg_box"))
    assert code == 0 and "odam: 1 of 6 maps are missing" in out, err
    again = json.loads((tmp_path / "again" / "summary.json").read_text())
    assert set(again) == {"odam", "counts"} and set(again["odam"]) == {"enpg_box"}


def test_the_config_governs_and_an_option_comes_before_it(run, quick_weights, tmp_path):
    opts = ["ODAM.EXPLAIN.SMOOTHING", "gaussian", "ODAM.EXPLAIN.LAYER", "res4"]
    words = command(quick_weights("fcos"), tmp_path / "out", "--methods", "odam", "--layer", "res3")
    code, _, err = run(*words, *opts)
    assert code == 0, err
    explain = json.loads((tmp_path / "out" / "settings.json").read_text())["explain"]
    assert (explain["smoothing"], explain["layer"], explain["path"]) == ("gaussian", "res3", "exact")


def test_nothing_well_detected_is_said_with_all_files_written(run, quick_weights, tmp_path):
    words = command(quick_weights("fcos"), tmp_path, "--methods", "odam", "--score-threshold", "0.9")
    code, out, err = run(*words)
    assert code == 1 and not err
    assert "no object was detected well enough" in out and "3 images with 9 objects" in out
    names = {"objects.csv", "summary.json", "tables.md", "curves.json", "index.html"}
    assert names <= {path.name for path in tmp_path.iterdir()}


def test_no_heading_is_broken_inside_a_word(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    settings = ExplanationSettings(methods=("odam", "gradcam++"), metrics=tuple(METRICS))
    means = {"odam": dict.fromkeys(METRICS, 0.5), "gradcam++": dict.fromkeys(METRICS)}
    print_table(summary_table(settings, means | {"counts": {"objects": 3, "with_explained": 2, "images": 9}}))
    title, first, second, rule, odam, gradcam = capsys.readouterr().out.splitlines()
    assert title.strip() == "3 objects in 2 of 9 images" and set(rule) == {"─"} and len(rule) <= 80
    assert first.split() == ["PG", "PG", "enPG", "enPG", "Comp.", "ODI", "ODI", "VEA", "Deletion", "Insertion"]
    words = ["box ↑", "mask ↑", "box ↑", "mask ↑", "↓", "box ↓", "mask ↓", "↑", "↓", "↑"]
    assert second.split() == ["method", *" ".join(words).split()]
    assert odam.split()[:6] == ["odam", "0.5", "0.5", "0.5", "0.5", "0.50"] and gradcam.split()[1:] == ["–"] * 10


def test_a_table_wider_than_the_terminal_keeps_its_lines(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    print_table(make_table("", ["method", "a long heading"], [["x" * 50, "1"]]))
    assert [line.split() for line in capsys.readouterr().out.splitlines()[-1:]] == [["x" * 50, "1"]]


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        (["--methods", "lime"], "unknown method 'lime'; valid methods are odam"),
        (["--metrics", "pg"], "unknown metric 'pg'; valid metrics are pg_box"),
        (["--dataset", "absent"], f"unknown dataset 'absent'; those with files here are {NAME}"),
        (["--dataset", "coco_2017_val"], "instances_val2017.json; set DETECTRON2_DATASETS"),
        (["--dataset", "synthetic_crowd_val2_coco"], "make_synthetic_crowd.py"),
        (["--layer", "res9"], "'res9'"),
        (["--maps", "absent"], "there is no folder of maps absent"),
        (["--iou-threshold", "2"], "iou_threshold is 2.0"),
        (["--batch", "0"], "batch is 0"),
    ],
)
def test_each_mistake_is_one_sentence_that_names_the_culprit(
    change, culprit, run, quick_weights, tmp_path, monkeypatch
):
    monkeypatch.setattr("detectron2.data.DatasetCatalog.list", lambda: [NAME, "coco_2017_val"])
    code, out, err = run(*command(quick_weights("fcos"), tmp_path / "out", "--methods", "odam", *change))
    assert code == 1 and not out
    assert culprit in err and err.startswith("error: ") and err.count("\n") == 1, err
    assert not (tmp_path / "out").exists()


def test_a_folder_with_results_of_other_settings_is_refused(run, quick_weights, tmp_path):
    weights = quick_weights("fcos")
    assert run(*command(weights, tmp_path, "--methods", "odam", "--max-images", "1"))[0] == 0
    before = (tmp_path / "summary.json").read_text()
    code, _, err = run(*command(weights, tmp_path, "--methods", "odam"))
    assert code == 1 and "holds results with max_images 1, not None" in err and err.count("\n") == 1
    assert (tmp_path / "summary.json").read_text() == before


def test_ctrl_c_keeps_what_is_finished_and_the_same_command_goes_on(run, quick_weights, tmp_path, monkeypatch):
    words = command(quick_weights("fcos"), tmp_path, "--methods", "odam")
    process = ExplanationEvaluator.process

    def interrupted(self, inputs, outputs=()):
        if inputs[0]["image_id"] == "2":
            raise KeyboardInterrupt
        process(self, inputs, outputs)

    with monkeypatch.context() as patch:
        patch.setattr(ExplanationEvaluator, "process", interrupted)
        code, _, err = run(*words)
    assert code == 130 and "goes on from here" in err
    finished = (tmp_path / "parts" / "0.jsonl").read_text()
    assert finished.count("\n") == 1
    code, out, err = run(*words)
    assert code == 0 and "6 objects in 3 of 3 images" in out, err
    assert (tmp_path / "parts" / "0.jsonl").read_text().startswith(finished)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.device_count() == 1, reason="Detectron2 launches one process for each GPU")
def test_several_processes_end_with_the_results_or_with_one_sentence(dataset, quick_weights, tmp_path):
    # A process of its own knows the datasets that the command registers.
    root = dataset.parents[1]
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_val2017.json").write_text(dataset.read_text())
    settings = {"COLUMNS": "200", "DETECTRON2_DATASETS": str(root.parent)}

    def run(output, method):
        words = command(quick_weights("fcos"), output, "--methods", method, "--num-gpus", "2", dataset="coco_mini_val")
        line = [sys.executable, "-m", "odam_d2.cli", "evaluate", *map(str, words)]
        return subprocess.run(line, capture_output=True, text=True, timeout=600, env={**os.environ, **settings})

    done = run(tmp_path / "out", "odam")
    assert done.returncode == 0 and "6 objects in 3 of 3 images" in done.stdout, done.stderr
    done = run(tmp_path / "none", "lime")
    assert done.returncode == 1 and done.stderr.count("error: unknown method 'lime'") == 1
    assert "Traceback" not in done.stderr
