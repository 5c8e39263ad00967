"""Datasets that one word describes: three formats, their classes, and what is said of a word that describes none."""

import json
import re

import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from odam_d2.config import add_odam_config, load_config
from odam_d2.data.class_names import class_names
from odam_d2.data.objects import load_objects
from odam_d2.data.own import add_datasets, dataset_name, is_described, register_datasets
from own_data import write_coco, write_odgt, write_voc

pytestmark = pytest.mark.usefixtures("catalogs")


def cfg_with(*words):
    cfg = get_cfg()
    add_odam_config(cfg)
    cfg.ODAM.DATASETS = list(words)
    return cfg


def register(*words):
    register_datasets(cfg_with(*words))


def pets(tmp_path):
    objects = {"a": [("dog", (1, 2, 30, 40), 0)], "b": [("cat", (5, 5, 9, 9), 0), ("dog", (5, 5, 9, 9), 1)]}
    return write_voc(tmp_path / "pets", objects, {"train": ["a"], "val": ["b"]})


# ---- COCO


def test_cocos_format_may_count_from_zero_and_leave_numbers_out(tmp_path):
    register("mine=" + write_coco(tmp_path / "c", {7: "dog", 0: "cat"}, [(7, 1, 2, 10, 20), (0, 3, 4, 5, 6)]))
    first, second = DatasetCatalog.get("mine")
    assert first["file_name"] == str(tmp_path / "c" / "0.png") and first["image_id"] == 0
    # cat 0, dog 1.
    assert [image["annotations"][0]["category_id"] for image in (first, second)] == [1, 0]
    assert first["annotations"][0]["bbox"] == [1, 2, 10, 20]
    assert first["annotations"][0]["bbox_mode"] == BoxMode.XYWH_ABS
    metadata = MetadataCatalog.get("mine")
    assert metadata.thing_classes == ["cat", "dog"]
    assert metadata.thing_dataset_id_to_contiguous_id == {0: 0, 7: 1}
    assert metadata.evaluator_type == "coco" and metadata.json_file == str(tmp_path / "c" / "ann.json")
    objects = load_objects("mine")["0"]
    assert objects.ids == ["0"] and objects.boxes.tolist() == [[1, 2, 11, 22]]
    (mask,) = objects.masks()
    assert mask.sum() == 10 * 20 and mask[2:22, 1:11].all()


def test_the_names_of_cocos_classes_are_known_before_the_dataset_is_read(tmp_path, monkeypatch):
    register("mine=" + write_coco(tmp_path / "c", {3: "dog", 1: "cat"}, [(1, 1, 2, 10, 20)]))
    metadata = MetadataCatalog.get("mine")
    assert "thing_classes" not in metadata.as_dict()
    assert metadata.get("thing_dataset_id_to_contiguous_id") == {1: 0, 3: 1}
    monkeypatch.setattr("odam_d2.data.own.read_coco", None)
    assert metadata.get("thing_classes") == ["cat", "dog"] and metadata.get("stuff_classes") is None


def test_a_missing_image_of_cocos_is_named_before_any_is_read(tmp_path):
    register("mine=" + write_coco(tmp_path / "c", {0: "cat"}, [(0, 1, 2, 10, 20)] * 3))
    for number in (1, 2):
        (tmp_path / "c" / f"{number}.png").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"^2 of 3 images of .*ann\.json are missing in .*, the first is .*1\.png$"
    ):
        DatasetCatalog.get("mine")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", r"ann\.json is no valid JSON: "),
        ("[]", r"ann\.json: a COCO file is a JSON object"),
        ('{"images": [{}], "categories": []}', r"ann\.json: the file has no 'categories'"),
        ('{"images": [{}], "categories": [{"id": 1}]}', r"ann\.json: category 1: it lacks the field 'name'"),
    ],
)
def test_a_fault_of_cocos_file_is_named_whatever_is_asked_for(content, said, tmp_path):
    (tmp_path / "ann.json").write_text(content)
    register(f"mine={tmp_path / 'ann.json'}:{tmp_path}")
    for ask in (lambda: MetadataCatalog.get("mine").get("thing_classes"), lambda: DatasetCatalog.get("mine")):
        with pytest.raises(ValueError, match=said):
            ask()


