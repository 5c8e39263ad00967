"""Training with the library's own loss by Detectron2's trainer: every layer learns, runs go on, processes share."""

from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.engine import launch
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

import test_engine
from helpers import random_input
from odam_d2.engine import ODAMTrainer
from test_engine import same_run, tiny_dataset, train
from transformer_networks import KINDS, tiny_detr

pytest.importorskip("transformers", reason="the extra 'transformers' is not installed")

__all__ = ["tiny_dataset"]


def cfg_for(kind, dataset, folder, *opts):
    return test_engine.cfg_for(kind, dataset, folder, "MODEL.TRANSFORMERS.NUM_CLASSES", "1", *opts)


def ground_truth(boxes, classes, size=(96, 128)):
    found = Instances(size)
    found.gt_boxes, found.gt_classes = Boxes(torch.tensor(boxes).view(-1, 4)), torch.tensor(classes).long()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_librarys_own(kind):
    """Ground truth is centre and size in parts of the image; of the padded one where padding is not masked out."""
    detector = tiny_detr(kind)
    batch = [random_input(96, 128, seed=1), random_input(64, 64, seed=2)]
    batch[0]["instances"] = ground_truth([[16.0, 24.0, 48.0, 72.0], [0.0, 0.0, 128.0, 96.0]], [2, 0])
    batch[1]["instances"] = ground_truth([[0.0, 0.0, 32.0, 64.0]], [1], (64, 64))
    first = {"class_labels": torch.tensor([2, 0])}
    first["boxes"] = torch.tensor([[0.25, 0.5, 0.25, 0.5], [0.5, 0.5, 1.0, 1.0]])
    # (16, 32) of 64 x 64, or of the 128 x 96 that both are padded to.
    own = [0.25, 0.5, 0.5, 1.0] if detector.family.masks else [0.125, 1 / 3, 0.25, 2 / 3]
    labels = [first, {"class_labels": torch.tensor([1]), "boxes": torch.tensor([own])}]
    pixels, mask = torch.zeros(2, 3, 96, 128), torch.zeros(2, 96, 128, dtype=torch.long)
    for i, one in enumerate(batch):
        height, width = one["image"].shape[1:]
        pixels[i, :, :height, :width] = (one["image"] - detector.pixel_mean) / detector.pixel_std
        mask[i, :height, :width] = 1
    detector.train()
    for module in detector.modules():
        # Statistics of the batch are the same in both, dropout and noise are not.
        module.p = 0.0 if isinstance(module, torch.nn.Dropout) else getattr(module, "p", None)
    detector.network.config.dropout = 0.0
    torch.manual_seed(0)
    with EventStorage() as storage:
        losses = detector(batch)
        torch.manual_seed(0)
        expected = detector.network(pixel_values=pixels, pixel_mask=mask, labels=labels)
        assert list(losses) == ["loss_detr"] and losses["loss_detr"].item() > 0
        assert losses["loss_detr"].item() == pytest.approx(expected.loss.item(), rel=1e-4)
        name = detector.network.config.model_type
        assert {f"{name}/{part}" for part in expected.loss_dict} <= set(storage.latest())


@pytest.mark.parametrize("kind", ["detr", "rt_detr"])
def test_images_without_objects_are_learned_from(kind):
    detector = tiny_detr(kind).train()
    batch = [random_input(96, 128) | {"instances": ground_truth([], [])}]
    loss = detector(batch)["loss_detr"]
    loss.backward()
    assert torch.isfinite(loss) and any(p.grad is not None and p.grad.any() for p in detector.parameters())


def test_ignore_regions_are_refused(tiny_dataset, tmp_path):
    with pytest.raises(ValueError, match="would learn ignore regions as objects.*IGNORE_REGIONS to False"):
        ODAMTrainer(cfg_for("detr", tiny_dataset, tmp_path, "ODAM.INPUT.IGNORE_REGIONS", "True"))


@pytest.mark.parametrize("kind", ["detr", "rt_detr"])
def test_two_steps_of_training_change_every_layer_and_evaluation_follows(kind, tiny_dataset, tmp_path):
    options = ["ODAM.SOLVER.OPTIMIZER", "ADAMW", "SOLVER.WARMUP_ITERS", "0"]
    cfg = cfg_for(kind, tiny_dataset, tmp_path, *options)
    torch.manual_seed(0)
    trainer = ODAMTrainer(cfg)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    assert not [name for name, p in trainer.model.named_parameters() if torch.equal(p, before[name])]
    results = ODAMTrainer.test(cfg, trainer.model)
    assert 0 <= results["bbox"]["AP50"] <= 100 and (tmp_path / "model_final.pth").exists()


@pytest.mark.parametrize("kind", ["detr", pytest.param("rt_detr", marks=pytest.mark.slow)])
def test_a_run_that_was_killed_goes_on_exactly(kind, tiny_dataset, tmp_path):
    opts = ["SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "2", "SOLVER.WARMUP_ITERS", "2"]
    opts += ["DATASETS.TEST", "()"]
    cfg = cfg_for(kind, tiny_dataset, tmp_path / "killed", *opts)
    torch.manual_seed(0)
    first, _, seed = train(cfg, kill_at=3)
    torch.manual_seed(99)
    second, resumed, kept = train(cfg, resume=True)
    assert min(second) == 2 and max(second) == 3 and kept == seed
    torch.manual_seed(0)
    expected, weights, _ = train(cfg_for(kind, tiny_dataset, tmp_path / "whole", *opts, "SEED", str(seed)))
    same_run((first | second, resumed), (expected, weights))


def test_half_precision_trains(tiny_dataset, tmp_path):
    """As with ``SOLVER.AMP.ENABLED``, whose trainer wants a GPU."""
    detector = tiny_detr("conditional_detr").train()
    batch = [random_input(96, 128) | {"instances": ground_truth([[16.0, 24.0, 48.0, 72.0]], [1])}]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = detector(batch)["loss_detr"]
    loss.backward()
    assert torch.isfinite(loss) and all(
        torch.isfinite(p.grad).all() for p in detector.parameters() if p.grad is not None
    )
    detector.eval()
    plain = detector.observe(batch).trace(0, torch.tensor([0]), torch.tensor([1]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = detector.observe(batch).trace(0, torch.tensor([0]), torch.tensor([1]))
    assert half.boxes.dtype == torch.float32 and torch.allclose(half.boxes, plain.boxes, atol=3.0)


def train_process(kind, folder, opts, images):
    """What each of several processes does; the first leaves its losses and weights."""
    test_engine.register_coco_instances("odam_tiny", {}, f"{images}/tiny.json", images)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    losses, weights, _ = train(cfg_for(kind, "odam_tiny", folder, *opts))
    torch.save({name.removeprefix("module."): v for name, v in weights.items()}, f"{folder}/{comm.get_rank()}.pth")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["detr", "rt_detr"])
def test_two_processes_train_one_model(kind, tiny_dataset, tmp_path):
    opts = ["SOLVER.MAX_ITER", "3", "SOLVER.WARMUP_ITERS", "0", "SEED", "3", "DATASETS.TEST", "()"]
    images = str(Path(DatasetCatalog.get(tiny_dataset)[0]["file_name"]).parent)
    launch(train_process, 2, dist_url="auto", args=(kind, str(tmp_path), opts, images))
    first, second = (torch.load(tmp_path / f"{rank}.pth") for rank in range(2))
    trained = [name for name in first if "running" not in name and "num_batches" not in name]
    assert len(trained) > 50 and all(torch.equal(first[name], second[name]) for name in trained)
