"""COCO files: what is wrong with one is said with file, entry and field, before anything is read from it."""

import json
import logging

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import load_coco_json

from odam_d2.data.coco_json import load_coco, read_coco


def content():
    return {
        "images": [
            {"id": 1, "file_name": "a.jpg", "height": 10, "width": 20},
            {"id": 2, "file_name": "b.jpg", "height": 30, "width": 40},
        ],
        "annotations": [
            {"id": 5, "image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0},
            {"id": 6, "image_id": 2, "category_id": 7, "bbox": [0.5, 0, 9, 9], "segmentation": [[0, 0, 9, 0, 9, 9]]},
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
    }


def write(folder, changed):
    path = folder / "own.json"
    path.write_text(changed if isinstance(changed, str) else json.dumps(changed))
    return path


def changed_by(change):
    changed = content()
    change(changed)
    return changed


def test_a_sound_file_is_read_as_detectron2_reads_it(tmp_path):
    path = write(tmp_path, content())
    assert read_coco(path) == content()
    try:
        found = load_coco(str(path), "images", "odam_sound")
        assert found == load_coco_json(str(path), "images", "odam_sound")
        assert [one["annotations"][0]["category_id"] for one in found] == [0, 1]
    finally:
        MetadataCatalog.remove("odam_sound")
    assert load_coco(str(path), "images", extra_annotation_keys=["id"])[1]["annotations"][0]["id"] == 6


def test_nobody_is_told_that_categories_are_numbered_anew(tmp_path, caplog, monkeypatch):
    path = write(tmp_path, content())
    # A command that another test ran in this process hides it for good.
    monkeypatch.setattr(logging.getLogger("detectron2.data.datasets.coco"), "filters", [])
    try:
        assert len(load_coco(str(path), "images", "mine")) == 2
        assert not caplog.messages
        # Detectron2 itself says it, and to those who call it, it still does.
        load_coco_json(str(path), "images", "mine")
        assert "Category ids in annotations are not in" in caplog.text
    finally:
        MetadataCatalog.remove("mine")


def test_what_a_detection_file_need_not_have(tmp_path):
    # Annotations of images that the file does not list, polygons of two points, numbers from 0 on, and no objects.
    for change in (
        lambda c: c.pop("annotations"),
        lambda c: c["annotations"][0].update(id=0, image_id=99),
        lambda c: c["annotations"][1].update(segmentation=[[0, 0, 1, 1]], iscrowd=None),
        lambda c: c["annotations"][1].update(id="text", segmentation=[], bbox=[0, 0, 0, 0]),
        lambda c: c.update(categories=[{"id": 0, "name": "cat"}, {"id": 3, "name": "a"}, {"id": 7, "name": "b"}]),
    ):
        changed = changed_by(change)
        assert read_coco(write(tmp_path, changed)) == changed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.pop("categories"), "the file has no 'categories'"),
        (lambda c: c.update(categories=[]), "the file has no 'categories'"),
        (lambda c: c.pop("images"), "the file has no 'images'"),
        (lambda c: c.update(annotations={}), "'annotations' is no list"),
        (lambda c: c["annotations"].append(None), r"annotations\[2\] is no JSON object"),
        (lambda c: c["annotations"][1].pop("id"), r"annotations\[1\] lacks the field 'id'"),
        (lambda c: c["annotations"][1].update(id=None), r"annotations\[1\] has the id None"),
        (lambda c: c["annotations"][1].update(id=5), "two annotations have the id 5"),
        (lambda c: c["images"][1].update(id=1), r"two images have the id 1 \(a.jpg, b.jpg\); give each image"),
        (lambda c: c["images"][1].update(id="2"), "some images have a number as id and some a text"),
        (lambda c: c["categories"][1].update(id=3), "two categories have the id 3"),
        (lambda c: c["categories"][1].update(id="7"), "category 7: it has the id '7'"),
        (lambda c: c["categories"][1].pop("name"), "category 7: it lacks the field 'name'"),
        (lambda c: c["images"][1].pop("height"), "image 2: it lacks the field 'height'"),
        (lambda c: c["images"][1].update(width="40"), "image 2: it has the width '40'; it must be a positive whole"),
        (lambda c: c["images"][1].update(width=0), "image 2: it has the width 0"),
        (lambda c: c["images"][1].pop("file_name"), "image 2: it lacks the field 'file_name'"),
        (lambda c: c["annotations"][1].pop("image_id"), "annotation 6: it lacks the field 'image_id'"),
        (lambda c: c["annotations"][1].pop("category_id"), "annotation 6: it lacks the field 'category_id'"),
        (
            lambda c: c["annotations"][1].update(category_id=4),
            "annotation 6: its category_id is 4.*are 3, 7",
        ),
        (lambda c: c["annotations"][1].pop("bbox"), "annotation 6: it lacks the field 'bbox', .x, y, width, height"),
        (lambda c: c["annotations"][1].update(bbox=None), "annotation 6: it has the bbox None"),
        (lambda c: c["annotations"][1].update(bbox=[]), "annotation 6: it has the bbox"),
        (lambda c: c["annotations"][1].update(bbox=[1, 2, None, 4]), "annotation 6: it has the bbox .*None"),
        (lambda c: c["annotations"][1].update(bbox=[1, 2, "3", 4]), "annotation 6: it has the bbox .*'3'"),
        (lambda c: c["annotations"][1].update(bbox=[1, 2, 3]), "annotation 6: it has the bbox"),
        (lambda c: c["annotations"][1].update(bbox=[1, 2, float("nan"), 4]), "annotation 6: it has the bbox .*nan"),
        (
            lambda c: c["annotations"][1].update(bbox=[9, 9, -3, 4]),
            "annotation 6: its bbox .* negative width",
        ),
        (lambda c: c["annotations"][1].update(iscrowd="no"), "annotation 6: its iscrowd is 'no'"),
        (lambda c: c["annotations"][1].update(ignore=1), "annotation 6: it has the field 'ignore'"),
        (lambda c: c["annotations"][1].update(segmentation=[0, 0, 9, 0, 9, 9]), "annotation 6: .*a list of polygons"),
        (
            lambda c: c["annotations"][1].update(segmentation={"size": [30, 40], "counts": [0, 30]}),
            "annotation 6: run lengths of 30 pixels do not fill",
        ),
        (
            lambda c: c["annotations"][1].update(segmentation={"size": [40, 30], "counts": [1200]}),
            "annotation 6: .*size .40, 30. does not fit an image of size .30, 40.",
        ),
    ],
)
def test_faults_are_named_with_file_entry_and_field(change, words, tmp_path):
    path = write(tmp_path, changed_by(change))
    for read in (read_coco, lambda path: load_coco(str(path), "images")):
        with pytest.raises(ValueError, match=f"own.json: .*{words}") as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_what_is_no_coco_file_is_named(tmp_path):
    for text, words in {"{": "no valid JSON", "": "no valid JSON", "[]": "a JSON object with 'images'"}.items():
        with pytest.raises(ValueError, match=f"own.json.*{words}"):
            read_coco(write(tmp_path, text))
    (tmp_path / "own.json").write_bytes(np.arange(256, dtype=np.uint8).tobytes())
    with pytest.raises(ValueError, match="own.json is no valid JSON"):
        read_coco(tmp_path / "own.json")
    with pytest.raises(FileNotFoundError, match="absent.json"):
        read_coco(tmp_path / "absent.json")
