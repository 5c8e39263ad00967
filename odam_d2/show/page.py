"""One self-contained page of results: a person clicks a detection and sees its heat maps over the photograph.

Shapes: D detections, (h,w) photograph as displayed, (mh,mw) heat map spanning all of it. Boxes are XYXY in pixels of
the photograph. The page itself, with its styles and script, is ``templates/report.html``.
"""

import base64
import html
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from odam_d2.files import open_atomically
from odam_d2.show.overlays import (
    BRIGHTNESS,
    LUT,
    OPACITY,
    PALETTE,
    SATURATION,
    check_heat,
    check_image,
    draw_detection,
)
from odam_d2.show.template import around_data
from odam_d2.show.words import NO_ATTENTION, NO_DETECTIONS, NO_SUPPORT, STRONGEST, TARGET_MEANINGS

PHOTO_QUALITY, THUMBNAIL_QUALITY = 82, 75
THUMBNAIL_SIDE = 320
# Longest sides of photographs on a page or a sheet, and of the maps laid over them.
PHOTO_SIDE, MAP_SIDE = 960, 200
# Parts of a payload the page reads only when its image is opened, so that hundreds of images open at once.
LAZY = ("photo", "maps", "place_maps")


def fit(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(height, width) scaled down so that the longer is at most ``side``."""
    scale = min(1.0, side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


@dataclass(frozen=True, eq=False)
class PlaceMaps:
    """What places of an image attend to in a transformer's encoder: a grid of places, all of which can be clicked.

    Args:
        cells: (rows, columns) of equal parts of the image; place i * columns + j is the centre of part (i,j).
        maps: rows * columns of them, (P,mh,mw) float in [0,1], spanning the image; a few dozen pixels are plenty.

    Raises:
        ValueError: another number of maps than places, or a map outside [0,1].
    """

    cells: tuple[int, int]
    maps: np.ndarray

    def __post_init__(self) -> None:
        rows, columns = self.cells
        if np.ndim(self.maps) != 3 or len(self.maps) != rows * columns or not len(self.maps):
            raise ValueError(f"{rows} x {columns} places need as many maps (P,mh,mw), not {np.shape(self.maps)}")
        check_heat(np.asarray(self.maps), "maps of places")

    def tile(self) -> np.ndarray:
        """All maps on one picture, each where its place is, (rows * mh, columns * mw)."""
        rows, columns = self.cells
        _, height, width = np.shape(self.maps)
        tiles = np.asarray(self.maps).reshape(rows, columns, height, width)
        return tiles.transpose(0, 2, 1, 3).reshape(rows * height, columns * width)


@dataclass(frozen=True, eq=False)
class ReportImage:
    """One image and everything the page shows about it.

    Args:
        name: of the file, for people.
        photo: (h,w,3) uint8 RGB, already scaled for display.
        boxes: (D,4) XYXY in pixels of ``photo``.
        labels: D class names.
        scores: (D,).
        maps: target name -> (D,mh,mw) float in [0,1], one resolution for all targets; about 200 pixels are plenty. May
            be empty where D = 0.
        facts: short texts about this image, such as ``{"time": "0.31 s"}``.
        captions: target name -> D texts about its maps, such as another class's score.
        places: what places of the image attend to; None where the page does not show it.

    Raises:
        ValueError: shapes that do not fit each other, numbers that are not finite, or a map outside [0,1].
    """

    name: str
    photo: np.ndarray
    boxes: np.ndarray
    labels: Sequence[str]
    scores: np.ndarray
    maps: Mapping[str, np.ndarray]
    facts: Mapping[str, str]
    captions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    places: PlaceMaps | None = None

    def __post_init__(self) -> None:
        check_image(self.photo)
        count = len(self.labels)
        for what, values, shape in (("boxes", self.boxes, (count, 4)), ("scores", self.scores, (count,))):
            if np.shape(values) != shape or not np.isfinite(values).all():
                raise ValueError(
                    f"{self.name}: {what} must be {shape} finite numbers for {count} labels, not {np.shape(values)} "
                    f"{np.asarray(values).tolist()}"
                )
        if count and not self.maps:
            raise ValueError(f"{self.name}: {count} detections but no maps")
        sizes = {np.shape(maps)[1:] for maps in self.maps.values()}
        for target, maps in self.maps.items():
            if np.ndim(maps) != 3 or len(maps) != count or len(sizes) > 1:
                raise ValueError(
                    f"{self.name}: maps of {target} must be ({count},mh,mw), of one size for all targets, "
                    f"not {np.shape(maps)} among sizes {sorted(sizes)}"
                )
            check_heat(np.asarray(maps), f"{self.name}: maps of {target}")
        for target, texts in self.captions.items():
            if len(texts) != count:
                raise ValueError(f"{self.name}: {len(texts)} captions of {target} for {count} labels")

    def encode(self) -> str:
        """All of it as text, much smaller than the arrays.

        Returns:
            A JSON object: ``name``, ``width``, ``height``, ``boxes``, ``labels``, ``scores``, ``targets``, ``map_size``
            (mh, mw), ``facts``, ``captions``, ``thumbnail`` and ``photo`` (base64 JPEG), and ``maps``: for each
            detection a base64 greyscale PNG of all targets' maps, one under the other in the order of ``targets``, 255
            standing for 1. Where there are places, also ``places``, their ``cells`` and ``map_size``, and
            ``place_maps``, such a PNG of :meth:`PlaceMaps.tile`.
        """
        targets = list(self.maps)
        size = np.shape(next(iter(self.maps.values())))[1:] if targets else (0, 0)
        payload = {
            "name": self.name,
            "width": self.photo.shape[1],
            "height": self.photo.shape[0],
            "boxes": np.round(np.asarray(self.boxes, dtype=float), 2).tolist(),
            "labels": list(self.labels),
            "scores": np.round(np.asarray(self.scores, dtype=float), 4).tolist(),
            "targets": targets,
            "map_size": list(size),
            "facts": {key: str(value) for key, value in self.facts.items()},
            "captions": {target: list(texts) for target, texts in self.captions.items()},
            "thumbnail": _base64(self._thumbnail(), "JPEG", quality=THUMBNAIL_QUALITY),
            "photo": _base64(self.photo, "JPEG", quality=PHOTO_QUALITY),
            "maps": [self._tiled_maps(d) for d in range(len(self.labels))],
        }
        if self.places is not None:
            payload["places"] = {"cells": list(self.places.cells), "map_size": list(self.places.maps.shape[1:])}
            # Hundreds of small maps: here bytes count for more than time.
            payload["place_maps"] = _base64(_bytes_of(self.places.tile()), "PNG")
        return json.dumps(payload)

    def _thumbnail(self) -> np.ndarray:
        """The photograph, small, with its boxes."""
        height, width = self.photo.shape[:2]
        size = fit((height, width), THUMBNAIL_SIDE)[::-1]
        small = np.asarray(Image.fromarray(self.photo).resize(size, Image.Resampling.LANCZOS))
        for d in reversed(range(len(self.labels))):
            box = np.asarray(self.boxes[d]) * ([size[0] / width, size[1] / height] * 2)
            small = draw_detection(small, box, "", PALETTE[d % len(PALETTE)], width=2)
        return small

    def _tiled_maps(self, detection: int) -> str:
        """One detection's maps, one under the other, as a PNG."""
        tiles = np.concatenate([np.asarray(maps[detection]) for maps in self.maps.values()])
        # The least compression: a third of the time for a tenth more bytes of the page.
        return _base64(_bytes_of(tiles), "PNG", compress_level=1)


def write_report(
    path: str | Path,
    images: Iterable[str],
    title: str,
    details: Mapping[str, str],
    meanings: Mapping[str, str] = TARGET_MEANINGS,
) -> None:
    """Write the page: one file that needs nothing else, replaced in one step.

    Args:
        path: of the HTML file, in an existing folder.
        images: payloads made by :meth:`ReportImage.encode`, read one at a time; none is fine.
        title: of the page.
        details: what a reader needs to make the results again: versions, config, weights, threshold, method, layer.
        meanings: target name -> what its maps answer, in a few words.

    Raises:
        OSError: the file cannot be written; an older page is then left as it was.
    """
    # A file name that is not valid text must not cost the page.
    with open_atomically(path, errors="replace") as file:
        file.write(page_start(title))
        for number, image in enumerate(images):
            file.write(page_image(number, image))
        file.write(page_end(title, details, meanings))


def page_start(title: str) -> str:
    """What stands on a page before its images; :func:`page_image` of each and :func:`page_end` follow."""
    return _template(title)[0]


def page_image(number: int, payload: str) -> str:
    """One image on a page.

    Args:
        number: 0 for the first image of the page, 1 for the next.
        payload: made by :meth:`ReportImage.encode`.
    """
    summary = json.loads(payload)
    lazy = {key: summary.pop(key) for key in LAZY if key in summary}
    return data_script(f"image-{number}", lazy) + data_script(f"summary-{number}", summary)


def page_link(number: int, name: str, labels: Sequence[str], scores: Sequence[float], target: str) -> str:
    """On an index, in the place of :func:`page_image`: an image that another page shows.

    Args:
        number: 0 for the first image of the index, 1 for the next.
        name: of the file, for people.
        labels: D class names.
        scores: D.
        target: where it is shown, such as ``pages/00-0001.html#image=3``.
    """
    entry = {"name": name, "labels": list(labels), "scores": [round(score, 4) for score in scores], "href": target}
    return data_script(f"summary-{number}", entry)


def page_end(
    title: str,
    details: Mapping[str, str],
    meanings: Mapping[str, str] = TARGET_MEANINGS,
    beside: Mapping[str, Any] | None = None,
) -> str:
    """What stands on a page after its images.

    Args:
        title: of the page.
        details: as for :func:`write_report`.
        meanings: as there.
        beside: of a page that is one part of several: addresses of the ``index``, and of the ``previous`` and ``next``
            part or None; ``number`` and ``count`` of the parts.
    """
    report = {
        "title": title,
        "details": {key: str(value) for key, value in details.items()},
        "meanings": dict(meanings),
        "words": {"none": NO_DETECTIONS, "low": NO_SUPPORT, "unattended": NO_ATTENTION, "high": STRONGEST},
        "palette": [f"rgb{colour}" for colour in PALETTE],
        "lut": LUT.tolist(),
        "opacity": OPACITY,
        "saturation": SATURATION,
        "brightness": BRIGHTNESS,
        "beside": None if beside is None else dict(beside),
    }
    return data_script("report", report) + _template(title)[1]


def _template(title: str) -> tuple[str, str]:
    """What stands before and after the data of a page."""
    before, after = around_data("odam_d2.show", "report.html")
    return before.replace("<!-- title -->", html.escape(title)), after


def data_script(identifier: str, data: Any) -> str:
    """JSON inside HTML: no character of it can end the script or mean anything to the HTML parser.

    Args:
        identifier: of the element.
        data: what ``json.dumps`` takes.
    """
    text = json.dumps(data)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return f'<script type="application/json" id="{identifier}">{text}</script>\n'


def _bytes_of(heat: np.ndarray) -> np.ndarray:
    """Heat in [0,1] as uint8, 255 standing for 1."""
    return np.rint(np.clip(heat, 0, 1) * 255).astype(np.uint8)


def _base64(image: np.ndarray, kind: str, **options: Any) -> str:
    """An image file as text."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return base64.b64encode(buffer.getvalue()).decode()
