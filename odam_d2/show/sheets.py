"""Pictures of heat maps: colours, overlays, boxes with labels, and contact sheets.

Shapes: D detections, (h,w) image, (hs,ws) sheet. Images are RGB uint8, boxes XYXY in image pixels with continuous
coordinates (an image spans 0..w and 0..h), heat maps float in [0,1].
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
# One target's maps of all detections, or a function from a detection's row to its (h,w) map.
Maps = np.ndarray | Callable[[int], np.ndarray]

# Heat as colour: brightness rises evenly from black over red to pale yellow, so the order of two places is seen
# without knowing the scale, in grey print and with any kind of colour blindness too.
LUT: np.ndarray = np.rint(255 * matplotlib.colormaps["inferno"](np.arange(256))[:, :3]).astype(np.uint8)
# Under a heat map the photograph keeps this part of its colourfulness and of its brightness: bright and colourful then
# always means heat, while everything stays recognisable.
SATURATION, BRIGHTNESS = 0.35, 0.6
# How far the strongest heat covers the photograph. Opacity falls to none at zero heat as the square root does: falling
# linearly it would hide the middle of the scale, whose colours are darker too.
OPACITY = 0.75
# Weights of red, green and blue in grey, those of the CSS filters: the browsable page looks like the sheets.
GREY_WEIGHTS = (0.213, 0.715, 0.072)

# Bright enough to be seen on a photograph, and easy to tell apart; detections take them in turn.
PALETTE: tuple[Colour, ...] = (
    (255, 196, 0),
    (0, 200, 255),
    (255, 105, 180),
    (110, 230, 90),
    (255, 130, 40),
    (190, 150, 255),
    (0, 225, 180),
    (255, 95, 85),
    (205, 220, 60),
    (120, 170, 255),
)
WHITE, BLACK, MUTED = (255, 255, 255), (0, 0, 0), (96, 96, 96)

# What a target's map answers.
TARGET_MEANINGS = {
    "class_score": "why this class",
    "class_logit": "why this class (before the sigmoid/softmax)",
    "x1": "why its left side is there",
    "y1": "why its top side is there",
    "x2": "why its right side is there",
    "y2": "why its bottom side is there",
    "combined": "everything together",
}
# D-RISE compares whole detections, box and class, whatever its only target is called.
DRISE_MEANINGS = {"class_score": "why this box with this class"}
NO_INFLUENCE, STRONGEST = "0 = no influence", "1 = strongest in this map"
NO_DETECTIONS = "no detections above the threshold"

# Longest side of a contact sheet's cell; smaller images are enlarged to at least the second, so that text fits.
CELL_SIDE, SMALLEST_CELL_SIDE = 320, 160
COLUMN_WIDTH, GAP, TEXT_SIZE = 220, 10, 17
# Rounding may leave [0,1] by this much.
TOLERANCE = 1e-3


def check_heat(heat: np.ndarray, name: str = "heat") -> None:
    """Refuse maps that colours would misrepresent.

    Args:
        heat: any shape.
        name: how the message calls it.

    Raises:
        ValueError: NaN, or a value outside [0,1].
    """
    if heat.size and not (heat.min() >= -TOLERANCE and heat.max() <= 1 + TOLERANCE):
        raise ValueError(f"{name} must lie in [0,1]; it spans {heat.min()}..{heat.max()}")


def check_image(image: np.ndarray) -> None:
    """Refuse what is not a picture.

    Raises:
        ValueError: not a non-empty (h,w,3) uint8 array.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(f"an image must be (h,w,3) uint8, not {image.shape} {image.dtype}")


def colorize(heat: np.ndarray) -> np.ndarray:
    """Colours of a heat map: black for 0 over red to pale yellow for 1.

    Args:
        heat: (h,w) float in [0,1].

    Returns:
        (h,w,3) uint8 RGB: row ``round(255 * heat)`` of :data:`LUT`.

    Raises:
        ValueError: NaN, or a value outside [0,1].
    """
    check_heat(heat)
    return LUT[np.rint(np.clip(heat, 0, 1) * 255).astype(np.uint8)]


