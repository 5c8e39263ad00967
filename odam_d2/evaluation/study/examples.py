"""The best and the worst explanations of each method, for people: pictures kept while an evaluation runs, then a page.

Shapes: D explained objects, M methods, (h,w) image, (mh,mw) small map.
"""

import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from odam_d2.evaluation.study.record import Entry, Row
from odam_d2.evaluation.study.sources import file_stem
from odam_d2.explain import METHODS
from odam_d2.show.page import MAP_SIDE, PHOTO_SIDE, ReportImage, fit, write_report

# What examples are ranked by.
RANKING = "enpg_box"
# Best and worst objects of each method.
EACH = 3
PHOTO_QUALITY = 90


def extreme_objects(
    entries: Iterable[Entry], methods: Sequence[str], each: int = EACH
) -> dict[tuple[str, str], list[str]]:
    """The best and the worst objects of each method.

    An object among the best of all images is among the best of any part of them that holds it, because ties are broken
    by ids: so whatever is an example in the end was one when its image was finished.

    Args:
        entries: finished images.
        methods: names, in order.
        each: objects at either end.

    Returns:
        (image id, annotation id) -> why, such as ``best of odam``.
    """
    reasons: dict[tuple[str, str], list[str]] = defaultdict(list)
    rows = [row for entry in entries for row in entry["rows"] if row[RANKING] is not None]
    for method in methods:
        own = [(row[RANKING], row["image_id"], row["annotation_id"]) for row in rows if row["method"] == method]
        own.sort()
        # With few objects none is both.
        for why, some in (("best", own[-each:]), ("worst", own[: max(0, min(each, len(own) - each))])):
            for _, image_id, annotation_id in some:
                reasons[image_id, annotation_id].append(f"{why} of {method}")
    return dict(reasons)


def shrink_map(heat_map: np.ndarray | None, size: tuple[int, int]) -> np.ndarray:
    """A map for the page, from its minimum to its maximum: D-RISE's is not 0 where a pixel does not matter.

    Args:
        heat_map: (h,w), or None for a missing one, which is shown as zero.
        size: (h,w).

    Returns:
        (mh,mw) uint8, 0 for the minimum and 255 for the maximum; all 0 for a constant map.
    """
    height, width = fit(size, MAP_SIDE)
    if heat_map is None:
        return np.zeros((height, width), np.uint8)
    # Averaged over the pixels it stands for, so that a small peak is not missed.
    small = np.array(Image.fromarray(heat_map.astype(np.float32)).resize((width, height), Image.Resampling.BOX))
    small -= small.min()
    return np.rint(255 * small / max(float(small.max()), 1e-30)).astype(np.uint8)


class ExampleStore:
    """Photographs and small maps of the images that may be examples in the end.

    Args:
        folder: where they are kept; made when it is needed.
        methods: names, in the order of the maps.
        entries: images that an earlier run finished.
    """

    def __init__(self, folder: Path, methods: Sequence[str], entries: Iterable[Entry] = ()):
        self._folder, self._methods = folder, methods
        self._extreme = self._among(list(entries))

    def offer(self, entry: Entry, image_bgr: np.ndarray, maps: np.ndarray) -> None:
        """Keep an image if it is an example among those finished so far.

        Args:
            entry: of this image.
            image_bgr: (h,w,3) uint8.
            maps: (M,D,mh,mw) uint8, methods and objects in the order of the entry's rows.
        """
        # Those that were no example before are none among more images either.
        self._extreme = self._among([*self._extreme, entry])
        if entry not in self._extreme:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        height, width = fit(image_bgr.shape[:2], PHOTO_SIDE)
        photo = Image.fromarray(image_bgr[:, :, ::-1]).resize((width, height), Image.Resampling.LANCZOS)
        encoded = io.BytesIO()
        photo.save(encoded, "JPEG", quality=PHOTO_QUALITY)
        np.savez_compressed(self._path(entry["image_id"]), photo=np.frombuffer(encoded.getvalue(), np.uint8), maps=maps)

    def reset(self) -> None:
        """Drop all that is kept."""
        self._extreme = []
        self._drop_but(())

    def write_page(
        self, path: Path, entries: Mapping[str, Entry], names: Mapping[str, str], title: str, details: Mapping[str, str]
    ) -> None:
        """Write the page, and drop what is not on it.

        Args:
            path: of the HTML file.
            entries: of all images, in order.
            names: image id -> name for people.
            title: of the page.
            details: facts about the run.

        Raises:
            OSError: it cannot be written.
        """
        reasons = extreme_objects(entries.values(), self._methods)
        wanted = {image_id for image_id, _ in reasons}
        shown = [image_id for image_id in entries if image_id in wanted and self._path(image_id).is_file()]
        pages = (self._page(entries[image_id], names[image_id], reasons).encode() for image_id in shown)
        meanings = {name: METHODS[name].title if name in METHODS else "maps from a folder" for name in self._methods}
        write_report(path, pages, title, details, meanings)
        self._drop_but(shown)

    def _drop_but(self, shown: Sequence[str]) -> None:
        kept = {self._path(image_id) for image_id in shown}
        for file in self._folder.glob("*.npz"):
            if file not in kept:
                file.unlink(missing_ok=True)

    def _among(self, entries: Sequence[Entry]) -> list[Entry]:
        wanted = {image_id for image_id, _ in extreme_objects(entries, self._methods)}
        return [entry for entry in entries if entry["image_id"] in wanted]

    def _path(self, image_id: str) -> Path:
        return self._folder / f"{file_stem(image_id)}.npz"

    def _page(self, entry: Entry, name: str, reasons: Mapping[tuple[str, str], list[str]]) -> ReportImage:
        with np.load(self._path(entry["image_id"])) as kept:
            photo = np.asarray(Image.open(io.BytesIO(kept["photo"].tobytes())))
            maps = kept["maps"]
        rows = [row for row in entry["rows"] if row["method"] == self._methods[0]]
        # What the image is on the page for comes first.
        order = sorted(range(len(rows)), key=lambda i: (rows[i]["image_id"], rows[i]["annotation_id"]) not in reasons)
        rows, maps = [rows[i] for i in order], maps[:, order]
        height, width = entry["size"]
        scale = [photo.shape[1] / width, photo.shape[0] / height] * 2
        facts, every = {"image": f"{width} x {height}"}, {}
        for number, row in enumerate(rows, 1):
            why = reasons.get((row["image_id"], row["annotation_id"]), [])
            every |= dict.fromkeys(why)
            told = _energies(entry["rows"], row["annotation_id"], row["iou"])
            facts[f"{number} {row['class']}"] = "; ".join([*why, told])
        return ReportImage(
            name=f"{name}: {', '.join(every)}",
            photo=photo,
            boxes=np.array([[row[side] for side in ("x1", "y1", "x2", "y2")] for row in rows]) * scale,
            labels=[row["class"] for row in rows],
            scores=np.array([row["score"] for row in rows]),
            maps={method: own / np.float32(255) for method, own in zip(self._methods, maps)},
            facts=facts,
        )


def _energies(rows: Sequence[Row], annotation_id: str, iou: float) -> str:
    """The energy in the box by method, best first."""
    own = [row for row in rows if row["annotation_id"] == annotation_id]
    own.sort(key=lambda row: -(row[RANKING] if row[RANKING] is not None else -1))
    parts = [f"{row['method']} {'missing' if row[RANKING] is None else f'{row[RANKING]:.0f} %'}" for row in own]
    return f"energy in the box: {', '.join(parts)}; IoU with the truth {iou:.2f}"
