"""Training: every layer learns, the optimiser is the one asked for, evaluation is COCO's."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import launch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from PIL import Image
from tensorboard.backend.event_processing import event_accumulator
from torch import nn

from helpers import small_cfg
from odam_d2.data.train_loader import seed_generators
from odam_d2.engine import ODAMTrainer


@pytest.fixture(scope="module")
def tiny_dataset(tmp_path_factory):
    """Three wide grey photographs and a high one, with a white square each, registered in COCO form."""
    folder = tmp_path_factory.mktemp("tiny")
    images, annotations = [], []
    for i in range(4):
        height, width = (96, 128) if i < 3 else (128, 96)
        photo = np.full((height, width, 3), 60, np.uint8)
        x, y, side = 10 + 15 * i, 8 + 10 * i, 40
        photo[y : y + side, x : x + side] = 255
        Image.fromarray(photo).save(folder / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": height, "width": width})
        box = {"id": i + 1, "image_id": i, "category_id": 1, "iscrowd": 0, "bbox": [x, y, side, side]}
        annotations.append({**box, "area": side * side})
    classes = [{"id": 1, "name": "square"}]
    content = {"info": {}, "images": images, "annotations": annotations, "categories": classes}
    (folder / "tiny.json").write_text(json.dumps(content))
    register_coco_instances("odam_tiny", {}, str(folder / "tiny.json"), str(folder))
    yield "odam_tiny"
    DatasetCatalog.remove("odam_tiny")
    MetadataCatalog.remove("odam_tiny")


def cfg_for(kind, dataset, folder, *opts):
    names = ["DATASETS.TRAIN", f"('{dataset}',)", "DATASETS.TEST", f"('{dataset}',)", "OUTPUT_DIR", str(folder)]
    classes = ["MODEL.FCOS.NUM_CLASSES", "1", "MODEL.ROI_HEADS.NUM_CLASSES", "1", "MODEL.RETINANET.NUM_CLASSES", "1"]
    return small_cfg(kind, [*names, *classes, "ODAM.INPUT.CROP_SIZE", "96", "ODAM.INPUT.MOSAIC_PROB", "0.5", *opts])


@pytest.mark.parametrize("kind", ["fcos", "retinanet", "faster_rcnn"])
@pytest.mark.parametrize("optimizer", ["SGD", "ADAMW"])
def test_two_steps_of_training_change_every_layer_and_evaluation_follows(kind, optimizer, tiny_dataset, tmp_path):
    cfg = cfg_for(kind, tiny_dataset, tmp_path, "ODAM.SOLVER.OPTIMIZER", optimizer, "SOLVER.WARMUP_ITERS", "0")
    torch.manual_seed(0)
    trainer = ODAMTrainer(cfg)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    frozen = [name for name, p in trainer.model.named_parameters() if torch.equal(p, before[name])]
    assert not frozen
    results = ODAMTrainer.test(cfg, trainer.model)
    assert 0 <= results["bbox"]["AP50"] <= 100
    assert (tmp_path / "model_final.pth").exists()


class Killed(BaseException):
    """The end of a process, as far as it can be had in a test."""


def train(cfg, resume=False, kill_at=None):
    """Losses by iteration, the weights at the end and the seed of a run; it may be killed within an iteration."""
    trainer = ODAMTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    losses = {}

    def remember(module, args, output):
        if not module.training:
            return
        losses[trainer.iter] = {name: value.item() for name, value in output.items()}
        if trainer.iter == kill_at:
            raise Killed

    handle = trainer._trainer.model.register_forward_hook(remember)
    try:
        trainer.train()
    except Killed:
        pass
    handle.remove()
    return losses, trainer._trainer.model.state_dict(), trainer.seed


def same_run(found, expected):
    """Two runs have the same losses and weights, but for last bits: PyTorch's sums depend on where numbers lie."""
    losses, weights = expected
    assert set(found[0]) == set(losses)
    for iteration, values in losses.items():
        assert found[0][iteration] == pytest.approx(values, rel=1e-5, abs=1e-7), iteration
    for name, value in weights.items():
        assert torch.allclose(found[1][name], value, rtol=1e-5, atol=1e-6 * float(value.abs().max()) + 1e-9), name