def dim(image: np.ndarray) -> np.ndarray:
    """The photograph as it stands under a heat map: paler and darker.

    Args:
        image: (h,w,3) uint8 RGB.

    Returns:
        (h,w,3) float32 in [0,255]: ``BRIGHTNESS * (SATURATION * image + (1 - SATURATION) * grey)``.
    """
    pixels = image.astype(np.float32)
    grey = pixels @ np.array(GREY_WEIGHTS, dtype=np.float32)
    return BRIGHTNESS * (SATURATION * pixels + (1 - SATURATION) * grey[..., None])


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A heat map over a photograph, the more opaque the hotter: what does not matter keeps showing the photograph.

    Args:
        image: (h,w,3) uint8 RGB.
        heat: (h,w) float in [0,1].

    Returns:
        (h,w,3) uint8: ``(1 - a) * dim(image) + a * colorize(heat)`` with ``a = OPACITY * sqrt(heat)``.

    Raises:
        ValueError: sizes differ, NaN, or a value outside [0,1].
    """
    check_image(image)
    if heat.shape != image.shape[:2]:
        raise ValueError(f"a heat map of shape {heat.shape} does not cover an image of shape {image.shape[:2]}")
    alpha = (OPACITY * np.sqrt(np.clip(heat, 0, 1))).astype(np.float32)[..., None]
    return np.rint((1 - alpha) * dim(image) + alpha * colorize(heat)).astype(np.uint8)


def draw_detection(
    image: np.ndarray, box: Sequence[float], label: str, color: Colour, width: int | None = None
) -> np.ndarray:
    """A box and its label on a filled tab, all inside the picture.

    Args:
        image: (h,w,3) uint8 RGB.
        box: (4,) XYXY in pixels; the line lies inside it, on columns ``round(x1)`` to ``round(x2) - 1`` and rows
            likewise, clipped to the picture.
        label: text; empty for none. Shrinks to fit, and is left out where even small text would not.
        color: of line and tab.
        width: of the line in pixels; default grows with the picture. One dark pixel sets it off towards the inside.

    Returns:
        A copy, (h,w,3) uint8.

    Raises:
        ValueError: not an image, or a box that is not four finite numbers.
    """
    check_image(image)
    if len(box) != 4 or not np.isfinite(box).all():
        raise ValueError(f"a box must be four finite numbers, not {list(box)}")
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    scale = (picture.width * picture.height) ** 0.5
    width = 1 + round(scale / 260) if width is None else width
    x1, y1, x2, y2 = _pixels(box, picture.size)
    for thickness, fill in ((width + 1, BLACK), (width, color)):
        draw.rectangle((x1, y1, x2, y2), outline=fill, width=thickness)
    if label:
        _draw_tab(draw, (x1, y1, x2, y2), label, color, max(14, round(0.028 * scale)))
    return np.asarray(picture)


def _pixels(box: Sequence[float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """First and last column and row a box covers, at least one pixel of the picture."""
    sides = []
    for low, high, length in ((box[0], box[2], size[0]), (box[1], box[3], size[1])):
        first = min(max(round(float(low)), 0), length - 1)
        sides.append((first, min(max(round(float(high)) - 1, first), length - 1)))
    return sides[0][0], sides[1][0], sides[0][1], sides[1][1]


def _draw_tab(
    draw: ImageDraw.ImageDraw, pixels: tuple[int, int, int, int], label: str, color: Colour, size: int
) -> None:
    """A label above its box where there is room, else inside the box's top; never across the picture's border."""
    picture_width, picture_height = draw.im.size
    for text_size in range(size, 6, -1):
        font = _font(text_size)
        pad = max(1, text_size // 4)
        # Ascent and descent, not the text's own height: tabs of all labels are equally high.
        width, height = round(font.getlength(label)) + 2 * pad, sum(font.getmetrics()) + pad // 2
        if width <= picture_width and height <= picture_height:
            break
    else:
        return
    x = min(pixels[0], picture_width - width)
    y = pixels[1] - height if pixels[1] >= height else min(pixels[1], picture_height - height)
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill=color)
    ink = BLACK if np.dot(color, GREY_WEIGHTS) > 110 else WHITE
    draw.text((x + pad, y + pad // 4), label, font=font, fill=ink)


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font that comes with matplotlib: Pillow's own lacks every letter outside ASCII."""
    try:
        return ImageFont.truetype(os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)
    except OSError:
        return ImageFont.load_default(size)


