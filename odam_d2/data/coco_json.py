"""COCO's annotation files: read once in full, so that what is wrong with one is said before it is used.

Detectron2's and pycocotools' readers take a file as it is: of two images with one id they forget the first, and a
missing field ends the program somewhere else.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from detectron2.data.datasets import load_coco_json

from odam_d2.data.masks import check_segmentation
from odam_d2.notices import hidden_notices


def load_coco(
    json_file: str, image_root: str, dataset_name: str | None = None, extra_annotation_keys: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Detectron2's ``load_coco_json`` for a file that :func:`read_coco` accepts; arguments as there.

    Raises:
        FileNotFoundError: no such file.
        ValueError: as for :func:`read_coco`.
    """
    read_coco(json_file)
    with hidden_notices():
        return load_coco_json(json_file, image_root, dataset_name, list(extra_annotation_keys))


def read_coco(json_file: str | Path) -> dict[str, Any]:
    """Read and check a COCO annotation file.

    ``area`` and ``iscrowd`` of an annotation, and the annotations altogether, may be missing.

    Args:
        json_file: its path.

    Returns:
        the file's content.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no JSON, a field that is missing or of another kind, an id that comes twice, or an unknown category;
            the message names the file, the entry and the field.
    """
    path = Path(json_file)
    text = path.read_bytes()
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is no valid JSON: {error}") from error
    try:
        _check_content(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return content


def _check_content(content: Any) -> None:
    if not isinstance(content, dict):
        raise ValueError("a COCO file is a JSON object with 'images', 'annotations' and 'categories'")
    for key in ("images", "categories"):
        if not content.get(key):
            raise ValueError(f"the file has no {key!r}; a COCO file lists them")
    categories = _by_id(content, "categories", "category", _check_category)
    images = _by_id(content, "images", "image", _check_image)
    if len({type(one) for one in images}) > 1:
        raise ValueError("some images have a number as id and some a text; give all of them the same kind")
    _by_id(content, "annotations", "annotation", lambda one: _check_annotation(one, images, categories))


def _by_id(
    content: dict[str, Any], key: str, word: str, check: Callable[[dict[str, Any]], None]
) -> dict[Any, dict[str, Any]]:
    """The checked entries of a list by their id."""
    entries = content.get(key, [])
    if not isinstance(entries, list):
        raise ValueError(f"{key!r} is no list")
    found: dict[Any, dict[str, Any]] = {}
    for place, one in enumerate(entries):
        if not isinstance(one, dict):
            raise ValueError(f"{key}[{place}] is no JSON object")
        if not _is_id(one.get("id")):
            raise ValueError(f"{key}[{place}] {_lacks(one, 'id', 'a number or a text')}")
        if one["id"] in found:
            both = ", ".join(str(one.get("file_name", f"{key}[{place}]")) for one in (found[one["id"]], one))
            raise ValueError(f"two {key} have the id {one['id']} ({both}); give each {word} an id of its own")
        try:
            check(one)
        except ValueError as error:
            raise ValueError(f"{word} {one['id']}: {error}") from error
        found[one["id"]] = one
    return found


def _check_category(category: dict[str, Any]) -> None:
    if not isinstance(category["id"], int):
        raise ValueError(f"it {_lacks(category, 'id', 'a whole number')}")
    if not isinstance(category.get("name"), str):
        raise ValueError(f"it {_lacks(category, 'name', 'a text')}")


def _check_image(image: dict[str, Any]) -> None:
    if not isinstance(image.get("file_name"), str):
        raise ValueError(f"it {_lacks(image, 'file_name', 'a text')}")
    for side in ("height", "width"):
        if type(image.get(side)) is not int or image[side] < 1:
            raise ValueError(f"it {_lacks(image, side, 'a positive whole number of pixels')}")


def _check_annotation(
    annotation: dict[str, Any], images: dict[Any, dict[str, Any]], categories: dict[Any, dict[str, Any]]
) -> None:
    if not _is_id(annotation.get("image_id")):
        raise ValueError(f"it {_lacks(annotation, 'image_id', 'the id of an image')}")
    category = annotation.get("category_id")
    if not _is_id(category):
        raise ValueError(f"it {_lacks(annotation, 'category_id', 'the id of a category')}")
    if category not in categories:
        raise ValueError(f"its category_id is {category}; the file's categories are {_listed(categories)}")
    check_box(annotation, "[x, y, width, height]")
    if annotation["bbox"][2] < 0 or annotation["bbox"][3] < 0:
        raise ValueError(f"its bbox {annotation['bbox']} has a negative width or height; it is [x, y, width, height]")
    if annotation.get("ignore", 0):
        raise ValueError("it has the field 'ignore', which Detectron2 does not know; mark what is no object by iscrowd")
    if annotation.get("iscrowd") not in (None, 0, 1):
        raise ValueError(f"its iscrowd is {annotation['iscrowd']!r}; it must be 0 or 1")
    # Files that list fewer images than they annotate are usual: Detectron2 leaves such annotations out, and says so.
    image = images.get(annotation["image_id"])
    if image is not None and annotation.get("segmentation"):
        check_segmentation(annotation["segmentation"], image["height"], image["width"])


def check_box(annotation: dict[str, Any], form: str) -> None:
    """Refuse a ``bbox`` that is not four finite numbers.

    Args:
        annotation: of one object.
        form: what the four numbers are, for the message.

    Raises:
        ValueError: says what it is instead.
    """
    box = annotation.get("bbox")
    try:
        numbers = [float(number) for number in box if not isinstance(number, str)]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != 4 or len(box) != 4 or not all(map(math.isfinite, numbers)):
        raise ValueError(f"it {_lacks(annotation, 'bbox', form)}")


def _lacks(one: dict[str, Any], field: str, form: str) -> str:
    """What is wrong with a field: it is missing, or of another kind."""
    if field not in one:
        return f"lacks the field {field!r}, {form}"
    return f"has the {field} {one[field]!r}; it must be {form}"


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _listed(ids: dict[Any, Any]) -> str:
    shown = ", ".join(map(str, list(ids)[:10]))
    return f"{shown}, ..." if len(ids) > 10 else shown
