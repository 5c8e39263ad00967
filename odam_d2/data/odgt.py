"""Reading odgt files, CrowdHuman's annotation format, and the detection files of its evaluation tool.

Both hold one JSON object a line. Ground truth: ``{ID, gtboxes: [{tag, fbox, vbox, extra: {ignore}}]}``, detections:
``{ID, height, width, dtboxes: [{box, score, tag}]}``; boxes in the files are XYWH, here XYXY. An error names the file
and the line, nothing is dropped or repaired: a score that rests on half-read data is worse than none.

Shapes: N boxes of an image, D its detections.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np


@dataclass(frozen=True, eq=False)
class OdgtImage:
    """The ground truth of one image.

    Args:
        id: the image's ID.
        boxes: (N,4) float64, full boxes (of the whole person, visible or not), XYXY in pixels; may leave the image.
        ignored: (N,) bool, boxes that are no person (``tag``) or not to be counted (``extra.ignore``).
        height: of the image in pixels, None where the file does not say; CrowdHuman's does not.
        width: likewise.
        visible_boxes: (N,4) float64, XYXY, NaN where the file has none; None for no visible boxes at all.

    Raises:
        ValueError: shapes that do not fit, a number that is not finite, a person without a positive width and height:
            nothing could ever match such a box, and it would count as missed. A region to be ignored may be empty; it
            then covers nothing, as in CrowdHuman's own tool.
    """

    id: str
    boxes: np.ndarray
    ignored: np.ndarray
    height: int | None = None
    width: int | None = None
    visible_boxes: np.ndarray | None = None

    def __post_init__(self) -> None:
        _check_finite(self.boxes, "gtboxes")
        if self.ignored.shape != (len(self.boxes),):
            raise ValueError(f"there are ignore flags of shape {self.ignored.shape} for {len(self.boxes)} boxes")
        _check_sides(self.boxes, "gtboxes", ~self.ignored)


@dataclass(frozen=True, eq=False)
class OdgtDetections:
    """The detections of one image.

    Args:
        id: the image's ID.
        boxes: (D,4) float64, XYXY in pixels; may leave the image.
        scores: (D,) float64, in any order.
        height: of the image in pixels.
        width: likewise.

    Raises:
        ValueError: shapes that do not fit, a number that is not finite, a box without a positive width and height.
    """

    id: str
    boxes: np.ndarray
    scores: np.ndarray
    height: int
    width: int

    def __post_init__(self) -> None:
        _check_finite(self.boxes, "dtboxes")
        _check_sides(self.boxes, "dtboxes", np.ones(len(self.boxes), dtype=bool))
        if self.scores.shape != (len(self.boxes),):
            raise ValueError(f"there are scores of shape {self.scores.shape} for {len(self.boxes)} boxes")
        finite = np.isfinite(self.scores)
        if not finite.all():
            raise ValueError(f"dtboxes[{int(np.argmin(finite))}] has a score that is no finite number")

    def to_json(self) -> str:
        """One line of a detection file, without the line's end."""
        boxes = np.concatenate([self.boxes[:, :2], self.boxes[:, 2:] - self.boxes[:, :2]], axis=1)
        found = [{"box": b, "score": s, "tag": 1} for b, s in zip(boxes.tolist(), self.scores.tolist())]
        return json.dumps({"ID": self.id, "height": self.height, "width": self.width, "dtboxes": found})


def read_odgt(path: str | Path) -> list[OdgtImage]:
    """Read ground truth.

    Args:
        path: an odgt file such as CrowdHuman's ``annotation_val.odgt``.

    Returns:
        the images in the order of the file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line that is not valid JSON, lacks a key, repeats an ID or holds an impossible box; the message
            names file, line and box.
    """
    return _read_lines(path, _parse_image)


def read_detections(path: str | Path) -> list[OdgtDetections]:
    """Read detections.

    Args:
        path: JSON lines ``{ID, height, width, dtboxes: [{box, score, tag}]}``; ``tag`` may be absent and is not read.

    Returns:
        the images in the order of the file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: as for ``read_odgt``.
    """
    return _read_lines(path, _parse_detections)


