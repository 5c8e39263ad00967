"""Files that are replaced in one step: a reader, or a run that goes on after a crash, never sees half of one.

And a name for each, so that none takes another's place.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def open_atomically(path: str | Path, mode: str = "w", **options: Any) -> Iterator[IO[Any]]:
    """Open a file that takes the place of ``path`` when the block ends without an exception.

    It is written beside ``path`` under a name with the process id, so that several processes may replace the same file;
    whole, it is moved there by :func:`os.replace`.

    Args:
        path: in an existing folder.
        mode: ``w`` for text, in UTF-8 unless ``options`` say otherwise, or ``wb`` for bytes.
        options: of :func:`open`.

    Yields:
        The open file.

    Raises:
        ValueError: another mode.
        OSError: the file cannot be written. As after every exception in the block, ``path`` is then as it was.
    """
    if mode not in ("w", "wb"):
        raise ValueError(f"mode is {mode!r}; a file is replaced as a whole, with 'w' or 'wb'")
    if mode == "w":
        options = {"encoding": "utf-8", **options}
    path = Path(path)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(part, mode, **options) as file:
            yield file
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Replace a file in one step.

    Args:
        path: in an existing folder.
        content: text, written in UTF-8, or bytes.

    Raises:
        OSError: the file cannot be written; it is then as it was.
    """
    with open_atomically(path, "w" if isinstance(content, str) else "wb") as file:
        file.write(content)


def name_images(files: Iterable[Path], known: Mapping[str, str] | None = None) -> dict[Path, str]:
    """A name of its own for each image's files, also where two folders hold the same name.

    Args:
        files: the images.
        known: file -> name of those that have one already.
    """
    known = known or {}
    taken, last, names = set(known.values()), dict[str, int](), {}
    for file in files:
        name = known.get(str(file))
        if name is None:
            name, count = file.stem, last.get(file.stem, 1)
            while name in taken:
                count += 1
                name = f"{file.stem}_{count}"
            last[file.stem] = count
            taken.add(name)
        names[file] = name
    return names