RESUMED = {
    "fcos": ["ODAM.TRAIN.ENABLED", "True"],
    "retinanet": ["ODAM.INPUT.CROP_SIZE", "0", "SOLVER.IMS_PER_BATCH", "3"],
    "faster_rcnn": ["ODAM.TRAIN.ENABLED", "True", "DATALOADER.NUM_WORKERS", "2"],
}


@pytest.mark.parametrize(
    "kind",
    ["fcos", pytest.param("retinanet", marks=pytest.mark.slow), pytest.param("faster_rcnn", marks=pytest.mark.slow)],
)
def test_a_run_that_was_killed_goes_on_exactly(kind, tiny_dataset, tmp_path):
    opts = ["SOLVER.MAX_ITER", "8", "SOLVER.CHECKPOINT_PERIOD", "2", "SOLVER.WARMUP_ITERS", "2", *RESUMED[kind]]
    folder = tmp_path / "killed"
    cfg = cfg_for(kind, tiny_dataset, folder, *opts)
    torch.manual_seed(0)
    first, _, seed = train(cfg, kill_at=5)
    assert max(first) == 5 and (folder / "last_checkpoint").read_text() == "model_0000003.pth"
    # What was being written when the process died.
    (folder / "model_0000005.pth").write_bytes(b"half a checkpoint")
    (folder / "last_checkpoint.1.part").write_text("")
    torch.manual_seed(99)
    second, _, _ = train(cfg, resume=True, kill_at=6)
    torch.manual_seed(100)
    third, resumed, kept = train(cfg, resume=True)
    assert (min(second), min(third), max(third)) == (4, 6, 7) and kept == seed
    torch.manual_seed(0)
    expected, weights, _ = train(cfg_for(kind, tiny_dataset, tmp_path / "whole", *opts, "SEED", str(seed)))
    same_run((first | second | third, resumed), (expected, weights))


def test_a_loss_that_is_no_number_ends_training_with_what_to_look_at(tiny_dataset, tmp_path):
    cfg = cfg_for("fcos", tiny_dataset, tmp_path, "SOLVER.MAX_ITER", "5", "ODAM.TRAIN.ENABLED", "True", "SEED", "3")
    trainer = ODAMTrainer(cfg)
    step = trainer.run_step

    def spoil():
        if trainer.iter == 2:
            torch.nn.init.constant_(trainer.model.head.cls_score.weight, float("nan"))
        step()

    trainer.run_step = spoil
    message = r"iteration 2: loss_fcos_cls nan, .*loss_odam_con nan, loss_odam_sep nan, on the images \d, \d; lower"
    with pytest.raises(FloatingPointError, match=message):
        trainer.train()


CASCADE = ("MODEL.ROI_HEADS.NAME", "ODAMCascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True")


@pytest.mark.parametrize(("part", "opts"), [("proposal_generator", ()), ("roi_heads", CASCADE)])
def test_what_detectron2_finds_to_be_no_number_is_told_with_what_to_look_at(part, opts, tiny_dataset, tmp_path):
    opts = ("SOLVER.MAX_ITER", "5", "SEED", "3", *opts)
    trainer = ODAMTrainer(cfg_for("faster_rcnn", tiny_dataset, tmp_path, *opts))
    step = trainer.run_step

    def spoil():
        if trainer.iter == 2:
            own = getattr(trainer.model, part)
            layer = own.rpn_head.anchor_deltas if part == "proposal_generator" else own.box_predictor[0].bbox_pred
            torch.nn.init.constant_(layer.weight, float("nan"))
        step()

    trainer.run_step = spoil
    with pytest.raises(FloatingPointError, match=r"iteration 2: .*NaN.*, on the images \d, \d; lower SOLVER.BASE_LR"):
        trainer.train()


