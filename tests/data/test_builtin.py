"""What odam_d2 registers, and that it takes no name from anybody."""

import json
from collections import Counter

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from odam_d2.data.builtin import register_all
from odam_d2.data.catalog import check_registered, register_dataset
from odam_d2.data.coco_mini import register_coco_mini
from odam_d2.data.osie import register_osie

NAMES = {
    *("bccd_train", "bccd_val", "coco_mini_train", "coco_mini_val", "crowdhuman_train", "crowdhuman_val"),
    *("coco_more_val", "coco_mini_more_val", "osie_pseudo"),
    *(
        f"synthetic_crowd_{split}{kind}"
        for split in ("train", "val0", "val1", "val2", "tune", "demo")
        for kind in ("", "_coco")
    ),
}


def test_all_datasets_are_registered_once_with_the_names_of_their_classes(empty_catalogs):
    others = set(DatasetCatalog.list())
    register_all()
    first = {name: DatasetCatalog.data[name] for name in NAMES}
    register_all()
    assert set(DatasetCatalog.list()) - others == NAMES
    assert {name: DatasetCatalog.data[name] for name in NAMES} == first
    found = Counter(tuple(MetadataCatalog.get(name).thing_classes) for name in NAMES)
    assert found.pop(("person",)) == 14 and found.pop(("Platelets", "RBC", "WBC")) == 2
    ((cocos, count),) = found.items()
    assert count == 5 and len(cocos) == 80 and cocos[:3] == ("person", "bicycle", "car") and cocos[79] == "toothbrush"


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
    for name in ("coco_mini_val", "coco_mini_train", "coco_more_val", "coco_mini_more_val"):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    register_coco_instances("coco_mini_val", names, json_file, str(folder / "val2017"))
    assert ours == MetadataCatalog.get("coco_mini_val").as_dict()


@pytest.fixture
def photographs(tmp_path, empty_catalogs):
    """Two datasets of one image each and a labelled third, in the layout of the real ones."""
    boxes = [{"id": 1, "image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}]
    scored = [{**boxes[0], "id": i, "score": score} for i, score in enumerate((0.3, 0.9), start=1)]
    known = MetadataCatalog.get("coco_2017_val")
    ids = known.thing_dataset_id_to_contiguous_id
    categories = [{"id": number, "name": known.thing_classes[place]} for number, place in ids.items()]
    files = {
        "coco_mini/annotations/instances_val2017.json": (7, boxes),
        "coco_more/annotations/instances_val2017.json": (8, []),
        "osie/annotations/instances_pseudo.json": (7, scored),
    }
    for name, (number, annotations) in files.items():
        image = {"id": number, "file_name": f"{number}.jpg", "height": 10, "width": 10}
        file = tmp_path / name
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({"images": [image], "annotations": annotations, "categories": categories}))
    return tmp_path


def test_the_two_parts_of_val2017_are_one_dataset_as_well(photographs):
    register_coco_mini(photographs)
    dicts = DatasetCatalog.get("coco_mini_more_val")
    folders = [str(photographs / part / "val2017") for part in ("coco_mini", "coco_more")]
    assert [one["file_name"] for one in dicts] == [f"{folders[0]}/7.jpg", f"{folders[1]}/8.jpg"]
    assert [len(one["annotations"]) for one in dicts] == [1, 0]
    with pytest.raises(ValueError, match="those with files here are coco_mini_more_val, coco_mini_val, coco_more_val"):
        check_registered("nobody")
    (photographs / "coco_more/annotations/instances_val2017.json").unlink()
    with pytest.raises(ValueError, match="those with files here are coco_mini_val$"):
        check_registered("nobody")


def test_pseudo_labels_bring_their_scores(photographs):
    register_osie(photographs)
    (image,) = DatasetCatalog.get("osie_pseudo")
    assert image["file_name"] == str(photographs / "osie/stimuli/7.jpg")
    assert [annotation["score"] for annotation in image["annotations"]] == [0.3, 0.9]
