"""What a run over a folder of images has done: ``run.json`` says how, ``results.jsonl`` has a line for each image.

Lines are only ever appended: a run that is killed loses the image it was at, and goes on behind the last whole line.
Several processes append to a file each, which are put together when they are done.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from odam_d2.files import open_atomically, write_atomically

RUN_FILE, RESULTS_FILE = "run.json", "results.jsonl"


def begin_run(folder: Path, run: Mapping[str, Any], settings: Mapping[str, Any], resume: bool = False) -> None:
    """Make the folder of a run ready, in one process and before the others write to it.

    Args:
        folder: made if it does not exist.
        run: facts about the run, for people.
        settings: name -> value of all that decides about the results, JSON types.
        resume: go on with the images that the folder does not hold yet.

    Raises:
        ValueError: the folder holds results, and it was not said that they are to be gone on with, or they were made
            with other settings.
        OSError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass  # fails here, before any work is done, where the folder cannot be written
    except OSError as error:
        raise OSError(f"the output folder {folder} cannot be written: {error.strerror}") from error
    join_entries(folder)
    count = sum(1 for _ in read_entries(folder))
    if count and not resume:
        raise ValueError(
            f"{folder} holds the results of {count} images; add --resume to go on with them, or choose another --output"
        )
    settings = json.loads(json.dumps(settings))
    if count and (difference := _difference(read_run(folder)["settings"], settings)):
        raise ValueError(
            f"{folder} was made with {difference}; resume with the same settings, or choose another --output"
        )
    write_atomically(folder / RUN_FILE, json.dumps({"run": dict(run), "settings": settings}, indent=1) + "\n")


def read_run(folder: Path) -> dict[str, Any]:
    """How the results of a folder were made: what :func:`begin_run` was given.

    Args:
        folder: of a run.

    Returns:
        ``run`` and ``settings``.

    Raises:
        ValueError: there is no such record, or it is damaged.
    """
    path = folder / RUN_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        record["run"].keys(), record["settings"].keys()
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} cannot be read, so nobody knows how the results beside it were made: {error}"
        ) from error
    return record


def append_entry(folder: Path, entry: Mapping[str, Any], process: int = 0) -> None:
    """Add a line; it has to be the last of what is written about an image.

    Args:
        folder: of the run.
        entry: JSON types, with the image's ``file``.
        process: number of the process that writes.

    Raises:
        OSError: the line cannot be written.
    """
    with open(folder / _file_of(process), "a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def read_entries(folder: Path) -> Iterator[dict[str, Any]]:
    """The entries so far, one at a time, of all processes; a line that a killed process left unfinished is none.

    Raises:
        ValueError: a line is no JSON object with a ``file``; the message names it.
    """
    for path in _files(folder):
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith("\n"):
                    break
                yield _parse(line, path, number)


def join_entries(folder: Path) -> None:
    """Put the lines of all processes into one file, each image once; called while nobody appends.

    Raises:
        ValueError: as :func:`read_entries`.
        OSError: the file cannot be written; nothing is lost then.
    """
    known: set[str] = set()
    files = _files(folder)
    with open_atomically(folder / RESULTS_FILE) as out:
        for entry in read_entries(folder):
            if entry["file"] not in known:
                known.add(entry["file"])
                out.write(json.dumps(entry) + "\n")
    for path in files:
        if path.name != RESULTS_FILE:
            path.unlink()


def _file_of(process: int) -> str:
    return f"results.{process}.jsonl" if process else RESULTS_FILE


def _files(folder: Path) -> list[Path]:
    """Those of all processes, in the order of their numbers."""
    others = [path for path in folder.glob("results.*.jsonl") if path.name.split(".")[1].isdigit()]
    others.sort(key=lambda path: int(path.name.split(".")[1]))
    return [path for path in (folder / RESULTS_FILE, *others) if path.exists()]


def _parse(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        entry = json.loads(line)
        entry["file"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"line {number} of {path} is no result of an image; delete the line") from error
    return entry


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first setting that is not as it was, in words."""
    for name in (*before, *now):
        old, new = (values.get(name, "nothing") for values in (before, now))
        if old != new:
            return f"{name} {old}, not {new}"
    return None