_Item = TypeVar("_Item", OdgtImage, OdgtDetections)


def _read_lines(path: str | Path, parse: Callable[[Any], _Item]) -> list[_Item]:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    found: dict[str, _Item] = {}
    # A file that is not text becomes invalid JSON, and so an error with a line.
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                item = parse(json.loads(line))
                if item.id in found:
                    raise ValueError(f"the ID {item.id} comes a second time")
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number}: no valid JSON: {error.msg} (column {error.colno})") from error
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from error
            found[item.id] = item
    return list(found.values())


def _parse_image(record: Any) -> OdgtImage:
    found = _list(record, "gtboxes")
    names = [f"gtboxes[{i}]" for i in range(len(found))]
    boxes = _xyxy([_get(box, "fbox", name) for box, name in zip(found, names)], "gtboxes", "fbox")
    ignored = [_get(b, "tag", name) != "person" or _is_ignored(b, name) for b, name in zip(found, names)]
    visible = _xyxy([box.get("vbox", [np.nan] * 4) for box in found], "gtboxes", "vbox")
    size = [_size(record, key) if key in record else None for key in ("height", "width")]
    return OdgtImage(_id(record), boxes, np.array(ignored, dtype=bool), *size, visible)


def _parse_detections(record: Any) -> OdgtDetections:
    found = _list(record, "dtboxes")
    names = [f"dtboxes[{i}]" for i in range(len(found))]
    boxes = _xyxy([_get(box, "box", name) for box, name in zip(found, names)], "dtboxes", "box")
    try:
        scores = np.array([_get(box, "score", name) for box, name in zip(found, names)], dtype=np.float64)
    except TypeError as error:
        raise ValueError("dtboxes hold a score that is no number") from error
    return OdgtDetections(_id(record), boxes, scores, _size(record, "height"), _size(record, "width"))


def _get(record: Any, key: str, name: str = "the line") -> Any:
    if not isinstance(record, dict):
        raise ValueError(f"{name} is no JSON object")
    if key not in record:
        raise ValueError(f"{name} lacks the key {key!r}")
    return record[key]


def _id(record: Any) -> str:
    value = _get(record, "ID")
    if not isinstance(value, (str, int)):
        raise ValueError(f"the ID is {value!r}; it must be a string")
    return str(value)


def _size(record: Any, key: str) -> int:
    value = _get(record, key)
    # A boolean is an int to Python.
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"the {key} is {value!r}; it must be a positive whole number of pixels")
    return value


def _list(record: Any, key: str) -> list[Any]:
    value = _get(record, key)
    if not isinstance(value, list):
        raise ValueError(f"{key} is no list")
    return value


def _is_ignored(box: dict[str, Any], name: str) -> bool:
    extra = box.get("extra", {})
    if not isinstance(extra, dict):
        raise ValueError(f"{name} has an 'extra' that is no JSON object")
    return extra.get("ignore", 0) != 0


def _xyxy(boxes: list[Any], name: str, key: str) -> np.ndarray:
    for i, box in enumerate(boxes):
        if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, (int, float)) for v in box):
            raise ValueError(f"{name}[{i}] has the {key} {box!r}; it must be [x, y, width, height]")
    array = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    array[:, 2:] += array[:, :2]
    return array


def _check_finite(boxes: np.ndarray, name: str) -> None:
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{name} must have shape (N,4), not {boxes.shape}")
    finite = np.isfinite(boxes).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise ValueError(f"{name}[{row}] holds a number that is not finite: x1, y1, x2, y2 = {boxes[row].tolist()}")


def _check_sides(boxes: np.ndarray, name: str, checked: np.ndarray) -> None:
    bad = checked & ~(boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(f"{name}[{row}] has no positive width and height: x1, y1, x2, y2 = {boxes[row].tolist()}")
