"""Tests run from the repository's root, where configs are found."""

import logging
import os
from pathlib import Path

import pytest
import torch

os.chdir(Path(__file__).parent.parent)
# Threads that wait for each other on a busy machine make networks as small as the tests' ten times slower.
torch.set_num_threads(1)
# Convolutions of a GPU in full float32: TF32's ten bits would hide whether two ways to a map are the same.
torch.backends.cudnn.allow_tf32 = False


@pytest.fixture(autouse=True)
def loggers_that_are_heard():
    """Commands of earlier tests may have quietened the loggers, or kept them for themselves."""
    for name in ("fvcore", "detectron2", "odam_d2"):
        logging.getLogger(name).propagate = True
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture
def catalogs():
    """Detectron2's catalogs; what a test registers is forgotten afterwards."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    catalogs = (DatasetCatalog.data, MetadataCatalog.data)
    before = [dict(catalog) for catalog in catalogs]
    yield catalogs
    for catalog, entries in zip(catalogs, before):
        catalog.clear()
        catalog.update(entries)


@pytest.fixture
def empty_catalogs(catalogs):
    """Detectron2's catalogs without the datasets that odam_d2 registers; afterwards as they were."""
    ours = ("bccd_", "coco_m", "crowdhuman_", "osie_", "synthetic_crowd_")
    for catalog in catalogs:
        for name in [name for name in catalog if name.startswith(ours)]:
            del catalog[name]


@pytest.fixture(scope="session")
def quick_weights(tmp_path_factory):
    """kind -> a checkpoint of the random network of ``configs/quick/<kind>.yaml``."""
    from detectron2.modeling import build_model

    from helpers import small_cfg

    folder = tmp_path_factory.mktemp("weights")

    def make(kind: str) -> str:
        path = folder / f"{kind}.pth"
        if not path.exists():
            torch.manual_seed(0)
            model = build_model(small_cfg(kind))
            if kind == "fcos":
                # FCOS cuts negative distances to 0, and a box without a size is no detection.
                torch.nn.init.constant_(model.head.bbox_pred.bias, 2.0)
            torch.save({"model": model.state_dict()}, path)
        return str(path)

    return make