def test_odam_train_is_refused_where_nothing_would_do_it():
    for opts, words in (
        (["MODEL.ROI_HEADS.NAME", "StandardROIHeads"], "ODAMRCNN with StandardROIHeads would be trained without"),
        (["MODEL.META_ARCHITECTURE", "RetinaNet"], "RetinaNet would be trained without"),
    ):
        kind = "faster_rcnn" if "ROI" in opts[0] else "retinanet"
        with pytest.raises(ValueError, match=f"ODAM.TRAIN.ENABLED is True, and {words} its losses; use odam_d2's own"):
            ODAMTrainer.build_model(small_cfg(kind, [*opts, "ODAM.TRAIN.ENABLED", "True"]))
        ODAMTrainer.build_model(small_cfg(kind, opts))


def at_first(trainer):
    """Losses of the first images, and the precisions in which convolutions gave them."""
    kinds, (data,) = set(), [next(iter(trainer.data_loader))]
    hooks = [
        module.register_forward_hook(lambda module, args, output: kinds.add(output.dtype))
        for module in trainer.model.modules()
        if isinstance(module, nn.Conv2d)
    ]
    with EventStorage(0), trainer.mixed_precision():
        losses = trainer.model(data)
    for hook in hooks:
        hook.remove()
    return {name: value.item() for name, value in losses.items()}, kinds, losses


@pytest.mark.parametrize("kind", ["fcos", "retinanet", "faster_rcnn", "fcos_odam_train", "faster_rcnn_odam_train"])
def test_on_a_cpu_mixed_precision_is_bfloat16_with_losses_in_full(kind, tiny_dataset, tmp_path):
    found = []
    for mixed in ("False", "True"):
        torch.manual_seed(0)
        opts = ["SOLVER.AMP.ENABLED", mixed, "SEED", "3", "SOLVER.MAX_ITER", "2"]
        trainer = ODAMTrainer(cfg_for(kind, tiny_dataset, tmp_path / mixed, *opts))
        seed_generators(3, 0)
        found.append(at_first(trainer))
    (full, kinds, _), (half, half_kinds, losses) = found
    assert kinds == {torch.float32} and half_kinds == {torch.bfloat16}
    assert {value.dtype for value in losses.values()} == {torch.float32}
    # bfloat16 has 8 bits: each layer rounds by less than .4 %.
    assert half == pytest.approx(full, rel=0.05, abs=0.02)
    trainer.train()
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    # Nothing of it is left when the detector is measured.
    with torch.no_grad():
        assert not torch.is_autocast_enabled("cpu")
    assert 0 <= ODAMTrainer.test(trainer.cfg, trainer.model)["bbox"]["AP50"] <= 100


def test_adamw_trains_the_backbone_more_slowly():
    model = nn.ModuleDict({"backbone": nn.ModuleDict({"bottom_up": nn.Linear(2, 2)}), "head": nn.Linear(2, 2)})
    opts = ["ODAM.SOLVER.OPTIMIZER", "ADAMW", "ODAM.SOLVER.BACKBONE_MULTIPLIER", "0.1", "SOLVER.BASE_LR", "0.01"]
    optimizer = ODAMTrainer.build_optimizer(small_cfg("fcos", opts), model)
    assert isinstance(optimizer, torch.optim.AdamW)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert {rates[id(p)] for p in model["backbone"].parameters()} == {0.01 * 0.1}
    assert {rates[id(p)] for p in model["head"].parameters()} == {0.01}


def test_unknown_optimizer_is_named():
    with pytest.raises(ValueError, match="'LION'.*SGD, ADAMW"):
        ODAMTrainer.build_optimizer(small_cfg("fcos", ["ODAM.SOLVER.OPTIMIZER", "LION"]), nn.Linear(1, 1))


