"""A folder of explained images: contact sheets, raw maps, ``manifest.json`` and one page to browse them all.

Shapes: D detections, (h,w) image, (h',w') raw map over the padded network input. Images are RGB uint8, boxes XYXY in
image pixels.
"""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from odam_d2.files import write_atomically
from odam_d2.show.page import MAP_SIDE, PHOTO_SIDE, ReportImage, fit, write_report
from odam_d2.show.sheets import CELL_SIDE, contact_sheet
from odam_d2.show.words import TARGET_MEANINGS

# One target's maps as people look at them: from a size (height, width) to (D,height,width) float in [0,1].
Pictures = Callable[[tuple[int, int]], np.ndarray]


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

    @property
    def number_of_maps(self) -> int:
        """Of all detections and targets."""
        return len(self.boxes) * len(self.maps)


class ResultsFolder:
    """Writes what is known of each image as soon as it is explained, and the page over all of them in the end.

    Args:
        folder: made if it does not exist.
        run: facts about the run, JSON types; in the manifest and on the page.
        title: of the page.
        meanings: target name -> what its maps answer, in a few words.

    Attributes:
        images: the manifest's entries of the images that were added.
        failed: those of the images that were left out.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, run: Mapping[str, Any], title: str, meanings: Mapping[str, str] = TARGET_MEANINGS):
        self.folder, self.run = folder, dict(run)
        self.images: list[dict[str, Any]] = []
        self.failed: list[dict[str, str]] = []
        self._title, self._meanings = title, meanings
        self._pages: list[str] = []
        try:
            for sub in ("sheets", "maps"):
                (folder / sub).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass  # fails here, before any work is done, where the folder cannot be written
        except OSError as error:
            raise OSError(f"the output folder {folder} cannot be written: {error.strerror}") from error

    def add(self, explained: ExplainedImage) -> None:
        """Write an image's sheet and raw maps, and the manifest with its entry.

        Args:
            explained: the image.

        Raises:
            ValueError: shapes that do not fit each other, or pictures outside [0,1]; nothing is written then.
            OSError: a file cannot be written.
        """
        name = self._name_for(explained.file)
        height, width = fit(explained.image.shape[:2], PHOTO_SIDE)
        photo = np.asarray(Image.fromarray(explained.image).resize((width, height), Image.Resampling.LANCZOS))
        scale = [width / explained.image.shape[1], height / explained.image.shape[0]] * 2
        boxes = explained.boxes * scale
        page = _page_of(explained, photo, boxes).encode()
        save_raw_maps(self.folder / "maps" / f"{name}.npz", explained)
        labels = [f"{label} {score:.2f}" for label, score in zip(explained.class_names, explained.scores.tolist())]
        cell = fit(explained.image.shape[:2], CELL_SIDE)
        small = {target: draw(cell) for target, draw in explained.pictures.items()}
        sheet = contact_sheet(explained.image, explained.boxes, labels, small, self._meanings, explained.captions)
        Image.fromarray(sheet).save(self.folder / "sheets" / f"{name}.png")
        self._pages.append(page)
        self.images.append(_entry_of(explained, name))
        self._write_manifest()

    def leave_out(self, file: Path, reason: str) -> None:
        """Keep in the manifest that an image could not be explained.

        Args:
            file: the image's path.
            reason: one sentence.

        Raises:
            OSError: the manifest cannot be written.
        """
        self.failed.append({"file": str(file), "reason": reason})
        self._write_manifest()

    def finish(self) -> None:
        """Write the manifest and the page over everything added so far.

        Raises:
            OSError: one of them cannot be written.
        """
        self._write_manifest()
        details = {key: str(value) for key, value in self.run.items()}
        write_report(self.folder / "index.html", self._pages, self._title, details, self._meanings)

    def _name_for(self, path: Path) -> str:
        """A file name of its own for each image, also where two folders hold the same name."""
        taken = {entry["name"] for entry in self.images}
        name, count = path.stem, 1
        while name in taken:
            count += 1
            name = f"{path.stem}_{count}"
        return name

    def _write_manifest(self) -> None:
        """The manifest so far: valid JSON at every moment, one image a line."""
        lines = ",\n".join(json.dumps(entry) for entry in self.images)
        failed = ",\n".join(json.dumps(entry) for entry in self.failed)
        text = f'{{"run": {json.dumps(self.run)},\n"images": [\n{lines}\n],\n"failed": [\n{failed}\n]}}\n'
        write_atomically(self.folder / "manifest.json", text)


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
    )


def _entry_of(explained: ExplainedImage, name: str) -> dict[str, Any]:
    """An image's line of the manifest."""
    return {
        "name": name,
        "file": str(explained.file),
        "size": [explained.image.shape[1], explained.image.shape[0]],
        "classes": list(explained.class_names),
        "scores": [round(score, 6) for score in explained.scores.tolist()],
        "boxes": [[round(value, 2) for value in box] for box in explained.boxes.tolist()],
        "levels": list(explained.levels),
        "sheet": f"sheets/{name}.png",
        "maps": f"maps/{name}.npz",
        "seconds_detection": round(explained.seconds_detection, 4),
        "seconds_maps": round(explained.seconds_maps, 4),
        "number_of_maps": explained.number_of_maps,
    }
