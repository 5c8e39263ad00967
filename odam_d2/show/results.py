"""A folder of explained images: raw maps, a line of results for each, contact sheets, and a page to browse them all.

Shapes: D detections, (h,w) image, (h',w') raw map over the padded network input. Images are RGB uint8, boxes XYXY in
image pixels.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from odam_d2.show.page import MAP_SIDE, PHOTO_SIDE, PlaceMaps, ReportImage, fit
from odam_d2.show.parts import PageParts, finish_parts
from odam_d2.show.records import append_entry, join_entries, read_entries, read_run
from odam_d2.show.sheets import CELL_SIDE, contact_sheet
from odam_d2.show.words import TARGET_MEANINGS

# One target's maps as people look at them: from a size (height, width) to (D,height,width) float in [0,1].
Pictures = Callable[[tuple[int, int]], np.ndarray]

# Half the time and a quarter of the size of a PNG, at which no difference is seen.
SHEET_QUALITY = 88


@dataclass(frozen=True, eq=False)
class ExplainedImage:
    """One image, its detections and their maps: plain values, whatever detector and method they come from.

    Args:
        file: the image's path.
        image: (h,w,3) uint8 RGB.
        boxes: (D,4) float32.
        classes: (D,) int.
        class_names: D names of these classes.
        scores: (D,) float32.
        levels: for each detection the name of the feature map it comes from.
        maps: target -> raw maps (D,h',w') float32.
        stride: network-input pixels per cell of ``maps``.
        network_size: (height, width) of the network input without padding.
        pictures: target -> its maps at any resolution, spanning the image.
        seconds_detection: time to detect.
        seconds_maps: time to make all maps.
        captions: target -> D texts that stand on its maps, such as another class's score.
        places: what places of the image attend to, for the page.
    """

    file: Path
    image: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    class_names: Sequence[str]
    scores: np.ndarray
    levels: Sequence[str]
    maps: Mapping[str, np.ndarray]
    stride: int
    network_size: tuple[int, int]
    pictures: Mapping[str, Pictures]
    seconds_detection: float
    seconds_maps: float
    captions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    places: PlaceMaps | None = None

    @property
    def number_of_maps(self) -> int:
        """Of all detections and targets."""
        return len(self.boxes) * len(self.maps)


@dataclass(frozen=True)
class PreparedImage:
    """An image whose files are written, and what is still to be told of it.

    Args:
        entry: its line, without its place on the page.
        payload: what the page shows of it.
    """

    entry: Mapping[str, Any]
    payload: str


class ResultsFolder:
    """Writes what is known of each image as soon as it is explained, and the page over all of them in the end.

    Nothing is kept in memory, and nothing is written anew after an image: the folder holds thousands of them.

    Args:
        folder: made ready by :func:`odam_d2.show.records.begin_run`.
        title: of the page.
        meanings: target name -> what its maps answer, in a few words.
        sheets: whether each image has a contact sheet.
        process: number of this process among several that write to the folder.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        title: str,
        meanings: Mapping[str, str] = TARGET_MEANINGS,
        sheets: bool = False,
        process: int = 0,
    ):
        self.folder = folder
        self._title, self._meanings, self._sheets, self._process = title, meanings, sheets, process
        self._parts = PageParts(folder, title, process, self.entries())
        for sub in ("pages", "maps", *(["sheets"] if sheets else [])):
            (folder / sub).mkdir(exist_ok=True)

    def entries(self) -> Iterator[dict[str, Any]]:
        """What is known of the images so far, one at a time: see :func:`odam_d2.show.records.read_entries`."""
        return read_entries(self.folder)

    def prepare(self, explained: ExplainedImage, name: str) -> PreparedImage:
        """Write an image's raw maps and its sheet, in any thread.

        Args:
            explained: the image.
            name: of its files, its own; see :func:`name_images`.

        Raises:
            ValueError: shapes that do not fit each other, or pictures outside [0,1]; nothing is written then.
            OSError: a file cannot be written.
        """
        height, width = fit(explained.image.shape[:2], PHOTO_SIDE)
        photo = np.asarray(Image.fromarray(explained.image).resize((width, height), Image.Resampling.LANCZOS))
        scale = [width / explained.image.shape[1], height / explained.image.shape[0]] * 2
        boxes = explained.boxes * scale
        payload = _page_of(explained, photo, boxes).encode()
        save_raw_maps(self.folder / "maps" / f"{name}.npz", explained)
        entry = _entry_of(explained, name)
        if self._sheets:
            entry["sheet"] = f"sheets/{name}.jpg"
            self._draw_sheet(explained).save(self.folder / entry["sheet"], quality=SHEET_QUALITY)
        return PreparedImage(entry, payload)

    def add(self, prepared: PreparedImage) -> None:
        """Put an image on the page and give it its line; in one thread.

        Raises:
            OSError: a file cannot be written.
        """
        page = self._parts.add(prepared.payload)
        append_entry(self.folder, {**prepared.entry, **page}, self._process)

    def leave_out(self, file: Path, reason: str) -> None:
        """Keep in a line that an image could not be explained.

        Args:
            file: the image's path.
            reason: one sentence.

        Raises:
            OSError: the line cannot be written.
        """
        append_entry(self.folder, {"file": str(file), "left_out": reason}, self._process)

    def finish(self) -> None:
        """Write the page over everything added so far by all processes; in one of them, when all are done.

        Raises:
            ValueError: the record of the run is damaged.
            OSError: a file cannot be written.
        """
        join_entries(self.folder)
        run = read_run(self.folder)["run"]
        details = {key: str(value) for key, value in run.items()}
        finish_parts(self.folder, self.entries, self._title, details, self._meanings)

    def _draw_sheet(self, explained: ExplainedImage) -> Image.Image:
        labels = [f"{label} {score:.2f}" for label, score in zip(explained.class_names, explained.scores.tolist())]
        cell = fit(explained.image.shape[:2], CELL_SIDE)
        small = {target: draw(cell) for target, draw in explained.pictures.items()}
        image, boxes = explained.image, explained.boxes
        return Image.fromarray(contact_sheet(image, boxes, labels, small, self._meanings, explained.captions))