def train_process(kind, folder, opts, images):
    """What each of several processes does; the first leaves its weights."""
    register_coco_instances("odam_tiny", {}, f"{images}/tiny.json", images)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    losses, weights, _ = train(cfg_for(kind, "odam_tiny", folder, *opts))
    if comm.is_main_process():
        torch.save({name.removeprefix("module."): value for name, value in weights.items()}, f"{folder}/weights.pth")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fcos", "retinanet", "faster_rcnn"])
def test_two_processes_end_with_the_weights_of_one(kind, tiny_dataset, tmp_path):
    opts = ["ODAM.TRAIN.ENABLED", "True", "SOLVER.MAX_ITER", "4", "SOLVER.WARMUP_ITERS", "0", "SEED", "3"]
    opts += ["SOLVER.IMS_PER_BATCH", "4", "DATALOADER.ASPECT_RATIO_GROUPING", "False", "DATASETS.TEST", "()"]
    # A sample of regions would be drawn by each process for its own images; here all of them are taken.
    opts += ["MODEL.RPN.BATCH_SIZE_PER_IMAGE", "20000", "MODEL.RPN.POSITIVE_FRACTION", "1.0"]
    opts += ["MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "60", "MODEL.ROI_HEADS.POSITIVE_FRACTION", "1.0"]
    opts += ["MODEL.ROI_HEADS.IOU_THRESHOLDS", "[0.02]"]
    images = str(Path(DatasetCatalog.get(tiny_dataset)[0]["file_name"]).parent)
    torch.manual_seed(0)
    losses, expected, _ = train(cfg_for(kind, tiny_dataset, tmp_path / "one", *opts))
    assert losses[0]["loss_odam_sep"] + losses[0]["loss_odam_con"] > 0
    folder = tmp_path / "two"
    folder.mkdir()
    launch(train_process, 2, dist_url="auto", args=(kind, str(folder), opts, images))
    found = torch.load(folder / "weights.pth")
    assert set(found) == set(expected)
    # Faster R-CNN's losses are means over the regions of a process, of which NMS leaves images different numbers.
    tolerance = 0.02 if kind == "faster_rcnn" else 1e-3
    for name, value in expected.items():
        near = tolerance * float(value.abs().max())
        assert torch.allclose(found[name], value, rtol=tolerance, atol=0.1 * near + 1e-7), name


@pytest.mark.parametrize("kind", ["fcos", pytest.param("faster_rcnn", marks=pytest.mark.slow)])
def test_maps_are_measured_and_shown_while_a_detector_trains_and_change_nothing(kind, tiny_dataset, tmp_path):
    opts = ["SOLVER.MAX_ITER", "4", "TEST.EVAL_PERIOD", "2", "SEED", "3", "MODEL.FCOS.SCORE_THRESH_TEST", "0.0"]
    opts += ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", "TEST.DETECTIONS_PER_IMAGE", "100"]
    torch.manual_seed(0)
    expected, weights, _ = train(cfg_for(kind, tiny_dataset, tmp_path / "plain", *opts))
    folder = tmp_path / "shown"
    torch.manual_seed(0)
    losses, found, _ = train(cfg_for(kind, tiny_dataset, folder, *opts, "ODAM.TRAIN.EXPLAINED_IMAGES", "3"))
    same_run((losses, found), (expected, weights))
    report = json.loads((folder / "inference" / "maps" / "summary.json").read_text())
    assert report["counts"]["images"] == 3
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    assert "maps/enpg_box" in lines[-1] and "bbox/AP50" in lines[-1]
    (events,) = folder.glob("events.out.tfevents.*")
    seen = event_accumulator.EventAccumulator(str(events), {"images": 0}).Reload()
    assert {one.step for one in seen.Images("maps")} == {1, 4}
    picture = Image.open(io.BytesIO(seen.Images("maps")[0].encoded_image_string))
    assert picture.mode == "RGB" and min(picture.size) > 100
