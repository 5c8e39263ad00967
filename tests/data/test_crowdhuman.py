"""CrowdHuman as Detectron2 dicts, and its registration."""

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import detection_utils as utils
from detectron2.structures import BoxMode
from PIL import Image

from odam_d2.data.crowd_mapper import CrowdMapper
from odam_d2.data.crowdhuman import load_crowdhuman, register_crowdhuman
from odam_d2.data.images import read_image

SAMPLE = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "crowdhuman_sample" / "annotation_train.odgt"
RECORDS = [
    {
        "ID": "1,a",
        "gtboxes": [
            {"tag": "person", "fbox": [-2, 3, 10, 20]},
            {"tag": "person", "fbox": [1, 1, 2, 2], "extra": {"ignore": 1}},
            {"tag": "mask", "fbox": [5, 5, 6, 6]},
        ],
    },
    {"ID": "2,b", "gtboxes": []},
]


def make_root(folder, names=("1,a", "2,b")):
    root = folder / "crowdhuman"
    (root / "Images").mkdir(parents=True)
    for split in ("train", "val"):
        (root / f"annotation_{split}.odgt").write_text("".join(json.dumps(r) + "\n" for r in RECORDS))
    for i, name in enumerate(names):
        Image.fromarray(np.zeros((30 + i, 40, 3), np.uint8)).save(root / "Images" / f"{name}.jpg")
    return root


def test_dicts_hold_full_boxes_and_the_sizes_of_the_images(tmp_path):
    root = make_root(tmp_path)
    first, second = load_crowdhuman(str(root / "annotation_val.odgt"), str(root / "Images"))
    assert first["file_name"] == str(root / "Images" / "1,a.jpg") and first["image_id"] == "1,a"
    assert (first["height"], first["width"]) == (30, 40) and (second["height"], second["width"]) == (31, 40)
    # x, y, w, h = -2, 3, 10, 20 -> -2, 3, 8, 23: outside of the image stays.
    assert first["annotations"][0] == {
        "bbox": [-2, 3, 8, 23],
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": 0,
        "iscrowd": 0,
    }
    assert [a["iscrowd"] for a in first["annotations"]] == [0, 1, 1]
    assert second["annotations"] == []


@pytest.mark.parametrize(
    ("orientation", "size"),
    [
        # The file's 40 x 30 pixels are shown as 30 x 40.
        (struct.pack("<HIHH", 3, 1, 6, 0), (40, 30)),
        # Text, or a number that is no orientation: nobody turns it.
        (struct.pack("<HI", 2, 2) + b"6\0\0\0", (30, 40)),
        (struct.pack("<HIHH", 3, 1, 60, 0), (30, 40)),
    ],
)
def test_a_turned_photograph_has_the_size_that_every_reader_gives_it(tmp_path, orientation, size):
    root = make_root(tmp_path)
    exif = b"Exif\0\0II*\0" + struct.pack("<IHH", 8, 1, 0x0112) + orientation + b"\0" * 4
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(root / "Images" / "1,a.jpg", exif=exif)
    first = load_crowdhuman(str(root / "annotation_val.odgt"), str(root / "Images"))[0]
    assert (first["height"], first["width"]) == size
    utils.check_image_size(first, utils.read_image(first["file_name"], "BGR"))
    assert read_image(first["file_name"]).shape[:2] == size
    mapped = CrowdMapper(True, augmentations=[], image_format="BGR")(first)
    assert mapped["image"].shape[1:] == size and len(mapped["instances"]) == 3


def test_missing_files_say_what_to_download_and_where_to_put_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"annotation_val\.odgt.*www\.crowdhuman\.org.*crowdhuman/Images"):
        load_crowdhuman(str(tmp_path / "crowdhuman" / "annotation_val.odgt"), str(tmp_path / "crowdhuman" / "Images"))
    root = make_root(tmp_path, names=("1,a",))
    with pytest.raises(FileNotFoundError, match=r"1 of 2 images are missing.*2,b\.jpg.*www\.crowdhuman\.org"):
        load_crowdhuman(str(root / "annotation_val.odgt"), str(root / "Images"))


def test_an_unreadable_image_is_named(tmp_path):
    root = make_root(tmp_path)
    (root / "Images" / "2,b.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"2,b\.jpg is not an image"):
        load_crowdhuman(str(root / "annotation_val.odgt"), str(root / "Images"))


def test_another_suffix_and_sizes_in_the_file(tmp_path):
    (tmp_path / "a.odgt").write_text(json.dumps({"ID": "7", "gtboxes": [], "height": 5, "width": 6}))
    (tmp_path / "7.png").write_bytes(b"is not opened")
    (only,) = load_crowdhuman(str(tmp_path / "a.odgt"), str(tmp_path), suffix=".png")
    assert (only["height"], only["width"]) == (5, 6)


def test_registration_is_lazy_idempotent_and_describes_the_dataset(tmp_path, monkeypatch, empty_catalogs):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    register_crowdhuman()
    register_crowdhuman()
    with pytest.raises(FileNotFoundError, match="www.crowdhuman.org"):
        DatasetCatalog.get("crowdhuman_train")
    root = make_root(tmp_path)
    assert len(DatasetCatalog.get("crowdhuman_train")) == len(DatasetCatalog.get("crowdhuman_val")) == 2
    metadata = MetadataCatalog.get("crowdhuman_val")
    assert metadata.thing_classes == ["person"] and metadata.evaluator_type == "crowdhuman"
    assert metadata.odgt_file == str(root / "annotation_val.odgt")


@pytest.mark.skipif(not SAMPLE.is_file(), reason=f"there is no line of CrowdHuman's own annotations, {SAMPLE}")
def test_a_line_of_crowdhuman_itself(tmp_path):
    # The photograph is not ours to ship: any image of that name serves.
    Image.fromarray(np.zeros((1356, 1800, 3), np.uint8)).save(tmp_path / "283554,35288000868e92d4.jpg")
    (only,) = load_crowdhuman(str(SAMPLE), str(tmp_path))
    assert [a["iscrowd"] for a in only["annotations"]] == [0] * 6 + [1]
    assert only["annotations"][1]["bbox"] == [792, 24, 792 + 723, 24 + 2017]
