"""What odam_d2 registers, and that it takes no name from anybody."""

from collections import Counter

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from odam_d2.data.builtin import register_all
from odam_d2.data.catalog import register_dataset
from odam_d2.data.coco_mini import register_coco_mini

NAMES = {
    *("bccd_train", "bccd_val", "coco_mini_train", "coco_mini_val", "crowdhuman_train", "crowdhuman_val"),
    *(f"synthetic_crowd_{split}{kind}" for split in ("train", "val0", "val1", "val2") for kind in ("", "_coco")),
}


def test_all_datasets_are_registered_once_with_the_names_of_their_classes(empty_catalogs):
    others = set(DatasetCatalog.list())
    register_all()
    first = {name: DatasetCatalog.data[name] for name in NAMES}
    register_all()
    assert set(DatasetCatalog.list()) - others == NAMES
    assert {name: DatasetCatalog.data[name] for name in NAMES} == first
    found = Counter(tuple(MetadataCatalog.get(name).thing_classes) for name in NAMES)
    assert found.pop(("person",)) == 10 and found.pop(("Platelets", "RBC", "WBC")) == 2
    ((cocos, count),) = found.items()
    assert count == 2 and len(cocos) == 80 and cocos[:3] == ("person", "bicycle", "car") and cocos[79] == "toothbrush"


# Each of them alone: the registration of the others goes on.
@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_users_own_dataset_of_the_same_name_stays(name, empty_catalogs):
    DatasetCatalog.register(name, lambda: [{"file_name": "mine.jpg"}])
    MetadataCatalog.get(name).thing_classes = ["mine"]
    register_all()
    assert DatasetCatalog.get(name) == [{"file_name": "mine.jpg"}]
    assert MetadataCatalog.get(name).as_dict() == {"name": name, "thing_classes": ["mine"]}
    assert set(DatasetCatalog.list()) >= NAMES


def test_metadata_that_somebody_set_before_stays(empty_catalogs):
    MetadataCatalog.get("coco_mini_val").set(thing_classes=["mine"], note="kept")
    register_dataset("coco_mini_val", lambda: [{"image_id": 1}], thing_classes=["other"], evaluator_type="coco")
    known = {"name": "coco_mini_val", "thing_classes": ["mine"], "note": "kept", "evaluator_type": "coco"}
    assert MetadataCatalog.get("coco_mini_val").as_dict() == known
    assert DatasetCatalog.get("coco_mini_val") == [{"image_id": 1}]


def test_coco_mini_is_known_to_detectron2_as_its_own_function_would_make_it_known(tmp_path, empty_catalogs):
    register_coco_mini(tmp_path)
    ours = MetadataCatalog.get("coco_mini_val").as_dict()
    known = MetadataCatalog.get("coco_2017_val").as_dict()
    folder = tmp_path / "coco_mini"
    names = {key: known[key] for key in ("thing_classes", "thing_colors", "thing_dataset_id_to_contiguous_id")}
    json_file = str(folder / "annotations" / "instances_val2017.json")
    for name in ("coco_mini_val", "coco_mini_train"):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    register_coco_instances("coco_mini_val", names, json_file, str(folder / "val2017"))
    assert ours == MetadataCatalog.get("coco_mini_val").as_dict()
