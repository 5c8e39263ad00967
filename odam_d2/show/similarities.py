"""Why an image and texts are alike, as in the paper's Figure 9: methods side by side.

Shapes: K texts, (h,w) image, (mh,mw) heat map spanning it, (hs,ws) sheet. Images are RGB uint8, heat maps in [0,1].
"""

from collections.abc import Mapping, Sequence

import numpy as np

from odam_d2.show.overlays import PALETTE, check_image, draw_detection, overlay
from odam_d2.show.sheets import boxes_in_cell, fit_cell, resize_heat, stack_cells, widen


def similarity_sheet(
    image: np.ndarray, labels: Sequence[str], maps: Mapping[str, Sequence[np.ndarray]], meaning: str = ""
) -> np.ndarray:
    """A row a text: the photograph under the text, then its map by each method.

    Args:
        image: (h,w,3) uint8 RGB.
        labels: K texts, such as ``a bottle 0.214``; none is fine.
        maps: method -> K maps, each (mh,mw).
        meaning: what the maps answer, in a few words.

    Returns:
        (hs,ws,3) uint8.

    Raises:
        ValueError: not an image, a map outside [0,1], or maps of another number.
    """
    check_image(image)
    for method, own in maps.items():
        if len(own) != len(labels):
            raise ValueError(f"{len(own)} maps of {method} do not fit {len(labels)} texts")
    photo = fit_cell(image)
    if not len(labels):
        return stack_cells([[widen(photo)]], [("photograph", "compared with no text")])
    (whole,) = boxes_in_cell(np.array([[0.0, 0.0, *photo.shape[1::-1]]]), photo, photo)
    rows = []
    for row, label in enumerate(labels):
        cells = [draw_detection(widen(photo), whole, label, PALETTE[row % len(PALETTE)], width=1)]
        cells += [widen(overlay(photo, resize_heat(own[row], photo.shape[1::-1]))) for own in maps.values()]
        rows.append(cells)
    return stack_cells(rows, [("photograph", "text and cosine"), *((method, meaning) for method in maps)])
