"""What the classes of a detector are called, and that names of other classes are refused."""

import json

import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from odam_d2 import model_zoo
from odam_d2.data.class_names import class_names


@pytest.fixture
def metadata():
    """Names for three datasets: two with names of classes, one without."""
    MetadataCatalog.get("odam_pets").thing_classes = ["cat", "dog"]
    MetadataCatalog.get("odam_vehicles").thing_classes = ["car", "bus"]
    MetadataCatalog.get("odam_nameless").evaluator_type = "coco"
    yield
    for name in ("odam_pets", "odam_vehicles", "odam_nameless"):
        MetadataCatalog.remove(name)


def cfg_for(test=(), train=()):
    cfg = get_cfg()
    cfg.DATASETS.TEST, cfg.DATASETS.TRAIN = test, train
    return cfg


@pytest.mark.parametrize(
    ("test", "train", "expected"),
    [
        (("odam_pets",), ("odam_vehicles",), ["cat", "dog"]),
        ((), ("odam_vehicles",), ["car", "bus"]),
        (("odam_nameless",), ("odam_vehicles",), ["car", "bus"]),
        (("odam_nameless", "odam_pets"), ("odam_vehicles",), ["cat", "dog"]),
        (("odam_unheard_of",), ("odam_vehicles",), ["car", "bus"]),
        (("odam_unheard_of",), ("odam_nameless",), ["0", "1"]),
        ((), (), ["0", "1"]),
    ],
)
def test_the_test_dataset_counts_before_the_training_dataset(test, train, expected, metadata):
    before = set(MetadataCatalog.list())
    assert class_names(cfg_for(test, train), 2) == expected
    assert set(MetadataCatalog.list()) == before


def test_eighty_nameless_classes_are_cocos():
    names = class_names(cfg_for(), 80)
    assert len(names) == 80 and names[:3] == ["person", "bicycle", "car"] and names[79] == "toothbrush"
    assert class_names(cfg_for(), 79)[:2] == ["0", "1"]


def test_the_list_is_the_callers_own(metadata):
    class_names(cfg_for(("odam_pets",)), 2).append("bird")
    class_names(cfg_for(), 80).append("bird")
    assert MetadataCatalog.get("odam_pets").thing_classes == ["cat", "dog"]
    assert len(class_names(cfg_for(), 80)) == 80


@pytest.mark.parametrize("cfg", [cfg_for(("odam_pets",), ("odam_vehicles",)), cfg_for((), ("odam_pets",))])
def test_another_number_of_classes_is_refused(cfg, metadata):
    with pytest.raises(ValueError, match="odam_pets names 2 classes and the detector has 3; .*DATASETS.TEST"):
        class_names(cfg, 3)


@pytest.mark.parametrize("name", model_zoo.list_configs())
def test_every_config_of_the_zoo_knows_what_its_classes_are_called(name):
    cfg = model_zoo.get_config(name)
    model = cfg.MODEL
    parts = {"ODAMFCOS": model.FCOS, "ODAMRetinaNet": model.RETINANET, "ODAMRCNN": model.ROI_HEADS}
    # Transformers without a number of their own have COCO's classes.
    count = (
        parts[model.META_ARCHITECTURE].NUM_CLASSES
        if model.META_ARCHITECTURE in parts
        else model.TRANSFORMERS.NUM_CLASSES or 80
    )
    names = class_names(cfg, count)
    # COCO and crowds begin with people; blood has none.
    first = "Platelets" if "bccd_train" in cfg.DATASETS.TRAIN else "person"
    assert len(names) == count and names[0] == first


def test_a_users_coco_file_names_classes_before_detectron2_has_read_it(tmp_path):
    categories = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]
    images = [{"id": 1, "file_name": "a.jpg", "height": 5, "width": 5}]
    (tmp_path / "own.json").write_text(json.dumps({"images": images, "annotations": [], "categories": categories}))
    register_coco_instances("odam_own", {}, str(tmp_path / "own.json"), str(tmp_path))
    try:
        # In the order of their ids, as Detectron2 numbers them.
        assert class_names(cfg_for(("odam_own",)), 2) == ["cat", "dog"]
        assert "thing_classes" not in MetadataCatalog.get("odam_own").as_dict()
        with pytest.raises(ValueError, match="odam_own names 2 classes and the detector has 80"):
            class_names(cfg_for(("odam_own",)), 80)
        DatasetCatalog.get("odam_own")
        assert class_names(cfg_for(("odam_own",)), 2) == MetadataCatalog.get("odam_own").thing_classes
        (tmp_path / "own.json").unlink()
        assert class_names(cfg_for(("odam_own",)), 2) == ["cat", "dog"]
    finally:
        DatasetCatalog.remove("odam_own")
        MetadataCatalog.remove("odam_own")
