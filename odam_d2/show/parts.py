"""The page of a folder in parts of a few hundred images, so that a browser opens thousands of images, and an index.

A part grows by an image at a time and becomes a page when :func:`finish_parts` writes its end; a run that goes on takes
the end off again. What is whole is said by the entries of :mod:`odam_d2.show.records`: ``page``, such as
``pages/00-0001.html#image=3``, and ``page_bytes``, the length of that file when the image was on it.
"""

import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from odam_d2.files import open_atomically
from odam_d2.show.page import page_end, page_image, page_link, page_start

# Some 150 kB each.
IMAGES_OF_A_PART = 200

Entries = Callable[[], Iterable[Mapping[str, Any]]]


class PageParts:
    """The parts that one process writes.

    Args:
        folder: of the run.
        title: of the page.
        process: its number; each has parts of its own.
        entries: of the images that are there already.
    """

    def __init__(self, folder: Path, title: str, process: int, entries: Iterable[Mapping[str, Any]] = ()):
        self._folder, self._title, self._process = folder, title, process
        self._part, self._count, self._length = 0, 0, 0
        for entry in entries:
            if "page" in entry:
                file, image = split_link(entry["page"])
                own, part = (int(number) for number in Path(file).stem.split("-"))
                if own == process and (part, image) >= (self._part, self._count):
                    self._part, self._count, self._length = part, image + 1, entry["page_bytes"]

    def add(self, payload: str) -> dict[str, Any]:
        """Append an image.

        Args:
            payload: made by :meth:`odam_d2.show.page.ReportImage.encode`.

        Returns:
            ``page`` and ``page_bytes`` for its entry; without that entry the image counts as not added.

        Raises:
            OSError: the part cannot be written.
        """
        if self._count >= IMAGES_OF_A_PART:
            self._part, self._count, self._length = self._part + 1, 0, 0
        name = f"pages/{self._process:02d}-{self._part:04d}.html"
        text = page_image(self._count, payload)
        data = (text if self._count else page_start(self._title) + text).encode("utf-8", errors="replace")
        _write_behind(self._folder / name, self._length, data)
        self._length += len(data)
        self._count += 1
        return {"page": f"{name}#image={self._count - 1}", "page_bytes": self._length}


def finish_parts(
    folder: Path, entries: Entries, title: str, details: Mapping[str, str], meanings: Mapping[str, str]
) -> None:
    """Make all parts whole, and ``index.html``: the only part, or an index of several.

    Args:
        folder: of the run.
        entries: called for all entries, one at a time; those without a ``page`` were left out.
        title: of the page.
        details: as for :func:`odam_d2.show.page.write_report`.
        meanings: as there.

    Raises:
        OSError: a file cannot be written.
    """
    lengths: dict[str, int] = {}
    for entry in entries():
        if "page" in entry:
            file, _ = split_link(entry["page"])
            lengths[file] = max(lengths.get(file, 0), entry["page_bytes"])
    for path in (folder / "pages").glob("*.html"):
        if f"pages/{path.name}" not in lengths:
            path.unlink()  # of a process that was killed at its first image
    names = sorted(lengths)
    for i, name in enumerate(names):
        beside = None
        if len(names) > 1:
            previous, following = ([*map(_name_beside, names), None][j] for j in (i - 1, i + 1))
            beside = {"index": "../index.html", "previous": previous, "next": following}
            beside |= {"number": i + 1, "count": len(names)}
        end = page_end(title, details, meanings, beside)
        _write_behind(folder / name, lengths[name], end.encode("utf-8", errors="replace"))
    if len(names) == 1:
        with open(folder / names[0], "rb") as part, open_atomically(folder / "index.html", "wb") as index:
            shutil.copyfileobj(part, index)
        return
    with open_atomically(folder / "index.html", errors="replace") as index:
        index.write(page_start(title))
        shown = (entry for entry in entries() if "page" in entry)
        for number, entry in enumerate(shown):
            words = Path(entry["file"]).name, entry["classes"], entry["scores"]
            index.write(page_link(number, *words, entry["page"]))
        index.write(page_end(title, details, meanings))


def split_link(link: str) -> tuple[str, int]:
    """The file and the number of the image on it of an entry's ``page``."""
    file, _, image = link.partition("#image=")
    return file, int(image)


def _name_beside(name: str) -> str:
    return Path(name).name


def _write_behind(path: Path, length: int, data: bytes) -> None:
    """Put data behind the first bytes of a file, in the place of all that stood there."""
    with open(path, "r+b" if length else "wb") as file:
        file.truncate(length)
        file.seek(length)
        file.write(data)
