"""Distillation by the trainer: what learns, what is saved, what goes on after a stop, and what several processes do."""

import json
import logging
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import launch
from detectron2.modeling import build_model
from detectron2.utils import comm

import test_engine
from odam_d2.engine import ODAMTrainer
from teaching.conftest import KINDS
from test_engine import same_run, train

tiny_dataset = test_engine.tiny_dataset
ONE_CLASS = [
    *("MODEL.FCOS.NUM_CLASSES", 1),
    *("MODEL.RETINANET.NUM_CLASSES", 1),
    *("MODEL.ROI_HEADS.NUM_CLASSES", 1),
]
PLAIN = {"retinanet": "RetinaNet", "faster_rcnn": "GeneralizedRCNN"}


@pytest.fixture
def make_cfg(tiny_dataset, teacher_weights):
    def make(kind, folder, *opts, teacher=()):
        path, own = teacher_weights(kind, *ONE_CLASS, *teacher)
        named = ["ODAM.KD.TEACHER.WEIGHTS", path, "ODAM.KD.TEACHER.OPTS", own, "SOLVER.WARMUP_ITERS", "0"]
        return test_engine.cfg_for(f"{kind}_odam_kd", tiny_dataset, folder, *named, *opts)

    return make


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("optimizer", ["SGD", "ADAMW"])
def test_student_and_distiller_learn_and_a_plain_detector_takes_the_result(kind, optimizer, make_cfg, tmp_path):
    cfg = make_cfg(kind, tmp_path, "ODAM.SOLVER.OPTIMIZER", optimizer, teacher=("MODEL.FPN.OUT_CHANNELS", 48))
    torch.manual_seed(0)
    trainer = ODAMTrainer(cfg)
    model = trainer._trainer.model
    teacher = {name: value.clone() for name, value in model.teacher.detector.state_dict().items()}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainer.train()
    after = dict(model.named_parameters())
    # The last convolution of a context block is zero at first, and what is before it learns a step later, if at all:
    # a softmax does not see its bias.
    late = ("weigh", "add.0", "add.1")
    early = [name for name in before if not any(f".{part}." in name for part in late)]
    assert any("adapters" in name for name in early) and any("add.3" in name for name in early)
    assert not [name for name in early if torch.equal(after[name], before[name])]
    assert all(torch.equal(value, teacher[name]) for name, value in model.teacher.detector.state_dict().items())
    saved = torch.load(tmp_path / "model_final.pth", weights_only=False)
    plain_cfg = cfg.clone()
    plain_cfg.MODEL.META_ARCHITECTURE = PLAIN.get(kind, cfg.MODEL.META_ARCHITECTURE)
    plain_cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    plain = build_model(plain_cfg)
    plain.load_state_dict(saved["model"])
    assert all(torch.equal(value, after[f"student.{name}"]) for name, value in plain.named_parameters())
    assert set(saved["trainer"]["distiller"]) == set(model.distiller.state_dict())
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    names = {name for line in lines for name in line}
    assert {"loss_distill_foreground", "loss_distill_background", "total_loss", "bbox/AP"} <= names


def test_the_backbones_learning_rate_holds_beside_a_teacher(make_cfg, tmp_path):
    opts = ["ODAM.SOLVER.OPTIMIZER", "ADAMW", "ODAM.SOLVER.BACKBONE_MULTIPLIER", "0.1", "SOLVER.BASE_LR", "0.01"]
    trainer = ODAMTrainer(make_cfg("fcos", tmp_path, *opts))
    rates = {id(p): group["initial_lr"] for group in trainer.optimizer.param_groups for p in group["params"]}
    model = trainer._trainer.model
    assert {rates[id(p)] for p in model.distiller.parameters()} == {0.01}
    assert {rates[id(p)] for p in model.student.backbone.bottom_up.parameters()} == {0.01 * 0.1}
    assert not {id(p) for p in model.teacher.detector.parameters()} & set(rates)


RESUMED = {
    "fcos": ["ODAM.TRAIN.ENABLED", "True", "ODAM.SOLVER.OPTIMIZER", "ADAMW"],
    "retinanet": ["ODAM.INPUT.CROP_SIZE", "0", "ODAM.KD.TEACHER.EVALUATE", "True"],
    "faster_rcnn": [],
}


@pytest.mark.parametrize("kind", ["fcos", *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS[::2])])
def test_a_run_that_was_killed_goes_on_exactly(kind, make_cfg, tmp_path):
    opts = ["SOLVER.MAX_ITER", "6", "SOLVER.CHECKPOINT_PERIOD", "2", *RESUMED[kind]]
    cfg = make_cfg(kind, tmp_path / "killed", *opts)
    torch.manual_seed(0)
    first, _, seed = train(cfg, kill_at=4)
    torch.manual_seed(99)
    second, resumed, kept = train(cfg, resume=True)
    assert (max(first), min(second), max(second)) == (4, 4, 5) and kept == seed
    torch.manual_seed(0)
    losses, weights, _ = train(make_cfg(kind, tmp_path / "whole", *opts, "SEED", str(seed)))
    assert any(name.startswith("distiller.") for name in weights) and "loss_distill_foreground" in losses[0]
    same_run((first | second, resumed), (losses, weights))


