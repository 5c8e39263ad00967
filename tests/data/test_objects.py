"""The objects of a dataset in every format: ids, boxes, masks and crowds, and which of them are well detected."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools import mask as coco_mask

from evaluation.explained import make_predictor, register, unregister, write_dataset
from odam_d2.data.crowdhuman import load_crowdhuman
from odam_d2.data.objects import load_objects, object_mask
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


# ---- Masks


def test_polygons_cover_their_union():
    # Squares of 2 x 2 pixels that share the pixel (2,2); a polygon of two points is none.
    polygons = [[1, 1, 3, 1, 3, 3, 1, 3], [2, 2, 4, 2, 4, 4, 2, 4], [0, 0, 4, 4]]
    expected = np.zeros((5, 6), bool)
    expected[1:3, 1:3] = expected[2:4, 2:4] = True
    mask = object_mask(polygons, 5, 6)
    assert mask.dtype == bool and np.array_equal(mask, expected)


def test_run_lengths_go_down_the_columns():
    # 1 out, 2 in, 3 out.
    mask = object_mask({"size": [2, 3], "counts": [1, 2, 3]}, 2, 3)
    assert mask.tolist() == [[False, True, False], [True, False, False]]


def test_compressed_encodings_may_be_bytes_or_text():
    mask = np.random.default_rng(0).random((7, 9)) < 0.5
    encoding = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    assert np.array_equal(object_mask(encoding, 7, 9), mask)
    text = {"size": [7, 9], "counts": encoding["counts"].decode()}
    assert np.array_equal(object_mask(text, 7, 9), mask)
    assert isinstance(text["counts"], str)


def test_uncompressed_encodings_equal_a_plain_loop():
    for seed in range(10):
        mask = np.random.default_rng(seed).random((6, 5)) < 0.5
        counts, value = [0], False
        for pixel in mask.T.flatten():
            if pixel != value:
                counts.append(0)
                value = pixel
            counts[-1] += 1
        assert np.array_equal(object_mask({"size": [6, 5], "counts": counts}, 6, 5), mask)


def test_wrong_segmentations_are_named():
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3, 2\)"):
        object_mask({"size": [2, 3], "counts": [6]}, 3, 2)
    with pytest.raises(ValueError, match=r"5 pixels.*\(2, 3\)"):
        object_mask({"size": [2, 3], "counts": [1, 4]}, 2, 3)
    for segmentation in ([], [[0, 0, 4, 4]]):
        with pytest.raises(ValueError, match="three points"):
            object_mask(segmentation, 5, 5)
