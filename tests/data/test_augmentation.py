"""Crops and mosaics: images and boxes move together."""

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.structures import BoxMode
from PIL import Image

from odam_d2.config import add_odam_config
from odam_d2.data.augmentation import MosaicMapper, build_augmentations


def dataset(folder, count=4):
    """Grey photographs with one white rectangle each, which is the object."""
    dicts = []
    for i in range(count):
        image = np.full((60, 80, 3), 50, np.uint8)
        x, y, w, h = 10 + 8 * i, 12 + 4 * i, 24, 20
        image[y : y + h, x : x + w] = 255
        Image.fromarray(image).save(folder / f"{i}.png")
        box = {"bbox": [x, y, w, h], "bbox_mode": BoxMode.XYWH_ABS, "category_id": i, "iscrowd": 0}
        name = str(folder / f"{i}.png")
        dicts.append({"file_name": name, "image_id": i, "height": 60, "width": 80, "annotations": [box]})
    return dicts


def mapper(folder, **options):
    cfg = get_cfg()
    add_odam_config(cfg)
    cfg.ODAM.INPUT.CROP_SIZE = 64
    for key, value in options.items():
        cfg.ODAM.INPUT[key] = value
    dicts = dataset(folder)
    return MosaicMapper(cfg, dicts), dicts


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_boxes_stay_on_their_objects(tmp_path, probability):
    np.random.seed(0)
    mosaic, dicts = mapper(tmp_path, MOSAIC_PROB=probability, SCALE_RANGE=[0.8, 1.5])
    seen = 0
    for _ in range(10):
        sample = mosaic(dicts[seen % 4])
        assert tuple(sample["image"].shape) == (3, 64, 64)
        instances = sample["instances"]
        assert instances.image_size == (64, 64)
        for x1, y1, x2, y2 in instances.gt_boxes.tensor.round().int().tolist():
            # Inside the box the object's white, clear of the resampled rim.
            assert sample["image"][:, y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].float().mean() > 230
            seen += 1
    assert seen >= 10


def test_a_mosaic_shows_four_images(tmp_path):
    np.random.seed(0)
    mosaic, dicts = mapper(tmp_path, MOSAIC_PROB=1.0, SCALE_RANGE=[1.0, 1.0])
    boxes = mosaic(dicts[0])["instances"].gt_boxes.get_centers()
    quadrants = {(x >= 32, y >= 32) for x, y in boxes.tolist()}
    assert len(boxes) == 4 and len(quadrants) == 4


def test_remainders_of_objects_are_dropped(tmp_path, monkeypatch):
    np.random.seed(0)
    mosaic, dicts = mapper(tmp_path, MOSAIC_PROB=0.0, SCALE_RANGE=[3.0, 3.0])
    sides = [mosaic(d)["instances"].gt_boxes.tensor for d in dicts * 8]
    sides = torch.cat(sides)
    assert ((sides[:, 2:] - sides[:, :2]) > 4).all()


def test_colour_jitter_is_used_only_when_asked_for():
    assert len(build_augmentations(64, [1, 1], 0.0)) == 3
    assert len(build_augmentations(64, [1, 1], 0.3)) == 6


def test_odd_crop_is_refused(tmp_path):
    with pytest.raises(ValueError, match="CROP_SIZE is 63"):
        mapper(tmp_path, CROP_SIZE=63)


def test_a_detector_that_learns_masks_is_refused_as_crops_have_none(tmp_path):
    cfg = get_cfg()
    add_odam_config(cfg)
    cfg.MODEL.MASK_ON, cfg.ODAM.INPUT.CROP_SIZE = True, 64
    with pytest.raises(ValueError, match="MASK_ON is True and ODAM.INPUT.CROP_SIZE 64.*have no masks"):
        MosaicMapper(cfg, dataset(tmp_path))


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_regions_to_ignore_move_with_the_image_where_they_are_asked_for(tmp_path, probability):
    for ignore in (False, True):
        np.random.seed(0)
        mosaic, dicts = mapper(tmp_path, MOSAIC_PROB=probability, SCALE_RANGE=[1.0, 1.0], IGNORE_REGIONS=ignore)
        dicts[0]["annotations"][0]["iscrowd"] = 1
        instances = mosaic(dicts[0])["instances"]
        assert instances.has("gt_ignore") == ignore
        if not ignore:
            assert 0 not in instances.gt_classes
            continue
        # The class of an image's object is its number.
        assert torch.equal(instances.gt_ignore, instances.gt_classes == 0) and instances.gt_ignore.any()
        x1, y1, x2, y2 = instances.gt_boxes.tensor[instances.gt_ignore][0].round().int().tolist()
        assert mosaic.probability == 1 or (x2 - x1, y2 - y1) == (round(24 * 64 / 80), 20 * 64 // 80)