def test_a_student_inherits_when_it_begins_and_not_when_it_goes_on(make_cfg, tmp_path):
    cfg = make_cfg("fcos", tmp_path, "SOLVER.MAX_ITER", "2", "SOLVER.CHECKPOINT_PERIOD", "1", "DATASETS.TEST", "()")
    for inherits in (True, False):
        cfg.ODAM.KD.INHERIT = inherits
        trainer = ODAMTrainer(cfg)
        trainer.resume_or_load(resume=False)
        model = trainer._trainer.model
        same = torch.equal(model.student.head.cls_score.weight, model.teacher.detector.head.cls_score.weight)
        assert same == inherits
    cfg.ODAM.KD.INHERIT = True
    trainer.train()
    learned = model.student.head.cls_score.weight.detach().clone()
    trainer = ODAMTrainer(cfg)
    trainer.resume_or_load(resume=True)
    assert torch.equal(trainer._trainer.model.student.head.cls_score.weight, learned)


@pytest.mark.parametrize(
    ("then", "now", "words"),
    [
        ("odam_kd", "", "was trained with another distiller than ODAM.KD.DISTILLER '' now asks for; set ODAM.KD as it"),
        ("", "odam_kd", "was trained without a distiller than ODAM.KD.DISTILLER 'odam_kd'"),
        ("odam_kd", "fkd", "was trained with another distiller than ODAM.KD.DISTILLER 'fkd'"),
    ],
)
def test_a_run_goes_on_with_its_own_distiller_alone(then, now, words, make_cfg, tmp_path):
    opts = ["SOLVER.MAX_ITER", "1", "DATASETS.TEST", "()"]
    train(make_cfg("fcos", tmp_path, *opts, "ODAM.KD.DISTILLER", then))
    trainer = ODAMTrainer(make_cfg("fcos", tmp_path, *opts, "ODAM.KD.DISTILLER", now))
    with pytest.raises(ValueError, match=words):
        trainer.resume_or_load(resume=True)


def test_the_teachers_ap_is_said_once_on_the_students_data(make_cfg, tiny_dataset, tmp_path, caplog):
    cfg = make_cfg("fcos", tmp_path, "ODAM.KD.TEACHER.EVALUATE", "True", "SOLVER.CHECKPOINT_PERIOD", "1")
    with caplog.at_level(logging.INFO, "odam_d2"):
        train(cfg)
    assert caplog.text.count("The teacher: bbox/AP ") == 1
    assert (tmp_path / "teacher" / "inference" / tiny_dataset / "coco_instances_results.json").is_file()
    caplog.clear()
    cfg.SOLVER.MAX_ITER = 3
    with caplog.at_level(logging.INFO, "odam_d2"):
        train(cfg, resume=True)
    assert "The teacher: " not in caplog.text


def test_for_evaluation_no_teacher_is_needed(make_cfg, tmp_path):
    cfg = make_cfg("fcos", tmp_path)
    cfg.ODAM.KD.TEACHER.WEIGHTS = "absent.pth"
    model = ODAMTrainer.build_model(cfg)
    assert type(model).__name__ == "ODAMFCOS"
    assert 0 <= ODAMTrainer.test(cfg, model)["bbox"]["AP50"] <= 100


def train_process(cfg, images):
    """What each of several processes does; the first leaves what it learned."""
    register_coco_instances("odam_tiny", {}, f"{images}/tiny.json", images)
    torch.set_num_threads(1)
    torch.manual_seed(comm.get_rank())
    _, weights, _ = train(cfg)
    every = comm.all_gather(weights)
    assert all(torch.equal(value, other[name]) for other in every for name, value in weights.items())
    if comm.is_main_process():
        torch.save(
            {name.removeprefix("module."): value for name, value in weights.items()}, f"{cfg.OUTPUT_DIR}/all.pth"
        )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fcos", "retinanet"])
def test_two_processes_learn_what_one_does(kind, make_cfg, tiny_dataset, tmp_path):
    opts = ["SOLVER.MAX_ITER", "3", "SEED", "3", "SOLVER.IMS_PER_BATCH", "4", "DATASETS.TEST", "()"]
    opts += ["DATALOADER.ASPECT_RATIO_GROUPING", "False"]
    # Otherwise each process divides the detector's own losses by its own number of positives.
    opts += ["ODAM.TRAIN.ENABLED", "True"]
    images = str(Path(DatasetCatalog.get(tiny_dataset)[0]["file_name"]).parent)
    # The teacher is made with the first of them, by random numbers.
    one, two = (make_cfg(kind, tmp_path / name, *opts) for name in ("one", "two"))
    torch.manual_seed(0)
    _, expected, _ = train(one)
    (tmp_path / "two").mkdir()
    launch(train_process, 2, dist_url="auto", args=(two, images))
    found = torch.load(tmp_path / "two" / "all.pth")
    assert set(found) == set(expected) and any(name.startswith("distiller.") for name in found)
    for name, value in expected.items():
        near = 1e-3 * float(value.abs().max())
        assert torch.allclose(found[name], value, rtol=1e-3, atol=0.1 * near + 1e-7), name
