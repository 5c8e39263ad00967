"""One detection of a transformer, from attention to ODAM, as in the paper's Figure 7.

Shapes: n points, (h,w) image, (mh,mw) heat map spanning it, (hs,ws) figure. Images are RGB uint8, boxes XYXY and points
(x,y) in image pixels with continuous coordinates, heat maps float in [0,1].
"""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from odam_d2.show.overlays import BLACK, PALETTE, WHITE, check_image, draw_detection, load_font, overlay
from odam_d2.show.sheets import boxes_in_cell, fit_cell, resize_heat, stack_cells, widen
from odam_d2.show.words import NO_ATTENTION, NO_SUPPORT, STRONGEST, TARGET_MEANINGS

# What the two ends of the colours mean where attention is shown.
ATTENTION_ENDS = (NO_ATTENTION, STRONGEST)
# Of the columns of the second row.
DECODER_TITLES = (
    ("(b) detection", "of one query"),
    ("decoder", "what the query attends to"),
    ("(c) GAME", "relevance for the class score"),
)
# Of a point, in pixels of a cell.
RADIUS = 6


def query_figure(
    image: np.ndarray,
    points: np.ndarray,
    point_maps: np.ndarray,
    box: np.ndarray,
    label: str,
    attention: np.ndarray,
    game: np.ndarray,
    maps: Mapping[str, np.ndarray],
) -> np.ndarray:
    """Figure 7 of the paper, in three rows: (a) the encoder, (b) the decoder and (c) GAME, (d) ODAM.

    Args:
        image: (h,w,3) uint8 RGB.
        points: locations that the encoder is asked about, (n,2), at least one.
        point_maps: what each attends to, (n,mh,mw).
        box: of the detection, (4,).
        label: of the detection.
        attention: what its query attends to in the decoder, (mh,mw).
        game: its relevance by GAME, (mh,mw).
        maps: ODAM's, target -> (mh,mw).

    Returns:
        (hs,ws,3) uint8.

    Raises:
        ValueError: not an image, a map outside [0,1], no point, or points and maps in different numbers.
    """
    check_image(image)
    if not len(points) or len(points) != len(point_maps):
        raise ValueError(f"{len(points)} points do not fit {len(point_maps)} maps; at least one point is needed")
    photo = fit_cell(image)
    (placed,) = boxes_in_cell(np.asarray(box, dtype=np.float64)[None], image, photo)
    # Points move into the cell as the corners of boxes do.
    spots = boxes_in_cell(np.tile(np.asarray(points, dtype=np.float64), 2), image, photo)[:, :2]

    def covered(heat: np.ndarray, boxed: bool = True) -> np.ndarray:
        picture = widen(overlay(photo, resize_heat(heat, photo.shape[1::-1])))
        return draw_detection(picture, placed, "", WHITE, width=1) if boxed else picture

    numbers = range(1, len(spots) + 1)
    asked = [
        mark(covered(heat, False), spots[i : i + 1], [number])
        for i, (heat, number) in enumerate(zip(point_maps, numbers))
    ]
    encoder = [mark(widen(photo), spots, numbers), *asked]
    looks = [(f"location {number}", "what it attends to") for number in numbers]
    encoder_titles = [("(a) locations", "of which the encoder is asked"), *looks]
    decoder = [draw_detection(widen(photo), placed, label, PALETTE[0]), covered(attention), covered(game)]
    odam = [covered(heat) for heat in maps.values()]
    names = [f"{'' if i else '(d) '}{name}" for i, name in enumerate(maps)]
    odam_titles = [(name, TARGET_MEANINGS.get(target, "")) for name, target in zip(names, maps)]
    sheets = [
        stack_cells([encoder], encoder_titles, ATTENTION_ENDS),
        stack_cells([decoder], DECODER_TITLES, ATTENTION_ENDS),
        stack_cells([odam], odam_titles, (NO_SUPPORT, STRONGEST)),
    ]
    return stack_pictures(sheets)


def mark(picture: np.ndarray, points: np.ndarray, numbers: Sequence[int]) -> np.ndarray:
    """Numbered points on a picture: a dot in the point's colour within a dark and a white ring.

    Args:
        picture: (hc,wc,3) uint8.
        points: (n,2) in its pixels.
        numbers: n, from 1.

    Returns:
        A copy.
    """
    drawn = Image.fromarray(picture)
    draw = ImageDraw.Draw(drawn)
    for (x, y), number in zip(points.tolist(), numbers):
        colour = PALETTE[(number - 1) % len(PALETTE)]
        for radius, fill in ((RADIUS, BLACK), (RADIUS - 1, WHITE), (RADIUS - 3, colour)):
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
        text = {"font": load_font(2 * RADIUS), "fill": WHITE, "stroke_width": 2, "stroke_fill": BLACK}
        # Towards the side on which there is room.
        side, anchor = (RADIUS + 3, "lm") if x < drawn.width - 4 * RADIUS else (-RADIUS - 3, "rm")
        draw.text((x + side, y), str(number), anchor=anchor, **text)
    return np.asarray(drawn)


def stack_pictures(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures under each other, white on the right of the narrow ones.

    Args:
        pictures: each (h,w,3) uint8, at least one.
    """
    widest = max(picture.shape[1] for picture in pictures)
    wide = [np.pad(one, ((0, 0), (0, widest - one.shape[1]), (0, 0)), constant_values=255) for one in pictures]
    return np.concatenate(wide)
