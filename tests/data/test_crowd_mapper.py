"""Ignore regions stay in the training samples, and settings that would misread them are refused."""

import copy

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.structures import BoxMode
from PIL import Image

from helpers import small_cfg
from odam_d2.data.crowd_mapper import CrowdMapper
from odam_d2.engine import ODAMTrainer


def annotation(box, category=0, crowd=0):
    return {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": category, "iscrowd": crowd}


@pytest.fixture
def sample(tmp_path):
    """100 x 200 pixels: objects of classes 2 and 0, an ignore region of class 1, and empty boxes of both kinds."""
    Image.fromarray(np.zeros((100, 200, 3), np.uint8)).save(tmp_path / "a.png")
    return {
        "file_name": str(tmp_path / "a.png"),
        "height": 100,
        "width": 200,
        "image_id": 0,
        "annotations": [
            annotation([5, 5, 5, 9], crowd=1),
            annotation([10, 10, 30, 50], category=2),
            annotation([100, 20, 260, 90], category=1, crowd=1),
            annotation([7, 7, 7, 7]),
            annotation([-20, 60, 40, 120]),
        ],
    }


def plain(mapper):
    """A mapper without augmentation."""
    return mapper(True, augmentations=[], image_format="RGB")


def test_regions_stay_marked_in_order_clipped_to_the_image_and_empty_boxes_go(sample):
    instances = plain(CrowdMapper)(sample)["instances"]
    assert instances.gt_ignore.tolist() == [False, True, False]
    assert instances.gt_ignore.dtype == torch.bool
    assert instances.gt_classes.tolist() == [2, 1, 0]
    assert instances.gt_boxes.tensor.tolist() == [[10, 10, 30, 50], [100, 20, 200, 90], [0, 60, 40, 100]]


def test_objects_are_those_of_detectron2s_mapper_and_the_dataset_is_not_changed(sample):
    before = copy.deepcopy(sample)
    ours, theirs = plain(CrowdMapper)(sample)["instances"], plain(DatasetMapper)(sample)["instances"]
    assert sample == before
    ours = ours[~ours.gt_ignore]
    assert torch.equal(ours.gt_boxes.tensor, theirs.gt_boxes.tensor)
    assert torch.equal(ours.gt_classes, theirs.gt_classes)


@pytest.mark.parametrize("keep", [[], [0, 2]])
def test_images_without_an_object_are_samples_too(sample, keep):
    sample["annotations"] = [sample["annotations"][i] for i in keep]
    instances = plain(CrowdMapper)(sample)["instances"]
    assert instances.gt_ignore.tolist() == [True] * (len(keep) // 2)
    assert instances.gt_boxes.tensor.shape == (len(keep) // 2, 4)


def test_the_config_chooses_the_mapper_and_images_of_regions_alone_are_left_out(sample):
    alone = {**sample, "image_id": 1, "annotations": [annotation([0, 0, 50, 50], crowd=1)]}
    DatasetCatalog.register("odam_crowd", lambda: [copy.deepcopy(sample), copy.deepcopy(alone)])
    try:
        opts = ["DATASETS.TRAIN", "('odam_crowd',)", "ODAM.INPUT.IGNORE_REGIONS"]
        batches = iter(ODAMTrainer.build_train_loader(small_cfg("fcos", [*opts, "True"])))
        for x in [*next(batches), *next(batches)]:
            assert x["image_id"] == 0 and x["instances"].gt_ignore.sum() == 1
        (x, _) = next(iter(ODAMTrainer.build_train_loader(small_cfg("fcos", [*opts, "False"]))))
        assert not x["instances"].has("gt_ignore")
    finally:
        DatasetCatalog.remove("odam_crowd")


@pytest.mark.parametrize("crop", ["0", "64"])
def test_labels_that_a_detector_was_unsure_of_are_regions_whatever_the_mapper(crop, sample):
    sample["annotations"] = [annotation([0, 0, 50, 50], crowd=0) | {"score": score} for score in (0.39, 0.4)]
    unsure = {**sample, "image_id": 1, "annotations": sample["annotations"][:1]}
    DatasetCatalog.register("odam_scored", lambda: [copy.deepcopy(sample), copy.deepcopy(unsure)])
    opts = ["DATASETS.TRAIN", "('odam_scored',)", "ODAM.INPUT.CROP_SIZE", crop, "ODAM.INPUT.MIN_LABEL_SCORE", "0.4"]
    opts += ["ODAM.INPUT.SCALE_RANGE", "[1.0, 1.0]", "ODAM.INPUT.IGNORE_REGIONS"]
    try:
        for ignore, marks in (("True", [True, False]), ("False", None)):
            cfg = small_cfg("fcos", [*opts, ignore])
            for x in next(iter(ODAMTrainer.build_train_loader(cfg))):
                assert x["image_id"] == 0  # nothing is left of the other one
                assert len(x["instances"]) == (2 if marks else 1)
                assert not marks or x["instances"].gt_ignore.tolist() == marks
    finally:
        DatasetCatalog.remove("odam_scored")


@pytest.mark.parametrize(
    "kind, opts, culprit",
    [
        ("faster_rcnn", ["MODEL.MASK_ON", "True"], "MASK_ON"),
        ("retinanet", ["MODEL.META_ARCHITECTURE", "RetinaNet"], "META_ARCHITECTURE RetinaNet.*ODAMRetinaNet"),
        ("faster_rcnn", [], "PROPOSAL_GENERATOR.NAME RPN.*ODAMRPN"),
    ],
)
def test_settings_that_would_learn_regions_as_objects_are_refused(kind, opts, culprit):
    with pytest.raises(ValueError, match=culprit):
        ODAMTrainer.build_train_loader(small_cfg(kind, [*opts, "ODAM.INPUT.IGNORE_REGIONS", "True"]))
