"""The objects of a dataset in every format: ids, boxes, masks and crowds, and which of them are well detected."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image

from evaluation.explained import make_predictor, register, unregister, write_dataset
from odam_d2.data.crowdhuman import load_crowdhuman
from odam_d2.data.objects import load_objects
from odam_d2.data.synthetic.dataset import write_dataset as write_crowds
from odam_d2.data.synthetic.splits import register_synthetic_crowds
from odam_d2.evaluation.study.selection import match_objects
from odam_d2.evaluation.study.settings import ExplanationSettings


def test_coco_annotations_have_ids_masks_and_crowds(quick_weights, tmp_path):
    register("odam_objects", write_dataset(tmp_path / "data", make_predictor("fcos", quick_weights("fcos"))))
    try:
        objects = load_objects("odam_objects")["3"]
    finally:
        unregister("odam_objects")
    assert objects.ids == ["80", "90", "100"] and objects.crowd.tolist() == [False, False, True]
    # The lamp is the last of the contiguous classes, whatever its id in the file.
    assert objects.classes[1] == 79 and objects.others(0).tolist() == [1] and objects.size == (96, 96)
    own, lamp, crowd = objects.masks()
    assert crowd is None and own.shape == (96, 96)
    # The left half of 2..20 x 3..30.
    assert lamp.sum() == 9 * 27 and lamp[3:30, 2:11].all()


@pytest.fixture
def crowd(tmp_path):
    """CrowdHuman's format: a person who leaves the image on the left, one inside, and a region to be ignored."""
    boxes = [
        {"tag": "person", "fbox": [-20, 0, 40, 30]},
        {"tag": "person", "fbox": [50, 5, 20, 20]},
        {"tag": "mask", "fbox": [30, 0, 10, 10], "extra": {"ignore": 1}},
    ]
    (tmp_path / "a.odgt").write_text(json.dumps({"ID": "1,a", "gtboxes": boxes}) + "\n")
    Image.fromarray(np.zeros((40, 80, 3), np.uint8)).save(tmp_path / "1,a.jpg")
    DatasetCatalog.register("odam_odgt", lambda: load_crowdhuman(str(tmp_path / "a.odgt"), str(tmp_path)))
    yield load_objects("odam_odgt")["1,a"]
    DatasetCatalog.remove("odam_odgt")
    MetadataCatalog.remove("odam_odgt")


def test_crowdhumans_objects_are_numbered_and_have_no_masks(crowd):
    assert crowd.ids == ["0", "1", "2"] and crowd.crowd.tolist() == [False, False, True]
    assert crowd.masks() == [None, None, None] and crowd.others(1).tolist() == [0]
    assert crowd.boxes[0].tolist() == [-20, 0, 20, 30] and crowd.clipped_boxes[0].tolist() == [0, 0, 20, 30]


def test_detections_are_compared_with_the_part_of_a_box_in_the_image(crowd):
    # The first person's visible part, the second person by 18/20, and the region that is to be ignored.
    boxes = np.array([[0.0, 0, 20, 30], [50, 5, 70, 23], [30, 0, 40, 10]])
    found = (boxes, np.array([0.9, 0.8, 0.7]), np.zeros(3, int))
    assert match_objects(crowd, *found, ExplanationSettings(("odam",), iou_threshold=0.85)) == [(0, 0), (1, 1)]
    # 0.9 is not more than 0.9, and 0.8 is not more than 0.85.
    assert match_objects(crowd, *found, ExplanationSettings(("odam",), iou_threshold=0.9)) == [(0, 0)]
    strict = ExplanationSettings(("odam",), iou_threshold=0.5, score_threshold=0.85)
    assert match_objects(crowd, *found, strict) == [(0, 0)]


