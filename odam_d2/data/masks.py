"""Objects' masks from COCO's annotations: polygons and run-length encodings.

pycocotools trusts what it is given: of an encoding that does not fill its mask it reads memory that nobody wrote, and a
coordinate that is not finite ends the program. What is wrong is therefore found before.

Shapes: (h,w) image.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

# A polygon needs three points; COCO has some with less.
POLYGON_NUMBERS = 6
# pycocotools walks along the outline in fifths of a pixel: this far outside of any image it runs out of memory.
MAX_COORDINATE = 100_000


def object_mask(segmentation: Sequence | dict, height: int, width: int) -> np.ndarray:
    """An object's mask from its COCO annotation.

    Args:
        segmentation: polygons [[x1, y1, x2, y2, ...], ...], of which the mask is the union; or a run-length encoding
            {"size": [h, w], "counts": ...}, with a list of counts, as crowd regions have it, or compressed.
        height: h of the image.
        width: w of the image.

    Returns:
        (h,w) bool.

    Raises:
        ValueError: as for :func:`check_segmentation`, or no polygon of three points.
    """
    check_segmentation(segmentation, height, width)
    if isinstance(segmentation, dict):
        compressed = isinstance(segmentation["counts"], (str, bytes))
        encoding = segmentation if compressed else coco_mask.frPyObjects(segmentation, height, width)
    else:
        polygons = [list(map(float, polygon)) for polygon in segmentation if len(polygon) >= POLYGON_NUMBERS]
        if not polygons:
            raise ValueError(f"a mask needs a polygon of at least three points, not {segmentation}")
        encoding = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    return coco_mask.decode(encoding).astype(bool)


def check_segmentation(segmentation: Any, height: int, width: int) -> None:
    """Refuse what is no mask of an image.

    Polygons of less than three points are none, and pass: COCO itself has some.

    Args:
        segmentation: as for :func:`object_mask`.
        height: h of the image.
        width: w of the image.

    Raises:
        ValueError: neither polygons nor a run-length encoding, coordinates that are no numbers or far from any image,
            or an encoding that does not fill exactly an image of this size.
    """
    if isinstance(segmentation, dict):
        _check_encoding(segmentation, height, width)
        return
    if not isinstance(segmentation, (list, tuple)):
        raise ValueError(f"the segmentation is {_short(segmentation)}; it must be polygons or a run-length encoding")
    for polygon in segmentation:
        if not isinstance(polygon, (list, tuple, np.ndarray)):
            raise ValueError(
                f"the segmentation holds {_short(polygon)} where a polygon should be; write [[x1, y1, x2, y2, ...]], "
                "a list of polygons"
            )
        try:
            numbers = np.array(polygon)
        except ValueError:
            numbers = np.array(None)
        if numbers.ndim != 1 or len(numbers) % 2 or (len(numbers) and numbers.dtype.kind not in "iuf"):
            raise ValueError(f"the segmentation holds the polygon {_short(polygon)}; it must be [x1, y1, x2, y2, ...]")
        # Not finite is not <= either.
        if not (np.abs(numbers) <= MAX_COORDINATE).all():
            raise ValueError(f"the polygon {_short(polygon)} leaves any image; coordinates are pixels")


def _check_encoding(encoding: dict[str, Any], height: int, width: int) -> None:
    for key in ("size", "counts"):
        if key not in encoding:
            raise ValueError(f"a run-length encoding lacks the key {key!r}")
    size, counts = encoding["size"], encoding["counts"]
    if not isinstance(size, (list, tuple, np.ndarray)) or tuple(size) != (height, width):
        size = tuple(size) if isinstance(size, (list, tuple, np.ndarray)) else size
        raise ValueError(f"a run-length encoding of size {size} does not fit an image of size {(height, width)}")
    if isinstance(counts, (str, bytes)):
        counts = _decompress(counts.encode() if isinstance(counts, str) else counts)
    elif not isinstance(counts, (list, tuple)) or not all(_is_whole(count) for count in counts):
        raise ValueError(f"the counts {_short(counts)} of a run-length encoding must be whole numbers, or compressed")
    if min(counts, default=0) < 0:
        raise ValueError(f"a run-length encoding has a run of {min(counts)} pixels")
    if sum(counts) != height * width:
        raise ValueError(f"run lengths of {sum(counts)} pixels do not fill an image of size {(height, width)}")


def _decompress(code: bytes) -> list[int]:
    """The run lengths of COCO's compressed form.

    Each number is written in groups of five bits, the lowest first: a byte is 48 + 32 (where another group follows) +
    the group; the last group's highest bit is the sign. From the fourth number on it is the difference from the last
    but one.

    Raises:
        ValueError: bytes that are no such groups, or a number that breaks off.
    """
    counts: list[int] = []
    value = shift = 0
    for byte in code:
        group = byte - 48
        if not 0 <= group < 64:
            raise ValueError(f"a compressed run-length encoding holds the character {chr(byte)!r}")
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("a compressed run-length encoding breaks off")
    return counts


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
