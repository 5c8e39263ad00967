"""Where ODAM-KD looks, level by level, as in Figure 16: bottom-up and top-down attention, and both together.

Shapes: G objects, (h,w) image, (hs,ws) sheet. Images are RGB uint8, boxes XYXY in image pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from odam_d2.show.overlays import PALETTE, WHITE, check_image, draw_detection, draw_detections, overlay
from odam_d2.show.sheets import MUTED, boxes_in_cell, fit_cell, resize_heat, stack_cells, widen

# What the columns of the sheet answer.
ATTENTION_MEANINGS = {
    "M_bu": "where the teacher's features are large",
    "M_td": "what key predictions of both rest on",
    "M_att": "their product, where the student learns",
}

# A map is shown from its smallest value, which need not be 0, to its largest.
ENDS = ("smallest in this map", "largest")


@dataclass(frozen=True, eq=False)
class LevelRow:
    """What one level shows.

    Args:
        title: such as ``p3, stride 8``.
        focused: which objects have a key prediction on the level, (G,) bool.
        maps: of each column, (h,w) float in [0,1], each from its smallest value to its largest.
        ranges: these two values of each map, as the loss has them: 1 is the mean of bottom-up and top-down attention.
    """

    title: str
    focused: np.ndarray
    maps: Mapping[str, np.ndarray]
    ranges: Mapping[str, tuple[float, float]]


def attention_sheet(
    image: np.ndarray, boxes: np.ndarray, labels: Sequence[str], rows: Sequence[LevelRow]
) -> np.ndarray:
    """A row a level: the photograph with its focused objects in colour and the others grey, then the maps.

    Args:
        image: (h,w,3) uint8 RGB.
        boxes: of the objects, (G,4) XYXY in image pixels; G = 0 is fine.
        labels: G texts, shown where an object is focused.
        rows: fine to coarse, at least one.

    Returns:
        (hs,ws,3) uint8.

    Raises:
        ValueError: not an image, no row, or boxes, labels and focus of different numbers.
    """
    check_image(image)
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    if not rows:
        raise ValueError("there is no level to show")
    if any(len(row.focused) != len(boxes) for row in rows) or len(labels) != len(boxes):
        counts = [len(row.focused) for row in rows]
        raise ValueError(f"{len(boxes)} boxes do not fit {len(labels)} labels and {counts} objects of the levels")
    photo = fit_cell(image)
    placed = boxes_in_cell(boxes, image, photo)
    cells = [_cells(photo, placed, labels, row) for row in rows]
    titles = [("photograph", "focused objects in colour")]
    titles += [(name, ATTENTION_MEANINGS.get(name, "")) for name in rows[0].maps]
    return stack_cells(cells, titles, ENDS)


def _cells(photo: np.ndarray, boxes: np.ndarray, labels: Sequence[str], row: LevelRow) -> list[np.ndarray]:
    plain = widen(photo)
    whole = boxes_in_cell(np.array([[0.0, 0.0, *photo.shape[1::-1]]]), photo, photo)[0]
    # Focused objects lie on the others.
    order = sorted(range(len(boxes)), key=lambda number: bool(row.focused[number]))
    colours = [PALETTE[number % len(PALETTE)] if row.focused[number] else MUTED for number in order]
    texts = [labels[number] if row.focused[number] else "" for number in order]
    drawn = draw_detections(plain, boxes[order], texts, colours, width=1) if order else plain
    cells = [draw_detection(drawn, whole, f"{row.title}: {int(row.focused.sum())} of {len(boxes)}", WHITE, width=1)]
    for name, heat in row.maps.items():
        covered = widen(overlay(photo, resize_heat(heat, photo.shape[1::-1])))
        low, high = row.ranges[name]
        cells.append(draw_detection(covered, whole, f"{low:.2f} to {high:.2f}", WHITE, width=1))
    return cells
