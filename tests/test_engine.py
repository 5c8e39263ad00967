"""Training: every layer learns, the optimiser is the one asked for, evaluation is COCO's."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.data.datasets import register_coco_instances
from PIL import Image
from torch import nn

from helpers import small_cfg
from odam_d2.engine import ODAMTrainer


@pytest.fixture(scope="module")
def tiny_dataset(tmp_path_factory):
    """Four grey photographs with a white square each, registered in COCO form."""
    folder = tmp_path_factory.mktemp("tiny")
    images, annotations = [], []
    for i in range(4):
        photo = np.full((96, 128, 3), 60, np.uint8)
        x, y, side = 10 + 15 * i, 8 + 10 * i, 40
        photo[y : y + side, x : x + side] = 255
        Image.fromarray(photo).save(folder / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": 96, "width": 128})
        box = {"id": i + 1, "image_id": i, "category_id": 1, "iscrowd": 0, "bbox": [x, y, side, side]}
        annotations.append({**box, "area": side * side})
    classes = [{"id": 1, "name": "square"}]
    content = {"info": {}, "images": images, "annotations": annotations, "categories": classes}
    (folder / "tiny.json").write_text(json.dumps(content))
    register_coco_instances("odam_tiny", {}, str(folder / "tiny.json"), str(folder))
    yield "odam_tiny"
    DatasetCatalog.remove("odam_tiny")


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
