"""One error of a detector, and the maps that explain it.

Shapes: (h,w) image. Boxes are XYXY in pixels of the image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from odam_d2.evaluation.study.errors.energy import Shares
from odam_d2.show.words import SIDE_WORDS

# What a map is there for: it shows what is behind the error, or how it looks where there is none.
BEHIND, REFERENCE = "behind", "reference"


@dataclass(frozen=True, eq=False)
class View:
    """A map of a case.

    Args:
        role: :data:`BEHIND` or :data:`REFERENCE`.
        target: what was explained: ``class_score``, ``x1``, ``y1``, ``x2`` or ``y2``.
        class_name: as an object of which class.
        title: what it answers, for people.
        box: of the explained prediction, (4,).
        heat: (h,w) in [0,1].
        shares: where its energy lies.
        neighbour_class: class of the neighbour with the most energy on it; empty without one.
    """

    role: str
    target: str
    class_name: str
    title: str
    box: np.ndarray
    heat: np.ndarray
    shares: Shares
    neighbour_class: str


@dataclass(frozen=True, eq=False)
class Case:
    """An error.

    Args:
        kind: a name of :data:`odam_d2.evaluation.detections.error_modes.KINDS`.
        image_id: in the dataset.
        annotation_id: of the object that it is about; empty without one.
        class_name: that was detected; of a missed object its own.
        true_class: of the object; empty without one.
        score: of the detection; of a missed object that of the place that came closest.
        iou: with the object, likewise.
        box: of the detection, (4,), likewise.
        object_box: (4,), or None.
        severity: cases of a kind are ranked by it, the worst first: a detection's score, and of a missed object its
            box's part of the image.
        reason: why, in a few words.
        sides: those that are wrong, the worst first; (side, by what part of the object's extent, outwards positive).
        correlation: cosine of a duplicate's map with that of its rival; None for other kinds.
        views: the maps.
    """

    kind: str
    image_id: str
    annotation_id: str
    class_name: str
    true_class: str
    score: float
    iou: float
    box: np.ndarray
    object_box: np.ndarray | None
    severity: float
    reason: str
    sides: Sequence[tuple[str, float]]
    correlation: float | None
    views: Sequence[View]


def wrong_sides(box: np.ndarray, object_box: np.ndarray, tolerance: float) -> list[tuple[str, float]]:
    """The sides of a box that are not where the object's are.

    Args:
        box: (4,).
        object_box: (4,).
        tolerance: part of the object's extent along the side's axis.

    Returns:
        (side, how far it is outside of the object's, in its extents; negative inside), the furthest first.
    """
    (outwards,) = side_offsets(np.asarray(box)[None], object_box)
    sides = [(side, float(by)) for side, by in zip(SIDE_WORDS, outwards) if abs(by) > tolerance]
    return sorted(sides, key=lambda one: -abs(one[1]))


def side_offsets(boxes: np.ndarray, object_box: np.ndarray) -> np.ndarray:
    """How far the sides of boxes are outside of an object's, in its extents; negative inside.

    Args:
        boxes: (n,4).
        object_box: (4,).

    Returns:
        of left, top, right and bottom side, (n,4).
    """
    extent = np.maximum(object_box[2:] - object_box[:2], 1e-9)
    return (boxes - object_box) * [-1, -1, 1, 1] / np.tile(extent, 2)


def say_side(side: str, by: float) -> str:
    """A wrong side in words: ``right side, 40 % of the width too far out``."""
    length = "width" if side[0] == "x" else "height"
    return f"{SIDE_WORDS[side]} side, {abs(by):.0%} of the object's {length} too far {'out' if by > 0 else 'in'}"
