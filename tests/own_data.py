"""Small datasets of a user's own, in every format."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from helpers import random_photo

SIZE = (40, 60)


def write_voc(
    folder: Path, objects: Mapping[str, Sequence[tuple]], splits: Mapping[str, Sequence[str]], size=SIZE
) -> Path:
    """A VOC folder: image ID -> (class, (xmin, ymin, xmax, ymax), difficult) of its objects; split -> its IDs."""
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number, (name, found) in enumerate(objects.items()):
        elements = "".join(_element(*one) for one in found)
        shape = f"<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>"
        (folder / "Annotations" / f"{name}.xml").write_text(f"<annotation>{shape}{elements}</annotation>")
        Image.fromarray(random_photo(*size, seed=number)).save(folder / "JPEGImages" / f"{name}.jpg")
    for split, names in splits.items():
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names) + "\n")
    return folder


def _element(label: str, box: Sequence[float], difficult: int) -> str:
    corners = "".join(f"<{side}>{value}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box))
    return f"<object><name>{label}</name><difficult>{difficult}</difficult><bndbox>{corners}</bndbox></object>"


def write_coco(folder: Path, categories: Mapping[int, str], boxes: Sequence[tuple], size=SIZE) -> str:
    """A json in COCO's format and its images, both in a folder: (category id, x, y, w, h) of each image's only object.

    Everything is numbered from 0, and a mask is the box.

    Returns:
        the description of the dataset, without a name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number, (category, x, y, w, h) in enumerate(boxes):
        Image.fromarray(random_photo(*size, seed=number)).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": size[0], "width": size[1]})
        polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": category,
                "bbox": [x, y, w, h],
                "area": w * h,
                "iscrowd": 0,
                "segmentation": [polygon],
            }
        )
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in categories.items()],
    }
    (folder / "ann.json").write_text(json.dumps(content))
    return f"{folder / 'ann.json'}:{folder}"


def write_odgt(folder: Path, boxes: Mapping[str, Sequence[Sequence[float]]], size=SIZE) -> str:
    """An odgt file and its images, both in a folder: image ID -> the (x, y, w, h) of its people.

    Returns:
        the description of the dataset, without a name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, (name, found) in enumerate(boxes.items()):
        Image.fromarray(random_photo(*size, seed=number)).save(folder / f"{name}.jpg")
        people = [{"tag": "person", "fbox": list(map(float, box))} for box in found]
        lines.append(json.dumps({"ID": name, "gtboxes": people}) + "\n")
    (folder / "annotation.odgt").write_text("".join(lines))
    return f"{folder / 'annotation.odgt'}:{folder}"
