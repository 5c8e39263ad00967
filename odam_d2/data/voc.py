"""Folders in the layout of Pascal VOC, whatever their classes.

::

    folder/Annotations/<ID>.xml
    folder/JPEGImages/<ID>.jpg       (or any other suffix that odam_d2 reads)
    folder/ImageSets/Main/<split>.txt    an ID a line; only needed where splits are named
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from detectron2.structures import BoxMode

from odam_d2.data.images import IMAGE_SUFFIXES, read_image_size

SIDES = ("xmin", "ymin", "xmax", "ymax")


def load_voc(
    folder: str | Path, split: str | None = None, class_names: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Read a VOC folder as Detectron2 dataset dicts.

    Corners are pixel numbers that start at 1, as Detectron2 takes them: a box with ``xmin`` 1 begins at 0. Objects
    marked ``difficult`` get ``iscrowd`` 1, which is what comes closest to VOC's own rule: nobody is asked to find them,
    and finding one is no mistake. Detectron2's mapper leaves them out of training; with ``ODAM.INPUT.IGNORE_REGIONS``
    they are no background there either.

    Args:
        folder: that holds ``Annotations`` and ``JPEGImages``.
        split: such as ``train``, for the images that ``ImageSets/Main/train.txt`` lists; default all annotated ones.
        class_names: of the classes, in their order; default :func:`voc_class_names`, which all splits share.

    Returns:
        dicts with ``file_name``, ``image_id`` (the ID), ``height``, ``width`` (the annotation's where it says, else the
        image's) and ``annotations``: ``bbox`` (XYXY_ABS, may leave the image), ``category_id``, ``iscrowd``.

    Raises:
        FileNotFoundError: a folder, split, annotation or image is missing; the message says what there is.
        ValueError: an annotation that cannot be used, or an image twice; the message names file and object.
    """
    base = Path(folder).expanduser()
    files = {name: base / "Annotations" / f"{name}.xml" for name in _image_ids(base, split)}
    missing = [file for file in files.values() if not file.is_file()]
    if missing:
        raise FileNotFoundError(f"{len(missing)} of {len(files)} annotations are missing, the first is {missing[0]}")
    images = {name: _image_file(base, name) for name in files}
    missing = [name for name, image in images.items() if image is None]
    if missing:
        first = base / "JPEGImages" / f"{missing[0]}.jpg"
        raise FileNotFoundError(f"{len(missing)} of {len(files)} images are missing, the first is {first}")
    names = list(class_names) if class_names is not None else voc_class_names(base)
    return [_to_dict(name, file, images[name], names) for name, file in files.items()]


def voc_class_names(folder: str | Path) -> list[str]:
    """The classes of a VOC folder: the names of all annotated objects, sorted, whatever split they are in.

    Args:
        folder: as for :func:`load_voc`.

    Raises:
        FileNotFoundError: there is no ``Annotations`` in the folder.
        ValueError: an annotation that cannot be used, or none at all.
    """
    base = Path(folder).expanduser()
    found: set[str] = set()
    for name in _image_ids(base, None):
        file = base / "Annotations" / f"{name}.xml"
        found.update(_class_name(element, place) for element, place in _objects(_parse(file), file))
    if not found:
        raise ValueError(f"no annotation in {base / 'Annotations'} has an object")
    return sorted(found)


def _image_ids(base: Path, split: str | None) -> list[str]:
    annotations, lists = base / "Annotations", base / "ImageSets" / "Main"
    if not annotations.is_dir():
        raise FileNotFoundError(
            f"there is no folder {annotations}; a VOC folder holds Annotations, JPEGImages and, to name splits, "
            "ImageSets/Main"
        )
    if split is None:
        ids = sorted(file.stem for file in annotations.glob("*.xml"))
        if not ids:
            raise ValueError(f"{annotations} holds no .xml file")
        return ids
    file = lists / f"{split}.txt"
    if not file.is_file():
        splits = ", ".join(sorted(path.stem for path in lists.glob("*.txt")))
        there = f"those in {lists} are {splits}" if splits else f"{lists} holds no .txt file"
        raise FileNotFoundError(f"{base} has no split {split!r}; {there}")
    ids = [line.strip() for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    if not ids:
        raise ValueError(f"{file} lists no image")
    twice = next((name for name in ids if ids.count(name) > 1), None) if len(set(ids)) < len(ids) else None
    if twice is not None:
        raise ValueError(f"{file} lists {twice} twice")
    return ids


def _image_file(base: Path, name: str) -> Path | None:
    candidates = (base / "JPEGImages" / (name + suffix) for low in IMAGE_SUFFIXES for suffix in (low, low.upper()))
    return next((file for file in candidates if file.is_file()), None)


def _to_dict(name: str, file: Path, image: Path, class_names: Sequence[str]) -> dict[str, Any]:
    root = _parse(file)
    annotations = []
    for element, place in _objects(root, file):
        label = _class_name(element, place)
        if label not in class_names:
            raise ValueError(f"{place} is a {label}, which is none of the classes {', '.join(class_names)}")
        annotations.append(
            {
                "bbox": _box(element, f"{place} ({label})"),
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": class_names.index(label),
                "iscrowd": int(_text(element, "difficult") not in ("", "0")),
            }
        )
    height, width = _size(root) or read_image_size(image)
    return {
        "file_name": str(image),
        "image_id": name,
        "height": height,
        "width": width,
        "annotations": annotations,
    }


def _parse(file: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(file).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(f"{file} is no valid XML: {error}") from error


def _objects(root: ElementTree.Element, file: Path) -> list[tuple[ElementTree.Element, str]]:
    """The objects, and how messages call them."""
    return [(element, f"{file}, object {number}") for number, element in enumerate(root.findall("object"), start=1)]


def _text(element: ElementTree.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _class_name(element: ElementTree.Element, place: str) -> str:
    label = _text(element, "name")
    if not label:
        raise ValueError(f"{place} has no <name>")
    return label


def _box(element: ElementTree.Element, place: str) -> list[float]:
    words = [_text(element, f"bndbox/{side}") for side in SIDES]
    try:
        x1, y1, x2, y2 = map(float, words)
    except ValueError:
        x1 = y1 = x2 = y2 = math.nan
    # Not-a-number compares false.
    if not (x2 > x1 - 1 and y2 > y1 - 1 and all(map(math.isfinite, (x1, y1, x2, y2)))):
        said = ", ".join(f"{side} {word or 'missing'}" for side, word in zip(SIDES, words))
        raise ValueError(f"{place} has no box with a width and a height: {said}")
    return [x1 - 1, y1 - 1, x2, y2]


def _size(root: ElementTree.Element) -> tuple[int, int] | None:
    """(height, width); None where the annotation does not say, as tools write that make up a 0."""
    words = [_text(root, f"size/{side}") for side in ("height", "width")]
    return (int(words[0]), int(words[1])) if all(word.isdecimal() and int(word) > 0 for word in words) else None
