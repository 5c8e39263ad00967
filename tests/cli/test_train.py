"""``odam train``: which datasets it takes for what, and what it refuses before any work."""

import os
import subprocess
import sys

import pytest
import torch

from odam_d2.cli.train import main, parse_arguments, read_training_config
from own_data import write_coco, write_odgt, write_voc

PETS = ["MODEL.FCOS.NUM_CLASSES", "2"]


@pytest.fixture
def pets(tmp_path):
    """Splits of a VOC folder with cats and dogs, without a name."""
    objects = {"a": [("dog", (1, 2, 30, 40), 0)], "b": [("cat", (5, 5, 29, 39), 0)]}
    folder = write_voc(tmp_path / "pets", objects, {"train": ["a", "b"], "val": ["b"]})
    return {split: f"voc:{folder}:{split}" for split in ("train", "val")}


@pytest.fixture
def read(catalogs):
    """The words of a command line -> its config."""
    return lambda *words: read_training_config(parse_arguments([*map(str, words)]))


def words(*more, opts=PETS):
    return ["--config-file", "quick/fcos.yaml", *more, *opts]


def test_datasets_of_the_command_line_are_for_training_and_for_testing(read, pets):
    both = ["--dataset", f"mine={pets['train']}", "--test-dataset", f"mine_val={pets['val']}"]
    cfg = read(*words(*both))
    assert cfg.DATASETS.TRAIN == ("mine",) and cfg.DATASETS.TEST == ("mine_val",)
    assert cfg.ODAM.DATASETS == [f"mine={pets['train']}", f"mine_val={pets['val']}"]
    assert cfg.MODEL.FCOS.NUM_CLASSES == 2


def test_several_datasets_are_trained_on_together(read, pets):
    several = ["--dataset", f"mine={pets['train']}", "--dataset", f"more={pets['val']}"]
    cfg = read(*words(*several))
    # Nobody named test data, and those of the config are of other classes.
    assert cfg.DATASETS.TRAIN == ("mine", "more") and cfg.DATASETS.TEST == ()


def test_to_evaluate_a_dataset_is_test_data(read, pets):
    cfg = read(*words("--eval-only", "--dataset", f"mine={pets['val']}"))
    assert cfg.DATASETS.TEST == ("mine",) and cfg.DATASETS.TRAIN == ()
    cfg = read(*words("--eval-only", "--dataset", f"mine={pets['val']}", "--test-dataset", f"more={pets['train']}"))
    assert cfg.DATASETS.TEST == ("mine", "more")


def test_test_data_alone_leave_the_configs_training_data(read, pets):
    own = ["ODAM.DATASETS", f"['mine={pets['train']}']", "DATASETS.TRAIN", "('mine',)"]
    cfg = read(*words("--test-dataset", f"mine_val={pets['val']}", opts=[*PETS, *own]))
    assert cfg.DATASETS.TRAIN == ("mine",) and cfg.DATASETS.TEST == ("mine_val",)


def test_a_config_alone_is_used_as_it_is(read):
    cfg = read("--config-file", "demo/fcos_nanodet_g.yaml")
    assert cfg.DATASETS.TRAIN == ("coco_mini_train", "osie_pseudo") and cfg.DATASETS.TEST == ("coco_mini_more_val",)
    assert cfg.ODAM.DATASETS == []


def test_the_config_of_a_run_reads_as_it_was_written(read, pets, tmp_path):
    cfg = read(*words("--dataset", f"mine={pets['train']}", "--test-dataset", f"mine_val={pets['val']}"))
    (tmp_path / "config.yaml").write_text(cfg.dump())
    again = read("--eval-only", "--config-file", tmp_path / "config.yaml")
    assert again.ODAM == cfg.ODAM and again.DATASETS == cfg.DATASETS and again.MODEL.FCOS == cfg.MODEL.FCOS


