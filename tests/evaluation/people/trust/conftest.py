"""A small dataset with maps of three methods for each object, and studies about it."""

import numpy as np
import pytest
from detectron2.config import get_cfg

from odam_d2.config import add_odam_config
from odam_d2.data.own import add_datasets
from own_data import SIZE, write_coco

METHODS = ("odam", "gradcam", "drise")


@pytest.fixture
def mapped(tmp_path, catalogs):
    """(the dataset's description, method -> folder of maps) of six photographs with one object each."""
    boxes = [(i % 2, 5 + 5 * i, 4, 12, 20) for i in range(6)]
    word = "asked=" + write_coco(tmp_path / "photos", {0: "cat", 1: "dog"}, boxes)
    cfg = get_cfg()
    add_odam_config(cfg)
    add_datasets(cfg, [word])
    folders = {}
    for number, name in enumerate(METHODS):
        folders[name] = tmp_path / "maps" / name
        folders[name].mkdir(parents=True)
        for i in range(6):
            heat = np.random.default_rng(10 * number + i).random(SIZE, np.float32)
            np.save(folders[name] / f"{i}_{i}.npy", heat)
    return word, folders