def save_raw_maps(path: Path, explained: ExplainedImage) -> None:
    """Raw maps of one image: ``<target>`` (D,h',w') float32 over the padded network input, and how to place them.

    Args:
        path: of the ``.npz`` file; with ``boxes`` (D,4), ``scores`` (D,) and ``classes`` (D,) of the detections,
            ``stride``, ``network_size`` and ``image_size`` beside the maps.
        explained: the image.

    Raises:
        ValueError: a target has the name of one of these, or ``file``.
        OSError: the file cannot be written.
    """
    beside = {
        "boxes": explained.boxes,
        "scores": explained.scores,
        "classes": explained.classes,
        "stride": explained.stride,
        "network_size": explained.network_size,
        "image_size": explained.image.shape[:2],
    }
    for target in explained.maps:
        # NumPy's own argument is called file.
        if target in (*beside, "file"):
            raise ValueError(
                f"a target called {target!r} cannot be saved, the file has another use of this name; rename it"
            )
    np.savez_compressed(path, **beside, **explained.maps)


def _page_of(explained: ExplainedImage, photo: np.ndarray, boxes: np.ndarray) -> ReportImage:
    """What the page shows of an image, from the photograph as displayed and the boxes in its pixels."""
    size = fit(photo.shape[:2], MAP_SIDE)
    facts = {
        "image": f"{explained.image.shape[1]} x {explained.image.shape[0]}",
        "detection": f"{explained.seconds_detection:.3f} s",
        "maps": f"{explained.number_of_maps} in {explained.seconds_maps:.3f} s",
    }
    shown = {target: draw(size) for target, draw in explained.pictures.items()}
    return ReportImage(
        name=explained.file.name,
        photo=photo,
        boxes=boxes,
        labels=explained.class_names,
        scores=explained.scores,
        maps=shown,
        facts=facts,
        captions=explained.captions,
        places=explained.places,
    )


def _entry_of(explained: ExplainedImage, name: str) -> dict[str, Any]:
    """An image's line, but for its sheet and its place on the page."""
    return {
        "name": name,
        "file": str(explained.file),
        "size": [explained.image.shape[1], explained.image.shape[0]],
        "classes": list(explained.class_names),
        "scores": [round(score, 6) for score in explained.scores.tolist()],
        "boxes": [[round(value, 2) for value in box] for box in explained.boxes.tolist()],
        "levels": list(explained.levels),
        "maps": f"maps/{name}.npz",
        "seconds_detection": round(explained.seconds_detection, 4),
        "seconds_maps": round(explained.seconds_maps, 4),
        "number_of_maps": explained.number_of_maps,
    }