def test_mistakes_are_one_sentence_before_any_work(call, pets, tmp_path):
    mine, mine_val = f"mine={pets['train']}", f"mine_val={pets['val']}"
    people = "people=" + write_odgt(tmp_path / "people", {"1": [(1, 2, 10, 20)]})
    swapped = "swapped=" + write_coco(tmp_path / "swapped", {0: "dog", 1: "cat"}, [(0, 1, 2, 10, 20)])
    output = ["OUTPUT_DIR", str(tmp_path / "out")]
    refused = {
        "the dataset mine has 2 classes (cat, dog), and the detector has 80; set MODEL.FCOS.NUM_CLASSES to 2, or": (
            words("--dataset", mine, opts=output)
        ),
        "the dataset mine_val has 2 classes (cat, dog), and the detector has 80; set": (
            words("--eval-only", "--dataset", mine_val, opts=output)
        ),
        "the dataset people has 1 class (person), and the detector has 2; set MODEL.FCOS.NUM_CLASSES to 1": (
            words("--dataset", mine, "--test-dataset", people, opts=[*PETS, *output])
        ),
        "the dataset swapped has 2 classes (dog, cat), and mine has 2 classes (cat, dog); they must have": (
            words("--dataset", mine, "--test-dataset", swapped, opts=[*PETS, *output])
        ),
        "the dataset coco_mini_more_val has 80 classes (person, bicycle, car, motorcycle, airplane, ...), and the d": (
            ["--config-file", "demo/fcos_nanodet_g.yaml", "--eval-only", *PETS, *output]
        ),
        "MODEL.DEVICE is 'tpu', and PyTorch has no such device": words(opts=["MODEL.DEVICE", "tpu", *output]),
        "DATASETS.TRAIN is empty; name a dataset with --dataset": words(opts=output),
        "DATASETS.TEST is empty; name a dataset with --dataset": words("--eval-only", opts=output),
        "unknown dataset 'mine'; ": words("--dataset", "mine", opts=output),
        "there is no annotation file absent.json; ": words("--dataset", "mine=absent.json:images", opts=output),
        "'absent.json' names no folder of images": words("--dataset", "mine=absent.json", opts=output),
    }
    for said, line in refused.items():
        done = call(main, *line)
        assert done.code == 1 and not done.out, said
        assert done.err.startswith(f"error: {said}") or said in done.err, done.err
        assert done.err.count("\n") == 1 and done.err.startswith("error: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("line", [[], ["--config-file", "quick/fcos.yaml", "--data", "x"]])
def test_a_missing_config_and_an_abbreviation_end_with_the_usage(line, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(line)
    assert stopped.value.code == 2 and capsys.readouterr().err.startswith("usage: odam train ")


def test_the_help_says_what_a_word_may_be(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "mine=ann.json:images/" in out and "--test-dataset NAME" in out and "mine=voc:folder/:train" in out


@pytest.mark.slow
def test_weights_of_other_classes_are_trained_on_and_no_test_data_are_needed(pets, tmp_path):
    # FCOS, with test data: tests/docs/test_your_data.py.
    opts = "MODEL.ROI_HEADS.NUM_CLASSES 2 SOLVER.MAX_ITER 1 SOLVER.IMS_PER_BATCH 2 ODAM.INPUT.CROP_SIZE 96 OUTPUT_DIR"
    line = ["--config-file", "demo/faster_rcnn_nanodet_g.yaml", "--dataset", f"mine={pets['train']}", *opts.split()]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "odam_d2.cli", "train", *line, str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    for name, shape in (("cls_score", 81), ("bbox_pred", 320)):
        assert f"{name}.weight' to the model due to incompatible shapes: ({shape}," in done.stdout
    assert {"model_final.pth", "config.yaml"} <= {path.name for path in (tmp_path / "out").iterdir()}


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.device_count() == 1, reason="Detectron2 launches one process for each GPU")
def test_several_processes_end_with_one_sentence(pets, tmp_path):
    line = words("--num-gpus", "2", "--dataset", f"mine={pets['train']}", opts=["OUTPUT_DIR", str(tmp_path / "out")])
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "odam_d2.cli", "train", *line]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert (
        done.returncode == 1 and done.stderr.count("error: the dataset mine has 2 classes (cat, dog), and the det") == 1
    )
    assert "Traceback" not in done.stderr and not (tmp_path / "out").exists()