# ---- CrowdHuman and VOC


def test_crowdhumans_format_has_people(tmp_path):
    register("mine=" + write_odgt(tmp_path / "c", {"1,a": [(1, 2, 10, 20)]}))
    (image,) = DatasetCatalog.get("mine")
    assert image["image_id"] == "1,a" and image["annotations"][0]["bbox"] == [1, 2, 11, 22]
    metadata = MetadataCatalog.get("mine")
    assert metadata.thing_classes == ["person"] and metadata.evaluator_type == "crowdhuman"
    assert metadata.odgt_file == str(tmp_path / "c" / "annotation.odgt")
    assert load_objects("mine")["1,a"].masks() == [None]
    (tmp_path / "c" / "1,a.jpg").unlink()
    said = r"^1 of 1 images are missing, the first is .*1,a\.jpg; behind the colon stands the folder of <ID>\.jpg$"
    with pytest.raises(FileNotFoundError, match=said):
        DatasetCatalog.get("mine")


@pytest.mark.parametrize("prefix", ["voc:", ""])
@pytest.mark.parametrize(("end", "ids"), [("/:val", ["b"]), (":train", ["a"]), ("/", ["a", "b"]), ("", ["a", "b"])])
def test_a_voc_folder_with_a_split_or_without(prefix, end, ids, tmp_path):
    register(f"mine={prefix}{pets(tmp_path)}{end}")
    assert [image["image_id"] for image in DatasetCatalog.get("mine")] == ids
    metadata = MetadataCatalog.get("mine")
    # Of all splits.
    assert metadata.thing_classes == ["cat", "dog"] and metadata.get("thing_dataset_id_to_contiguous_id") is None
    assert metadata.evaluator_type == "coco" and metadata.get("json_file") is None
    objects = load_objects("mine")
    assert list(objects) == ids and objects[ids[-1]].masks()[0] is None
    if ids[-1] == "b":
        assert objects["b"].crowd.tolist() == [False, True]


def test_a_home_folder_is_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    pets(tmp_path)
    write_coco(tmp_path / "c", {0: "cat"}, [(0, 1, 2, 10, 20)])
    register("one=voc:~/pets:val", "two=~/c/ann.json:~/c")
    assert [len(DatasetCatalog.get(name)) for name in ("one", "two")] == [1, 1]


