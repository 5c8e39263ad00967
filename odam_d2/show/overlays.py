"""Heat maps and detections on a photograph: colours, overlays, boxes with labels.

Shapes: (h,w) image. Images are RGB uint8, boxes XYXY in image pixels with continuous coordinates (an image spans 0..w
and 0..h), heat maps float in [0,1].
"""

import os
from collections.abc import Iterator, Sequence
from functools import lru_cache

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
# First column and row, and last ones.
_Place = tuple[int, int, int, int]

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
WHITE, BLACK = (255, 255, 255), (0, 0, 0)

# Rounding may leave [0,1] by this much.
TOLERANCE = 1e-3
# Overlays are mixed for so many pixels at a time: as floats, a whole 12-megapixel photograph takes half a gigabyte.
STRIP_PIXELS = 2**16


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
    check_heat(heat)
    covered = np.empty_like(image)
    for rows in _strips(image):
        alpha = (OPACITY * np.sqrt(np.clip(heat[rows], 0, 1))).astype(np.float32)[..., None]
        covered[rows] = np.rint((1 - alpha) * dim(image[rows]) + alpha * colorize(heat[rows]))
    return covered


def lay_over(image: np.ndarray, drawing: np.ndarray) -> np.ndarray:
    """A drawing on an image; memory and time go to the pixels that are drawn on.

    Args:
        image: (h,w,3) uint8 RGB.
        drawing: (h,w,4) uint8 RGBA, colours not multiplied by their opacity.

    Returns:
        A copy, (h,w,3) uint8: ``(1 - a) * image + a * colours`` with ``a`` = opacity / 255.

    Raises:
        ValueError: not an image, or sizes differ.
    """
    check_image(image)
    if drawing.shape != (*image.shape[:2], 4):
        raise ValueError(f"a drawing of shape {drawing.shape} does not cover an image of shape {image.shape[:2]}")
    covered = image.copy()
    for rows in _strips(image):
        drawn = drawing[rows, :, 3] > 0
        colours, opacity = drawing[rows, :, :3][drawn], drawing[rows, :, 3][drawn, None] / np.float32(255)
        covered[rows][drawn] = np.rint((1 - opacity) * covered[rows][drawn] + opacity * colours)
    return covered


def _strips(image: np.ndarray) -> Iterator[slice]:
    """Rows of an image, of :data:`STRIP_PIXELS` pixels at a time."""
    step = max(1, STRIP_PIXELS // image.shape[1])
    for first in range(0, len(image), step):
        yield slice(first, first + step)


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
    return draw_detections(image, [box], [label], [color], width)


def draw_detections(
    image: np.ndarray,
    boxes: Sequence[Sequence[float]] | np.ndarray,
    labels: Sequence[str],
    colors: Sequence[Colour],
    width: int | None = None,
) -> np.ndarray:
    """Boxes and their labels: no line crosses a label, and no label covers another unless there is room nowhere else.

    Args:
        image: (h,w,3) uint8 RGB.
        boxes: D of them, each as for :func:`draw_detection`, as is all that follows.
        labels: D texts.
        colors: D colours.
        width: of the lines.

    Returns:
        A copy, (h,w,3) uint8.

    Raises:
        ValueError: as there.
    """
    check_image(image)
    for box in boxes:
        if len(box) != 4 or not np.isfinite(box).all():
            raise ValueError(f"a box must be four finite numbers, not {list(box)}")
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    scale = (picture.width * picture.height) ** 0.5
    width = 1 + round(scale / 260) if width is None else width
    places = [_pixels(box, picture.size) for box in boxes]
    for place, color in zip(places, colors):
        for thickness, fill in ((width + 1, BLACK), (width, color)):
            draw.rectangle(place, outline=fill, width=thickness)
    taken: list[_Place] = []
    for place, label, color in zip(places, labels, colors):
        if label:
            _draw_tab(draw, place, label, color, max(14, round(0.028 * scale)), taken)
    return np.asarray(picture)


def _pixels(box: Sequence[float], size: tuple[int, int]) -> _Place:
    """First and last column and row a box covers, at least one pixel of the picture."""
    sides = []
    for low, high, length in ((box[0], box[2], size[0]), (box[1], box[3], size[1])):
        first = min(max(round(float(low)), 0), length - 1)
        sides.append((first, min(max(round(float(high)) - 1, first), length - 1)))
    return sides[0][0], sides[1][0], sides[0][1], sides[1][1]


def _draw_tab(
    draw: ImageDraw.ImageDraw, pixels: _Place, label: str, color: Colour, size: int, taken: list[_Place]
) -> None:
    """A label above its box where there is room, else inside the box's top; never across the picture's border.

    Where other labels have ``taken`` that place, it stands at the right end or below; its own place joins them.
    """
    picture_width, picture_height = draw.im.size
    for text_size in range(size, 6, -1):
        font = load_font(text_size)
        pad = max(1, text_size // 4)
        # Ascent and descent, not the text's own height: tabs of all labels are equally high.
        width, height = round(font.getlength(label)) + 2 * pad, sum(font.getmetrics()) + pad // 2
        if width <= picture_width and height <= picture_height:
            break
    else:
        return
    left, right = min(pixels[0], picture_width - width), max(0, pixels[2] - width + 1)
    top = pixels[1] - height if pixels[1] >= height else min(pixels[1], picture_height - height)
    below = min(pixels[3] + 1, picture_height - height)
    places = [(x, y, x + width - 1, y + height - 1) for y in (top, below) for x in (left, right)]
    place = next((place for place in places if not any(_overlap(place, other) for other in taken)), places[0])
    taken.append(place)
    draw.rectangle(place, fill=color)
    ink = BLACK if np.dot(color, GREY_WEIGHTS) > 110 else WHITE
    draw.text((place[0] + pad, place[1] + pad // 4), label, font=font, fill=ink)


def _overlap(first: _Place, second: _Place) -> bool:
    return all(first[i] <= second[i + 2] and second[i] <= first[i + 2] for i in (0, 1))


@lru_cache(maxsize=64)
def load_font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font that comes with matplotlib: Pillow's own lacks every letter outside ASCII.

    Args:
        size: in pixels.
    """
    try:
        return ImageFont.truetype(os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)
    except OSError:
        return ImageFont.load_default(size)
