"""VOC folders: boxes, classes, splits and difficult objects, and what is said where something is missing or wrong."""

import os
from pathlib import Path

import numpy as np
import pytest
from detectron2.data.datasets.pascal_voc import load_voc_instances
from detectron2.structures import BoxMode
from PIL import Image

from odam_d2.data.voc import load_voc, voc_class_names
from own_data import write_voc

BCCD = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "bccd"


@pytest.fixture
def folder(tmp_path):
    """Two images of 40 x 60: a dog and a difficult cat, and a cow that leaves the image; ``train`` is the first."""
    objects = {"a": [("dog", (1, 2, 30, 40), 0), ("cat", (5, 5, 9, 9), 1)], "b": [("cow", (50, 1, 70, 40), 0)]}
    return write_voc(tmp_path / "pets", objects, {"train": ["a"], "val": ["b"]})


def test_boxes_begin_at_zero_and_difficult_objects_are_crowds(folder):
    first, second = load_voc(folder)
    assert first["file_name"] == str(folder / "JPEGImages" / "a.jpg") and first["image_id"] == "a"
    assert (first["height"], first["width"]) == (40, 60)
    # cat, cow, dog.
    assert first["annotations"] == [
        {"bbox": [0.0, 1.0, 30.0, 40.0], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 2, "iscrowd": 0},
        {"bbox": [4.0, 4.0, 9.0, 9.0], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "iscrowd": 1},
    ]
    assert [one["category_id"] for one in second["annotations"]] == [1]


def test_all_splits_share_the_classes_of_the_folder(folder):
    assert voc_class_names(folder) == voc_class_names(str(folder)) == ["cat", "cow", "dog"]
    (train,), (val,) = load_voc(folder, "train"), load_voc(folder, "val")
    assert train["image_id"] == "a" and val["image_id"] == "b"
    assert val["annotations"][0]["category_id"] == 1


def test_class_names_may_be_given_in_any_order(folder):
    (train,) = load_voc(folder, "train", ("dog", "cat"))
    assert [one["category_id"] for one in train["annotations"]] == [0, 1]
    with pytest.raises(ValueError, match=r"b\.xml, object 1 is a cow, which is none of the classes dog, cat$"):
        load_voc(folder, None, ("dog", "cat"))


def test_detectron2s_reader_gives_the_same_but_for_difficult_objects(folder):
    (folder / "ImageSets" / "Main" / "all.txt").write_text("b\na\n")
    ours, theirs = load_voc(folder, "all"), load_voc_instances(str(folder), "all", ["cat", "cow", "dog"])
    assert [one.pop("iscrowd") for image in ours for one in image["annotations"]] == [0, 0, 1]
    assert ours == theirs and [one["image_id"] for one in ours] == ["b", "a"]


def test_an_image_without_objects_is_an_image(folder):
    write_voc(folder, {"c": []}, {})
    assert load_voc(folder)[2]["annotations"] == []


@pytest.mark.parametrize(
    "size", ["", "<size><width>0</width><height>0</height></size>", "<size><width>60</width></size>"]
)
def test_a_size_that_is_not_told_is_the_images(folder, size):
    (folder / "Annotations" / "a.xml").write_text(f"<annotation>{size}</annotation>")
    first = load_voc(folder, None, ("cow",))[0]
    assert (first["height"], first["width"]) == (40, 60)


@pytest.mark.parametrize("suffix", [".png", ".JPG", ".bmp"])
def test_images_may_have_another_suffix(folder, suffix):
    (folder / "JPEGImages" / "a.jpg").unlink()
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(folder / "JPEGImages" / f"a{suffix}")
    assert load_voc(folder)[0]["file_name"].endswith(f"a{suffix}")