def contact_sheet(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[str],
    maps: Mapping[str, Maps],
    meanings: Mapping[str, str] = TARGET_MEANINGS,
) -> np.ndarray:
    """All maps of an image on one page: a row a detection, a column a target, the photograph first.

    Args:
        image: (h,w,3) uint8 RGB.
        boxes: (D,4) XYXY in image pixels.
        labels: D texts, such as class and score.
        maps: target name -> (D,h,w) float in [0,1], or a function from a row to its (h,w) map. Maps of another
            resolution are taken to span the whole image.
        meanings: target name -> what its maps answer, in a few words.

    Returns:
        (hs,ws,3) uint8. Cells are at most :data:`CELL_SIDE` pixels wide and high.

    Raises:
        ValueError: not an image, boxes and labels of different number, or a map outside [0,1].
    """
    check_image(image)
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    if len(boxes) != len(labels):
        raise ValueError(f"{len(boxes)} boxes but {len(labels)} labels")
    height, width = image.shape[:2]
    side = max(height, width)
    scale = min(max(side, SMALLEST_CELL_SIDE), CELL_SIDE) / side
    size = max(1, round(width * scale)), max(1, round(height * scale))
    photo = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
    if not len(boxes):
        return _stack([[_widen(photo)]], [("photograph", NO_DETECTIONS)])
    boxes = np.clip(boxes * ([size[0] / width, size[1] / height] * 2), 0, [*size, *size])
    boxes += [max(0, COLUMN_WIDTH - size[0]) // 2, 0] * 2
    rows = []
    for row, (box, label) in enumerate(zip(boxes, labels)):
        cells = [draw_detection(_widen(photo), box, label, PALETTE[row % len(PALETTE)])]
        for target_maps in maps.values():
            heat = target_maps(row) if callable(target_maps) else target_maps[row]
            covered = _widen(overlay(photo, _resize_heat(heat, size)))
            cells.append(draw_detection(covered, box, "", WHITE, width=1))
        rows.append(cells)
    return _stack(rows, [("photograph", "what was detected"), *((t, meanings.get(t, "")) for t in maps)])


@dataclass(frozen=True, eq=False)
class Pair:
    """Two candidates that NMS compared.

    Args:
        boxes: the better one's and the other's, (2,4) XYXY in image pixels.
        labels: of the two, such as ``kept 0.93`` and ``removed 0.81: IoU 0.61, correlation 0.97``.
        maps: of the two, (2,mh,mw) float in [0,1], spanning the image.
    """

    boxes: np.ndarray
    labels: tuple[str, str]
    maps: np.ndarray


def pair_sheet(image: np.ndarray, pairs: Sequence[Pair]) -> np.ndarray:
    """Pairs of candidates on one page: a row a pair, the photograph with both boxes, then each one's heat map.

    Args:
        image: (h,w,3) uint8 RGB.
        pairs: what to show.

    Returns:
        (hs,ws,3) uint8.

    Raises:
        ValueError: not an image, or a map outside [0,1].
    """
    check_image(image)
    titles = [("photograph", "both boxes"), ("the better one", "where it looked"), ("the other", "where it looked")]
    if not len(pairs):
        photo = Image.fromarray(image)
        photo.thumbnail((CELL_SIDE, CELL_SIDE))
        return _stack([[_widen(np.asarray(photo))]], [("photograph", "no such pair in this image")])
    rows = []
    for pair in pairs:
        corner, side = _window(pair.boxes, image.shape[:2])
        boxes = (pair.boxes - np.tile(corner, 2)) * (CELL_SIDE / side)
        photo = _cut(image, corner, side)
        cells = [draw_detection(draw_detection(photo, boxes[1], "", PALETTE[1]), boxes[0], "", PALETTE[0])]
        for box, label, heat, color in zip(boxes, pair.labels, pair.maps, PALETTE):
            whole = np.clip(_resize_heat(heat, image.shape[1::-1]), 0, 1)
            cells.append(draw_detection(overlay(photo, _cut(whole, corner, side)), box, label, color))
        rows.append(cells)
    return _stack(rows, titles)


def _window(boxes: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, int]:
    """The square around boxes, with room, inside the image where it fits: corner (x,y) and side in pixels."""
    low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    side = max(64, round(1.6 * float((high - low).max())))
    corner = np.rint((low + high - side) / 2)
    limit = np.maximum(0, np.array(size[::-1]) - side)
    return np.clip(corner, 0, limit).astype(int), side


def _cut(pixels: np.ndarray, corner: np.ndarray, side: int) -> np.ndarray:
    """A square of an image or a map at the size of a cell; zeros where it reaches beyond."""
    part = pixels[corner[1] : corner[1] + side, corner[0] : corner[0] + side]
    missing = [(0, side - part.shape[0]), (0, side - part.shape[1]), (0, 0)][: part.ndim]
    square = Image.fromarray(np.pad(part, missing))
    return np.asarray(square.resize((CELL_SIDE, CELL_SIDE), Image.Resampling.BILINEAR))


def _widen(cell: np.ndarray) -> np.ndarray:
    """White on both sides of a narrow picture, so that labels and titles have room."""
    left = max(0, COLUMN_WIDTH - cell.shape[1]) // 2
    right = max(0, COLUMN_WIDTH - cell.shape[1] - left)
    return np.pad(cell, ((0, 0), (left, right), (0, 0)), constant_values=255)


def _resize_heat(heat: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map at another resolution, (width, height), averaging where it shrinks."""
    check_heat(heat)
    return np.asarray(Image.fromarray(np.asarray(heat, dtype=np.float32)).resize(size, Image.Resampling.BILINEAR))


def _stack(rows: Sequence[Sequence[np.ndarray]], titles: Sequence[tuple[str, str]]) -> np.ndarray:
    """Cells of one size in rows, under titles (name, meaning) and a colour bar."""
    height, width = rows[0][0].shape[:2]
    header = _header(titles, width)
    sheet = Image.new("RGB", (header.width, header.height + len(rows) * (height + GAP)), WHITE)
    sheet.paste(header, (0, 0))
    for row, cells in enumerate(rows):
        for column, cell in enumerate(cells):
            corner = GAP + column * (width + GAP), header.height + row * (height + GAP)
            sheet.paste(Image.fromarray(cell), corner)
    return np.asarray(sheet)


def _header(titles: Sequence[tuple[str, str]], column_width: int) -> Image.Image:
    """The titles in columns and, where there are maps, the colour bar above them."""
    name_font, font = _font(TEXT_SIZE), _font(TEXT_SIZE - 2)
    line = TEXT_SIZE + 5
    meanings = [_wrap(meaning, font, column_width) for _, meaning in titles]
    top = GAP + (line + GAP if len(titles) > 1 else 0)
    height = top + line * (1 + max(len(lines) for lines in meanings)) + GAP // 2
    header = Image.new("RGB", (GAP + len(titles) * (column_width + GAP), height), WHITE)
    draw = ImageDraw.Draw(header)
    if len(titles) > 1:
        _draw_colour_bar(header, line)
    for column, ((name, _), lines) in enumerate(zip(titles, meanings)):
        x = GAP + column * (column_width + GAP)
        draw.text((x, top), name, font=name_font, fill=BLACK)
        for i, text in enumerate(lines):
            draw.text((x, top + line * (i + 1)), text, font=font, fill=MUTED)
    return header


def _draw_colour_bar(header: Image.Image, height: int) -> None:
    """The colours over a middle grey, as the overlays show them, between their two ends in words."""
    draw, font = ImageDraw.Draw(header), _font(TEXT_SIZE - 2)
    bar_width = max(60, min(160, header.width - 3 * GAP - round(font.getlength(NO_INFLUENCE + STRONGEST))))
    ramp = np.tile(np.linspace(0, 1, bar_width, dtype=np.float32), (height - 4, 1))
    grey = np.full((*ramp.shape, 3), 128, dtype=np.uint8)
    x = GAP
    draw.text((x, GAP), NO_INFLUENCE, font=font, fill=BLACK)
    x += round(font.getlength(NO_INFLUENCE)) + GAP
    header.paste(Image.fromarray(overlay(grey, ramp)), (x, GAP))
    draw.text((x + bar_width + GAP, GAP), STRONGEST, font=font, fill=BLACK)


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Lines no longer than ``width`` pixels, broken at spaces; a word that is longer stands alone."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
