"""Sheets: all maps of an image, or pairs of candidates that NMS compared, on one picture.

Shapes: D detections, (h,w) image, (hs,ws) sheet. Images are RGB uint8, boxes XYXY in image pixels with continuous
coordinates (an image spans 0..w and 0..h), heat maps float in [0,1].
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from odam_d2.show.overlays import BLACK, PALETTE, WHITE, check_heat, check_image, draw_detection, load_font, overlay
from odam_d2.show.words import NO_DETECTIONS, NO_SUPPORT, STRONGEST, TARGET_MEANINGS

# One target's maps of all detections, or a function from a detection's row to its (h,w) map.
Maps = np.ndarray | Callable[[int], np.ndarray]

MUTED = (96, 96, 96)
# Longest side of a contact sheet's cell; smaller images are enlarged to at least the second, so that text fits.
CELL_SIDE, SMALLEST_CELL_SIDE = 320, 160
COLUMN_WIDTH, GAP, TEXT_SIZE = 220, 10, 17
# Of a title above a whole sheet.
TITLE_SIZE = 24


def contact_sheet(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[str],
    maps: Mapping[str, Maps],
    meanings: Mapping[str, str] = TARGET_MEANINGS,
    captions: Mapping[str, Sequence[str]] | None = None,
) -> np.ndarray:
    """All maps of an image on one page: a row a detection, a column a target, the photograph first.

    Args:
        image: (h,w,3) uint8 RGB.
        boxes: (D,4) XYXY in image pixels.
        labels: D texts, such as class and score.
        maps: target name -> (D,h,w) float in [0,1], or a function from a row to its (h,w) map. Maps of another
            resolution are taken to span the whole image.
        meanings: target name -> what its maps answer, in a few words.
        captions: target name -> D texts that stand on its maps, such as another class's score.

    Returns:
        (hs,ws,3) uint8. Cells are at most :data:`CELL_SIDE` pixels wide and high.

    Raises:
        ValueError: not an image, boxes and labels of different number, or a map outside [0,1].
    """
    check_image(image)
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    if len(boxes) != len(labels):
        raise ValueError(f"{len(boxes)} boxes but {len(labels)} labels")
    photo = fit_cell(image)
    size = photo.shape[1], photo.shape[0]
    if not len(boxes):
        return stack_cells([[widen(photo)]], [("photograph", NO_DETECTIONS)])
    boxes = boxes_in_cell(boxes, image, photo)
    rows = []
    for row, (box, label) in enumerate(zip(boxes, labels)):
        cells = [draw_detection(widen(photo), box, label, PALETTE[row % len(PALETTE)])]
        for target, target_maps in maps.items():
            heat = target_maps(row) if callable(target_maps) else target_maps[row]
            covered = widen(overlay(photo, resize_heat(heat, size)))
            caption = captions[target][row] if captions and target in captions else ""
            cells.append(draw_detection(covered, box, caption, WHITE, width=1))
        rows.append(cells)
    return stack_cells(rows, [("photograph", "what was detected"), *((t, meanings.get(t, "")) for t in maps)])


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
        return stack_cells([[widen(np.asarray(photo))]], [("photograph", "no such pair in this image")])
    rows = []
    for pair in pairs:
        corner, side = window_around(pair.boxes, image.shape[:2])
        boxes = (pair.boxes - np.tile(corner, 2)) * (CELL_SIDE / side)
        photo = cut(image, corner, side)
        cells = [draw_detection(draw_detection(photo, boxes[1], "", PALETTE[1]), boxes[0], "", PALETTE[0])]
        for box, label, heat, color in zip(boxes, pair.labels, pair.maps, PALETTE):
            whole = np.clip(resize_heat(heat, image.shape[1::-1]), 0, 1)
            cells.append(draw_detection(overlay(photo, cut(whole, corner, side)), box, label, color))
        rows.append(cells)
    return stack_cells(rows, titles)


def stack_sheets(parts: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """Sheets under each other, each under its title.

    Args:
        parts: (title, (hs,ws,3) uint8 sheet) of each, at least one.

    Returns:
        (hp,wp,3) uint8, white where a sheet is narrower than the widest.
    """
    font, line = load_font(TITLE_SIZE), TITLE_SIZE + 6
    width = max(sheet.shape[1] for _, sheet in parts)
    titles = [_wrap(title, font, width - 2 * GAP) for title, _ in parts]
    heights = [GAP + line * len(lines) + sheet.shape[0] for lines, (_, sheet) in zip(titles, parts)]
    page = Image.new("RGB", (width, sum(heights)), WHITE)
    draw, y = ImageDraw.Draw(page), 0
    for lines, (_, sheet), height in zip(titles, parts, heights):
        for number, text in enumerate(lines):
            draw.text((GAP, y + GAP + line * number), text, font=font, fill=BLACK)
        page.paste(Image.fromarray(sheet), (0, y + GAP + line * len(lines)))
        y += height
    return np.asarray(page)


def window_around(boxes: np.ndarray, size: tuple[int, int], room: float = 1.6) -> tuple[np.ndarray, int]:
    """The square around boxes, with room, inside the image where it fits.

    Args:
        boxes: (n,4) XYXY in image pixels, n > 0.
        size: (h,w) of the image.
        room: side of the square in longer sides of what the boxes cover together. It is at least 64 pixels, and no
            more than the image's short side where the boxes fit into that.

    Returns:
        its upper left corner (x,y), whole pixels, (2,) int64, and its side in pixels.
    """
    low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    covered = float((high - low).max())
    side = min(max(64, round(room * covered)), max(min(size), round(covered)))
    corner = np.rint((low + high - side) / 2)
    limit = np.maximum(0, np.array(size[::-1]) - side)
    return np.clip(corner, 0, limit).astype(int), side


def cut(pixels: np.ndarray, corner: np.ndarray, side: int, cell: int = CELL_SIDE) -> np.ndarray:
    """A square of an image or a map at the size of a cell; zeros where it reaches beyond.

    Args:
        pixels: (h,w,3) uint8, or (h,w) float.
        corner: of the square, see :func:`window_around`.
        side: of the square in pixels.
        cell: of the cell in pixels.

    Returns:
        (cell,cell,3) uint8, or (cell,cell) float.
    """
    part = pixels[corner[1] : corner[1] + side, corner[0] : corner[0] + side]
    missing = [(0, side - part.shape[0]), (0, side - part.shape[1]), (0, 0)][: part.ndim]
    square = Image.fromarray(np.pad(part, missing))
    return np.asarray(square.resize((cell, cell), Image.Resampling.BILINEAR))


def fit_cell(image: np.ndarray) -> np.ndarray:
    """A photograph at the size of a contact sheet's cell, (h,w,3) uint8 -> (hc,wc,3)."""
    height, width = image.shape[:2]
    side = max(height, width)
    scale = min(max(side, SMALLEST_CELL_SIDE), CELL_SIDE) / side
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def boxes_in_cell(boxes: np.ndarray, image: np.ndarray, photo: np.ndarray) -> np.ndarray:
    """Boxes of an image in its cell, after :func:`widen`, clipped to the photograph, (n,4).

    Args:
        boxes: (n,4) XYXY in image pixels.
        image: (h,w,3).
        photo: of it, see :func:`fit_cell`.
    """
    (height, width), (high, wide) = image.shape[:2], photo.shape[:2]
    scaled = np.clip(boxes * ([wide / width, high / height] * 2), 0, [wide, high] * 2)
    return scaled + [max(0, COLUMN_WIDTH - wide) // 2, 0] * 2


def widen(cell: np.ndarray) -> np.ndarray:
    """White on both sides of a narrow picture, so that labels and titles have room."""
    left = max(0, COLUMN_WIDTH - cell.shape[1]) // 2
    right = max(0, COLUMN_WIDTH - cell.shape[1] - left)
    return np.pad(cell, ((0, 0), (left, right), (0, 0)), constant_values=255)


def resize_heat(heat: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map at another resolution, averaging where it shrinks.

    Args:
        heat: (mh,mw) float in [0,1].
        size: (width, height).

    Returns:
        (height,width) float32.

    Raises:
        ValueError: a value outside [0,1].
    """
    check_heat(heat)
    return np.asarray(Image.fromarray(np.asarray(heat, dtype=np.float32)).resize(size, Image.Resampling.BILINEAR))


def stack_cells(
    rows: Sequence[Sequence[np.ndarray]],
    titles: Sequence[tuple[str, str]],
    ends: tuple[str, str] = (NO_SUPPORT, STRONGEST),
) -> np.ndarray:
    """Cells of one size in rows, under their titles and a colour bar.

    Args:
        rows: cells, each (h,w,3) uint8 RGB.
        titles: name and meaning of each column.
        ends: what the two ends of the colour bar mean.

    Returns:
        (hs,ws,3) uint8.
    """
    height, width = rows[0][0].shape[:2]
    header = _header(titles, width, ends)
    sheet = Image.new("RGB", (header.width, header.height + len(rows) * (height + GAP)), WHITE)
    sheet.paste(header, (0, 0))
    for row, cells in enumerate(rows):
        for column, cell in enumerate(cells):
            corner = GAP + column * (width + GAP), header.height + row * (height + GAP)
            sheet.paste(Image.fromarray(cell), corner)
    return np.asarray(sheet)


def _header(titles: Sequence[tuple[str, str]], column_width: int, ends: tuple[str, str]) -> Image.Image:
    """The titles in columns and, where there are maps, the colour bar above them."""
    name_font, font = load_font(TEXT_SIZE), load_font(TEXT_SIZE - 2)
    line = TEXT_SIZE + 5
    meanings = [_wrap(meaning, font, column_width) for _, meaning in titles]
    top = GAP + (line + GAP if len(titles) > 1 else 0)
    height = top + line * (1 + max(len(lines) for lines in meanings)) + GAP // 2
    header = Image.new("RGB", (GAP + len(titles) * (column_width + GAP), height), WHITE)
    draw = ImageDraw.Draw(header)
    if len(titles) > 1:
        draw_colour_bar(header, line, ends)
    for column, ((name, _), lines) in enumerate(zip(titles, meanings)):
        x = GAP + column * (column_width + GAP)
        draw.text((x, top), name, font=name_font, fill=BLACK)
        for i, text in enumerate(lines):
            draw.text((x, top + line * (i + 1)), text, font=font, fill=MUTED)
    return header


def draw_colour_bar(header: Image.Image, height: int, ends: tuple[str, str] = (NO_SUPPORT, STRONGEST)) -> None:
    """Draw the colours over a middle grey, as the overlays show them, between their two ends in words.

    Args:
        header: in its upper left corner, in place.
        height: of the line in pixels.
        ends: what the two ends mean.
    """
    draw, font = ImageDraw.Draw(header), load_font(TEXT_SIZE - 2)
    bar_width = max(60, min(160, header.width - 3 * GAP - round(font.getlength(ends[0] + ends[1]))))
    ramp = np.tile(np.linspace(0, 1, bar_width, dtype=np.float32), (height - 4, 1))
    grey = np.full((*ramp.shape, 3), 128, dtype=np.uint8)
    x = GAP
    draw.text((x, GAP), ends[0], font=font, fill=BLACK)
    x += round(font.getlength(ends[0])) + GAP
    header.paste(Image.fromarray(overlay(grey, ramp)), (x, GAP))
    draw.text((x + bar_width + GAP, GAP), ends[1], font=font, fill=BLACK)


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Lines no longer than ``width`` pixels, broken at spaces; a word that is longer stands alone."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