@pytest.mark.parametrize("word", ["mine=ann.json:images/", "mine=a.odgt:images/"])
def test_a_missing_file_says_where_paths_start(word, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    register(word)
    name = word[len("mine=") :].partition(":")[0]
    with pytest.raises(
        FileNotFoundError, match=f"no annotation file {name}; paths in ODAM.DATASETS start at {tmp_path}$"
    ):
        DatasetCatalog.get("mine")


def test_a_missing_folder_is_named(tmp_path):
    register("mine=voc:absent/:train")
    for ask in (lambda: MetadataCatalog.get("mine").thing_classes, lambda: DatasetCatalog.get("mine")):
        with pytest.raises(FileNotFoundError, match="there is no folder absent/Annotations"):
            ask()


# ---- Words and names


@pytest.mark.parametrize(
    "word", ["mine", "=voc:folder", "mine=", "my data=voc:folder", "a/b=voc:folder", "", 1, {"mine": "voc:folder"}]
)
def test_a_word_that_describes_nothing_is_refused(word):
    said = f"ODAM.DATASETS: {word!r} describes no dataset; write mine=ann.json:images/, mine=annotation.odgt:Images/ or"
    with pytest.raises(ValueError, match=re.escape(said)):
        register(word)


@pytest.mark.parametrize("description", ["ann.json", "ann.json:", "a/b.odgt", "Ann.JSON:"])
def test_a_file_without_its_images_is_refused(description):
    with pytest.raises(ValueError, match=f"'{description}' names no folder of images; write mine=ann.json:images/"):
        register(f"mine={description}")


@pytest.mark.parametrize("description", ["voc:", ":train", "voc::train"])
def test_no_folder_is_refused(description):
    with pytest.raises(ValueError, match=f"'{description}' names no folder; write"):
        register(f"mine={description}")


def test_a_name_stands_for_one_dataset(tmp_path):
    word = f"mine=voc:{pets(tmp_path)}:train"
    register(word)
    first = DatasetCatalog.data["mine"]
    register(word, word)
    assert DatasetCatalog.data["mine"] is first
    for taken in (f"mine=voc:{tmp_path / 'pets'}:val", "coco_2017_val=voc:pets"):
        name, _, description = taken.partition("=")
        with pytest.raises(ValueError, match=f"there is a dataset {name} already, and it is not {description}; choose"):
            register(taken)


def test_metadata_that_somebody_set_before_stays(tmp_path):
    MetadataCatalog.get("mine").set(thing_classes=["gato", "perro"], note="kept")
    register(f"mine=voc:{pets(tmp_path)}")
    assert MetadataCatalog.get("mine").thing_classes == ["gato", "perro"] and MetadataCatalog.get("mine").note == "kept"


def test_a_command_lines_datasets_join_those_of_the_config(tmp_path):
    folder = pets(tmp_path)
    cfg = cfg_with(f"one=voc:{folder}:train")
    names = add_datasets(cfg, [f"two=voc:{folder}:val", "one", f"one=voc:{folder}:train", "coco_2017_val"])
    assert names == ("two", "one", "one", "coco_2017_val")
    assert cfg.ODAM.DATASETS == [f"one=voc:{folder}:train", f"two=voc:{folder}:val"]
    assert "one" in DatasetCatalog and "two" in DatasetCatalog
    assert is_described(cfg, "two") and not is_described(cfg, "coco_2017_val")
    assert dataset_name("two=voc:x=y") == "two" and dataset_name("two") == "two"


def test_a_config_that_is_loaded_has_its_datasets_from_the_file_or_the_command_line(tmp_path):
    folder = pets(tmp_path)
    (tmp_path / "mine.yaml").write_text(json.dumps({"ODAM": {"DATASETS": [f"one=voc:{folder}:train"]}}))
    cfg = load_config(str(tmp_path / "mine.yaml"))
    assert cfg.ODAM.DATASETS == [f"one=voc:{folder}:train"] and len(DatasetCatalog.get("one")) == 1
    load_config("quick/fcos.yaml", ["ODAM.DATASETS", f"['two=voc:{folder}:val', 'three={folder}']"])
    assert [len(DatasetCatalog.get(name)) for name in ("two", "three")] == [1, 2]
    with pytest.raises(ValueError, match="'four' describes no dataset"):
        load_config("quick/fcos.yaml", ["ODAM.DATASETS", "['four']"])


def test_a_detector_is_named_after_its_datasets_classes_and_can_do_without(tmp_path):
    mine = ["ODAM.DATASETS", f"['mine=voc:{pets(tmp_path)}:train']", "DATASETS.TRAIN", "('mine',)"]
    assert class_names(load_config("quick/fcos.yaml", mine), 2) == ["cat", "dog"]
    # On another machine, without the annotations.
    absent = ["ODAM.DATASETS", "['gone=voc:gone:train']", "DATASETS.TRAIN", "('gone',)"]
    with pytest.raises(FileNotFoundError, match="there is no folder gone/Annotations"):
        class_names(load_config("quick/fcos.yaml", absent), 2)
    DatasetCatalog.remove("gone")
    MetadataCatalog.remove("gone")
    assert class_names(load_config("quick/fcos.yaml", [*absent, "ODAM.DATASETS", "[]"]), 2) == ["0", "1"]