def test_made_crowds_have_masks_that_lie_in_their_boxes(tmp_path, empty_catalogs):
    write_crowds(tmp_path / "synthetic_crowd" / "val0", seed=1, count=1)
    register_synthetic_crowds(tmp_path)
    (objects,) = load_objects("synthetic_crowd_val0_coco").values()
    masks = objects.masks()
    assert [mask is None for mask in masks] == objects.crowd.tolist()
    for mask, (x1, y1, x2, y2) in zip(masks, objects.boxes):
        if mask is not None and mask.any():
            rows, columns = np.nonzero(mask)
            assert x1 <= columns.min() and columns.max() < x2 and y1 <= rows.min() and rows.max() < y2


# ---- Datasets with faults


@pytest.fixture
def load(tmp_path):
    """Dataset dicts -> their objects."""
    names = []

    def load_dicts(*dicts):
        names.append(f"odam_dicts_{len(names)}")
        DatasetCatalog.register(names[-1], lambda: list(dicts))
        return load_objects(names[-1])

    yield load_dicts
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def image_dict(without=(), **fields):
    annotation = {"bbox": [1, 2, 3, 5], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    annotation |= fields.pop("annotation", {})
    annotation = {key: value for key, value in annotation.items() if key not in without}
    one = {"file_name": "a.jpg", "image_id": 1, "height": 10, "width": 20, "annotations": [annotation]} | fields
    return {key: value for key, value in one.items() if key not in without}


def test_sound_dicts_of_any_function_are_objects(load):
    both = load(image_dict(), image_dict(file_name="b.jpg", image_id="2", annotations=[]))
    assert list(both) == ["1", "2"] and both["1"].boxes.tolist() == [[1, 2, 4, 7]] and both["2"].boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("dicts", "words"),
    [
        (
            (image_dict(), image_dict(file_name="b.jpg", image_id="1")),
            "odam_dicts_0: the images a.jpg and b.jpg share the image_id 1; give each an id of its own",
        ),
        ((image_dict(["image_id"]),), "image a.jpg: it lacks the field 'image_id'"),
        ((image_dict(["file_name"]),), "image 0: it lacks the field 'file_name'"),
        ((image_dict(["height"]),), "image a.jpg: it lacks the field 'height'"),
        ((image_dict(["bbox_mode"]),), "image a.jpg, annotation 0: its bbox_mode is None; .*XYXY_ABS"),
        ((image_dict(annotation={"bbox_mode": BoxMode.XYXY_REL}),), "its bbox_mode is .*XYXY_REL.*XYWH_ABS"),
        ((image_dict(["bbox"]),), "annotation 0: it lacks the field 'bbox'"),
        ((image_dict(annotation={"bbox": None}),), "annotation 0: it has the bbox None; it must be four numbers"),
        ((image_dict(annotation={"bbox": [1, 2, 3, np.nan]}),), "has the bbox .*nan"),
        ((image_dict(["category_id"]),), "annotation 0: its category_id is None"),
        ((image_dict(annotation={"category_id": "cat"}),), "its category_id is 'cat'; it must be the number"),
        ((image_dict(annotations=2 * image_dict(annotation={"id": 7})["annotations"]),), "annotation 7: another one"),
    ],
)
def test_faults_of_dicts_are_named(dicts, words, load):
    with pytest.raises(ValueError, match=f"the dataset .*{words}"):
        load(*dicts)


def test_faults_of_a_coco_file_are_named_by_its_name(tmp_path):
    images = [{"id": 1, "file_name": "a.jpg", "height": 300, "width": 451}]
    annotation = {"id": 4, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "iscrowd": 1}
    annotation["segmentation"] = {"size": [300, 451], "counts": [0, 300]}
    content = {"images": images, "annotations": [annotation], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "instances.json").write_text(json.dumps(content))
    register("odam_unfilled", tmp_path / "instances.json")
    try:
        with pytest.raises(ValueError, match=r"instances\.json: annotation 4: run lengths of 300 .*\(300, 451\)"):
            load_objects("odam_unfilled")
    finally:
        unregister("odam_unfilled")
