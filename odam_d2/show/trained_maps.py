"""Heat maps of several detectors side by side, as in the paper's Figure 18: without ODAM-Train, and with it.

Shapes: D predictions of a detector, P pairs, (h,w) image, (mh,mw) heat map spanning it, (hs,ws) figure. Images are RGB
uint8, boxes XYXY in image pixels with continuous coordinates, heat maps float in [0,1].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_lowercase

import numpy as np
from PIL import Image, ImageDraw

from odam_d2.show.overlays import (
    BLACK,
    PALETTE,
    WHITE,
    Colour,
    check_image,
    draw_detection,
    draw_detections,
    load_font,
    overlay,
)
from odam_d2.show.sheets import GAP, MUTED, cut, draw_colour_bar, resize_heat, window_around
from odam_d2.show.words import plural

# Side of a map of a pair, width of the numbers between its two maps, and space around what belongs together.
CELL, MIDDLE, SPACE = 210, 120, 30
# Side of the square of a pair, in longer sides of what its boxes cover together: room for their labels.
ROOM = 1.3
# Pairs beside each other, and rows of pairs next to which the average map stands: it is as high as these, and at most
# so much wider than high.
COLUMNS, ROWS, WIDEST = 2, (2, 3), 1.6
NAME_SIZE, TEXT_SIZE, NUMBER_SIZE = 24, 18, 30
NO_PAIRS = "no two overlapping objects that all detectors found"

# The square in which a pair is shown: corner and side.
Window = tuple[np.ndarray, int]


@dataclass(frozen=True, eq=False)
class DetectorMaps:
    """What one detector says about an image before NMS, and which pairs of its predictions are compared.

    Args:
        name: caption, such as ``with ODAM-Train``.
        boxes: (D,4).
        scores: (D,).
        maps: (D,mh,mw), each scaled to its maximum, so that none outweighs the others.
        pairs: positions of two predictions that NMS keeps as different objects, (P,2).
        iou: of the two boxes of each pair, (P,).
        correlation: of the two maps of each pair, (P,).
    """

    name: str
    boxes: np.ndarray
    scores: np.ndarray
    maps: np.ndarray
    pairs: np.ndarray
    iou: np.ndarray
    correlation: np.ndarray

    def average_map(self, score_threshold: float = 0.1) -> np.ndarray:
        """The average heat map of the predictions that the detector is sure enough of, scaled to its maximum.

        Args:
            score_threshold: predictions count whose score is more than this.

        Returns:
            (mh,mw) in [0,1]; all zero where all maps are.

        Raises:
            ValueError: no such prediction.
        """
        chosen = self.scores > score_threshold
        if not chosen.any():
            highest = f"the highest has {self.scores.max():.2f}" if len(self.scores) else "there is none at all"
            raise ValueError(
                f"{self.name}: no prediction has a score > {score_threshold} ({highest}); lower the score threshold"
            )
        mean = self.maps[chosen].mean(axis=0)
        return mean / mean.max() if mean.max() > 0 else mean


def compare_maps(image: np.ndarray, detectors: Sequence[DetectorMaps], score_threshold: float = 0.1) -> np.ndarray:
    """Figure 18 of the paper: a block for each detector, its average heat map and the maps of pairs of predictions.

    A pair's boxes have one colour each, on the average map too; between its two maps stand the IoU of its boxes and the
    correlation of its maps. All detectors show a pair in the same square of the image.

    Args:
        image: (h,w,3) uint8 RGB.
        detectors: at least one; pair i is of the same two objects for all of them.
        score_threshold: of the average map, see :meth:`DetectorMaps.average_map`.

    Returns:
        (hs,ws,3) uint8.

    Raises:
        ValueError: not an image, pairs in different numbers, a map outside [0,1], or a detector without a prediction
            above the threshold.
    """
    check_image(image)
    counts = [len(detector.pairs) for detector in detectors]
    if len(set(counts)) > 1:
        raise ValueError(f"all detectors must show the same pairs, but they have {counts} of them")
    # (P,2,4) for each detector. A dense detector's boxes may reach far beyond the image.
    limits = np.tile(image.shape[1::-1], 2)
    boxes = [np.clip(detector.boxes[detector.pairs], 0, limits) for detector in detectors]
    windows = [window_around(np.concatenate(own), image.shape[:2], ROOM) for own in zip(*boxes)]
    averages = [_average(image, detector, own, score_threshold) for detector, own in zip(detectors, boxes)]
    captions = [_caption(detector, score_threshold) for detector in detectors]
    # Pairs stand under each other, whatever the captions.
    widths = [average.width for average in averages] + [_length(caption, TEXT_SIZE) for caption in captions]
    blocks = []
    for letter, detector, own, average, caption in zip(ascii_lowercase, detectors, boxes, averages, captions):
        pairs = [_pair(image, detector, own[number], number, window) for number, window in enumerate(windows)]
        blocks.append(_block(f"({letter}) {detector.name}", caption, average, pairs, max(widths) + SPACE))
    header = Image.new("RGB", (max(block.width for block in blocks) + 2 * GAP, TEXT_SIZE + 3 * GAP), WHITE)
    draw_colour_bar(header, TEXT_SIZE + 4)
    height = header.height + sum(block.height for block in blocks) + SPACE * (len(blocks) - 1) + GAP
    figure = Image.new("RGB", (header.width, height), WHITE)
    figure.paste(header, (0, 0))
    y = header.height
    for block in blocks:
        figure.paste(block, (GAP, y))
        y += block.height + SPACE
    return np.asarray(figure)


def _block(title: str, caption: str, average: Image.Image, pairs: Sequence[Image.Image], start: int) -> Image.Image:
    """A detector's name, its average map on the left and, from column ``start`` on, its pairs."""
    top, step = NAME_SIZE + TEXT_SIZE + 2 * GAP, 2 * CELL + MIDDLE + SPACE
    beside = "pairs of predictions kept as different objects" if pairs else NO_PAIRS
    corners = [(start + n % COLUMNS * step, top + n // COLUMNS * (CELL + GAP)) for n in range(len(pairs))]
    right = max(
        [start + _length(beside, TEXT_SIZE), _length(title, NAME_SIZE), *(x + step - SPACE for x, _ in corners)]
    )
    bottom = max([top + average.height, *(y + CELL for _, y in corners)])
    block = Image.new("RGB", (right, bottom), WHITE)
    draw = ImageDraw.Draw(block)
    draw.text((0, 0), title, font=load_font(NAME_SIZE), fill=BLACK)
    for x, text in ((0, caption), (start, beside)):
        draw.text((x, NAME_SIZE + GAP), text, font=load_font(TEXT_SIZE), fill=MUTED)
    block.paste(average, (0, top))
    for corner, pair in zip(corners, pairs):
        block.paste(pair, corner)
    return block


def _caption(detector: DetectorMaps, score_threshold: float) -> str:
    count = int((detector.scores > score_threshold).sum())
    return f"average map of {plural(count, 'prediction')} with a score > {score_threshold:g}"


def _length(text: str, size: int) -> int:
    """Pixels that a line of text takes."""
    return round(load_font(size).getlength(text))


def _average(image: np.ndarray, detector: DetectorMaps, boxes: np.ndarray, score_threshold: float) -> Image.Image:
    """The average map over the image, with the boxes of all pairs and the pairs' numbers."""
    height = min(max(-(-len(boxes) // COLUMNS), ROWS[0]), ROWS[1]) * (CELL + GAP) - GAP
    scale = min(height / image.shape[0], WIDEST * height / image.shape[1])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    photo = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
    picture = overlay(photo, resize_heat(detector.average_map(score_threshold), size))
    labels = [text for number in range(len(boxes)) for text in (str(number + 1), "")]
    colors = [color for number in range(len(boxes)) for color in _colours(number)]
    return Image.fromarray(draw_detections(picture, scale * boxes.reshape(-1, 4), labels, colors, width=2))


def _pair(image: np.ndarray, detector: DetectorMaps, boxes: np.ndarray, number: int, window: Window) -> Image.Image:
    """The two maps of a pair, and the numbers between them."""
    corner, side = window
    photo = cut(image, corner, side, CELL)
    picture = Image.new("RGB", (2 * CELL + MIDDLE, CELL), WHITE)
    boxes = (boxes - np.tile(corner, 2)) * (CELL / side)
    for row, box, color, x in zip(detector.pairs[number], boxes, _colours(number), (0, CELL + MIDDLE)):
        whole = np.clip(resize_heat(detector.maps[row], image.shape[1::-1]), 0, 1)
        covered = overlay(photo, cut(whole, corner, side, CELL))
        picture.paste(Image.fromarray(draw_detection(covered, box, f"{detector.scores[row]:.2f}", color)), (x, 0))
    draw = ImageDraw.Draw(picture)
    lines = (
        (f"pair {number + 1}", TEXT_SIZE, MUTED),
        ("IoU", TEXT_SIZE, MUTED),
        (f"{detector.iou[number]:.2f}", NUMBER_SIZE, BLACK),
        ("correlation", TEXT_SIZE, MUTED),
        (f"{detector.correlation[number]:.2f}", NUMBER_SIZE, BLACK),
    )
    for place, (text, size, ink) in enumerate(lines):
        middle = CELL + MIDDLE // 2, round(CELL * (place + 0.5) / len(lines))
        draw.text(middle, text, font=load_font(size), fill=ink, anchor="mm")
    return picture


def _colours(number: int) -> tuple[Colour, Colour]:
    """Of a pair's two boxes."""
    first = 2 * number % len(PALETTE)
    return PALETTE[first], PALETTE[first + 1]
