"""``odam convert-odgt``: Detectron2 reads what it writes."""

import json

import numpy as np
from detectron2.data.datasets import load_coco_json
from detectron2.structures import BoxMode
from PIL import Image

from odam_d2.cli.convert_odgt import main


def test_conversion_to_coco_is_what_detectron2_reads(annotations, call, tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("1,a", "2,b"):
        Image.fromarray(np.zeros((100, 120, 3), np.uint8)).save(tmp_path / "images" / f"{name}.jpg")
    output = tmp_path / "made" / "val.json"
    done = call(main, annotations, "--images", tmp_path / "images", "--output", output)
    assert done.code == 0 and "2 images, 2 people, 1 regions to be ignored" in done.out, done.err
    content = json.loads(output.read_text())
    first, second, region = content["annotations"]
    assert first["bbox"] == [0, 0, 10, 10] and first["visible_bbox"] == [1, 2, 3, 4] and first["area"] == 100
    assert "visible_bbox" not in second and second["bbox"] == [50, 50, 9, 9]
    assert [a["iscrowd"] for a in content["annotations"]] == [0, 0, 1] and region["bbox"] == [20, 20, 20, 20]
    assert [i["odgt_id"] for i in content["images"]] == ["1,a", "2,b"]
    dicts = load_coco_json(str(output), str(tmp_path / "images"))
    assert dicts[0]["file_name"] == str(tmp_path / "images" / "1,a.jpg")
    assert (dicts[0]["height"], dicts[0]["width"], len(dicts[0]["annotations"])) == (100, 120, 3)
    assert dicts[0]["annotations"][0]["bbox_mode"] == BoxMode.XYWH_ABS and dicts[1]["annotations"] == []


def test_conversion_without_images_says_where_to_get_them(annotations, call, tmp_path):
    done = call(main, annotations, "--images", tmp_path, "--output", tmp_path / "val.json")
    assert done.code == 1 and not done.out
    assert done.err.startswith("error: ") and "www.crowdhuman.org" in done.err and done.err.count("\n") == 1
    assert not (tmp_path / "val.json").exists()
