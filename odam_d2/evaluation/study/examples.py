"""The best and the worst explanations of each method: pictures kept for people while an evaluation runs.

Shapes: D explained objects, M methods, (h,w) image, (mh,mw) small map.
"""

import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from odam_d2.evaluation.study.record import Entry
from odam_d2.evaluation.study.sources import file_stem
from odam_d2.show.page import MAP_SIDE, PHOTO_SIDE, fit

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
        self.drop_but(())

    def load(self, entry: Entry) -> tuple[bytes, np.ndarray] | None:
        """What is kept of an image.

        Args:
            entry: of this image.

        Returns:
            its photograph as JPEG and its maps, (M,D,mh,mw) uint8, as they were offered; None where nothing is kept.
        """
        if not self._path(entry["image_id"]).is_file():
            return None
        with np.load(self._path(entry["image_id"])) as kept:
            return kept["photo"].tobytes(), kept["maps"]

    def drop_but(self, image_ids: Iterable[str]) -> None:
        """Drop what is kept of all other images."""
        kept = {self._path(image_id) for image_id in image_ids}
        for file in self._folder.glob("*.npz"):
            if file not in kept:
                file.unlink(missing_ok=True)

    def _among(self, entries: Sequence[Entry]) -> list[Entry]:
        wanted = {image_id for image_id, _ in extreme_objects(entries, self._methods)}
        return [entry for entry in entries if entry["image_id"] in wanted]

    def _path(self, image_id: str) -> Path:
        return self._folder / f"{file_stem(image_id)}.npz"