def test_whatever_is_missing_is_named_with_what_there_is(folder, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no folder .*absent/Annotations; a VOC folder holds Annotations, JPEG"
    ):
        load_voc(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=r"pets has no split 'test'; those in .*Main are train, val$"):
        load_voc(folder, "test")
    (folder / "JPEGImages" / "b.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"^1 of 2 images are missing, the first is .*b\.jpg$"):
        load_voc(folder)
    (folder / "Annotations" / "a.xml").unlink()
    with pytest.raises(FileNotFoundError, match=r"^1 of 1 annotations are missing, the first is .*a\.xml$"):
        load_voc(folder, "train")
    for path in (folder / "ImageSets" / "Main").iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"no split 'train'; .*Main holds no \.txt file$"):
        load_voc(folder, "train")
    (folder / "Annotations" / "b.xml").unlink()
    with pytest.raises(ValueError, match=r"Annotations holds no \.xml file$"):
        load_voc(folder)


@pytest.mark.parametrize(
    ("lines", "said"), [("\n \n", r"train\.txt lists no image$"), ("a\nb\na\n", r"train\.txt lists a twice$")]
)
def test_a_split_that_cannot_be_meant_is_refused(folder, lines, said):
    (folder / "ImageSets" / "Main" / "train.txt").write_text(lines)
    with pytest.raises(ValueError, match=said):
        load_voc(folder, "train")


BOX = "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"


@pytest.mark.parametrize(
    ("xml", "said"),
    [
        ("<annotation>", r"a\.xml is no valid XML: "),
        ("<annotation><object></object></annotation>", r"a\.xml, object 1 has no <name>$"),
        ("<annotation><object><name> </name></object></annotation>", r"object 1 has no <name>$"),
        (
            "<annotation><object><name>cow</name></object></annotation>",
            r"object 1 \(cow\) has no box with a width and a height: xmin missing, ymin missing, xmax missing",
        ),
        *(
            (f"<annotation><object><name>cow</name>{BOX.format(*box)}</object></annotation>", said)
            for box, said in {
                ("9", "2", "8", "5"): r"\(cow\) has no box with a width and a height: xmin 9, ymin 2, xmax 8, ymax 5$",
                ("2", "9", "8", "8"): r"xmin 2, ymin 9, xmax 8, ymax 8$",
                ("nan", "2", "8", "9"): r"xmin nan, ymin 2, xmax 8, ymax 9$",
                ("1", "2", "inf", "9"): r"xmin 1, ymin 2, xmax inf, ymax 9$",
                ("1", "2", "x", "9"): r"xmin 1, ymin 2, xmax x, ymax 9$",
            }.items()
        ),
    ],
)
def test_an_annotation_that_cannot_be_used_is_named(folder, xml, said):
    (folder / "Annotations" / "a.xml").write_text(xml)
    with pytest.raises(ValueError, match=said):
        load_voc(folder, "train")


def test_a_box_of_one_pixel_is_a_box(folder):
    cow = f"<object><name>cow</name>{BOX.format(3, 4, 3, 4)}</object>"
    (folder / "Annotations" / "a.xml").write_text(f"<annotation>{cow}</annotation>")
    assert load_voc(folder, "train")[0]["annotations"][0]["bbox"] == [2.0, 3.0, 3.0, 4.0]


def test_a_folder_without_any_object_has_no_classes(folder):
    for name in "ab":
        (folder / "Annotations" / f"{name}.xml").write_text("<annotation/>")
    with pytest.raises(ValueError, match=r"no annotation in .*Annotations has an object$"):
        voc_class_names(folder)


@pytest.mark.skipif(not BCCD.is_dir(), reason=f"there is no {BCCD}")
def test_bccd_is_what_it_says():
    train, val = load_voc(BCCD, "train"), load_voc(BCCD, "val")
    assert (len(train), len(val)) == (205, 87) and voc_class_names(BCCD) == ["Platelets", "RBC", "WBC"]
    counts = np.bincount([one["category_id"] for image in (*train, *val) for one in image["annotations"]])
    assert counts.tolist() == [292, 3350, 301]
    first = next(image for image in train if image["image_id"] == "BloodImage_00001")
    assert (
        first["annotations"][0]["bbox"] == [67.0, 314.0, 286.0, 480.0] and first["annotations"][0]["category_id"] == 2
    )
    assert (first["height"], first["width"]) == (480, 640)
