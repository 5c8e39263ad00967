"""Pictures of an error: the photograph around it, and its maps beside each other.

Shapes: (h,w) image, (cell,cell) picture. Images are RGB uint8.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from odam_d2.evaluation.study.errors.cases import REFERENCE, Case, View
from odam_d2.show.overlays import PALETTE, WHITE, check_image, draw_detections, overlay
from odam_d2.show.sheets import cut, window_around

# Of a box with several wrong sides, the worst so many are shown; maps.csv has them all.
SHOWN_SIDES = 2
# Side of a picture on the page, and how good its JPEG is.
CELL, QUALITY = 260, 80


@dataclass(frozen=True)
class Picture:
    """A picture with what stands under it.

    Args:
        jpeg: base64.
        title: what it shows.
        caption: where the energy of its map lies; empty of a photograph.
        reference: whether it shows how it looks without the error.
    """

    jpeg: str
    title: str
    caption: str
    reference: bool


def draw_case(case: Case, image: np.ndarray) -> list[Picture]:
    """The photograph with the error, then its maps.

    Args:
        case: the error.
        image: (h,w,3) uint8 RGB.

    Raises:
        ValueError: not an image.
    """
    check_image(image)
    sides = [side for side, _ in case.sides]
    views = [view for view in case.views if view.target not in sides[SHOWN_SIDES:]]
    boxes = [case.box, *([] if case.object_box is None else [case.object_box]), *(view.box for view in views)]
    corner, side = window_around(np.array(boxes), image.shape[:2])
    photo = cut(image, corner, side, CELL)
    shown = [case.box] if case.object_box is None else [case.object_box, case.box]
    colours = [WHITE, PALETTE[0]][-len(shown) :]
    drawn = draw_detections(photo, [_inside(box, corner, side) for box in shown], [""] * len(shown), colours, width=2)
    pictures = [Picture(_jpeg(drawn), _title(case), "", False)]
    for view in views:
        heat = np.clip(cut(view.heat.astype(np.float32), corner, side, CELL), 0, 1)
        drawn = draw_detections(overlay(photo, heat), [_inside(view.box, corner, side)], [""], [WHITE], width=1)
        pictures.append(Picture(_jpeg(drawn), view.title, _energy(view), view.role == REFERENCE))
    return pictures


def _title(case: Case) -> str:
    detected = f"{case.class_name} {case.score:.2f}"
    if case.object_box is None:
        return detected
    if case.kind == "missed":
        return f"white: the missed {case.true_class}; coloured: the place that came closest"
    return f"coloured: {detected}; white: {case.true_class}, IoU {case.iou:.2f}"


def _energy(view: View) -> str:
    shares = view.shares
    if np.isnan(shares.object):
        return "an all-zero map"
    near = f" ({view.neighbour_class})" if view.neighbour_class and shares.neighbour >= 0.005 else ""
    parts = [
        f"{shares.object:.0%} object",
        f"{shares.neighbour:.0%} neighbour{near}",
        f"{shares.background:.0%} background",
    ]
    return ", ".join(parts).replace("%", " %")


def _inside(box: np.ndarray, corner: np.ndarray, side: int) -> Sequence[float]:
    return ((np.asarray(box) - np.tile(corner, 2)) * (CELL / side)).tolist()


def _jpeg(picture: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=QUALITY)
    return base64.b64encode(buffer.getvalue()).decode()
