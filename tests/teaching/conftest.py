"""Random teachers on disk, and students beside them."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from helpers import random_input, small_cfg
from odam_d2.teaching import distilling

KINDS = ("retinanet", "fcos", "faster_rcnn")
OBJECTS = [[10.0, 10.0, 60.0, 70.0], [80.0, 30.0, 140.0, 90.0], [30.0, 20.0, 90.0, 80.0]]
CLASSES = [
    *("MODEL.FCOS.NUM_CLASSES", 3),
    *("MODEL.RETINANET.NUM_CLASSES", 3),
    *("MODEL.ROI_HEADS.NUM_CLASSES", 3),
]


def with_scores(model):
    """The same random network with scores that differ, and boxes that have a size."""
    predictor = model.roi_heads.box_predictor if hasattr(model, "roi_heads") else model.head
    torch.nn.init.normal_(predictor.cls_score.weight, std=0.5)
    torch.nn.init.zeros_(predictor.cls_score.bias)
    if hasattr(model, "head") and hasattr(model.head, "ctrness"):
        torch.nn.init.constant_(model.head.bbox_pred.bias, 3.5)
    return model


def with_objects(boxes=(), seed=0, size=(100, 150)):
    found = Instances(size)
    found.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).view(-1, 4))
    found.gt_classes = torch.arange(len(boxes)) % 3
    return {**random_input(*size, seed=seed), "instances": found}


def losses_of(model, inputs):
    torch.manual_seed(1)
    with EventStorage():
        return model(inputs)


@pytest.fixture(scope="session")
def teacher_weights(tmp_path_factory):
    """(kind, more options) -> a checkpoint of a random network, and the options that describe it."""
    folder = tmp_path_factory.mktemp("teachers")

    def make(kind, *opts):
        path = folder / f"{kind}{abs(hash(opts))}.pth"
        if not path.exists():
            torch.manual_seed(1)
            torch.save({"model": with_scores(build_model(small_cfg(kind, [*CLASSES, *opts]))).state_dict()}, path)
        return str(path), [*CLASSES, *opts]

    return make


@pytest.fixture
def kd_cfg(teacher_weights):
    """A student's config: its kind, its own options, and those of its teacher."""

    def make(kind, *opts, teacher=(), teacher_kind=None):
        path, own = teacher_weights(teacher_kind or kind, *teacher)
        named = ["ODAM.KD.TEACHER.CONFIG_FILE", f"quick/{teacher_kind or kind}.yaml"]
        named += ["ODAM.KD.TEACHER.WEIGHTS", path, "ODAM.KD.TEACHER.OPTS", own]
        return small_cfg(f"{kind}_odam_kd", [*CLASSES, *named, *opts])

    return make


@pytest.fixture
def make_student(kd_cfg):
    """What a trainer would train, in training mode."""

    def make(kind, *opts, **more):
        cfg = kd_cfg(kind, *opts, **more)
        torch.manual_seed(0)
        student = with_scores(build_model(cfg))
        if kind == "faster_rcnn":  # more of the small random regions are taken for an object
            student.roi_heads.proposal_matcher.thresholds[1] = 0.02
        return distilling(cfg, student).train()

    return make
