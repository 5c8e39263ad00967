"""What an evaluation of explanations has measured so far, on disk after every image, so that it can be interrupted.

In the output folder, ``settings.json`` says what is measured, ``parts/<process>.jsonl`` holds one line an image that is
finished, and ``objects.csv`` the rows of these lines, one a (method, object).
"""

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from odam_d2.evaluation.study.settings import METRICS
from odam_d2.files import write_atomically

# A row: one method's map of one object.
Row = dict[str, Any]
# An image: image_id, objects (annotated, without crowds), rows.
Entry = dict[str, Any]

COLUMNS = (
    *("image_id", "annotation_id", "class", "method", "x1", "y1", "x2", "y2", "score", "iou"),
    *METRICS,
    *("zero_map", "missing", "has_mask", "other_objects"),
)


class Record:
    """The finished images of a run.

    Args:
        folder: output folder, made if it does not exist.
        settings: what the numbers depend on, JSON types only.
        process: number of this process; each writes to its own part.

    Attributes:
        entries: image id -> its entry, of all processes as far as they had come when the run began.

    Raises:
        ValueError: the folder holds results of other settings; the message names the first that differs.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], process: int = 0):
        self.folder = folder
        try:
            (folder / "parts").mkdir(parents=True, exist_ok=True)
            _check_settings(folder / "settings.json", json.loads(json.dumps(settings)))
            self._part = folder / "parts" / f"{process}.jsonl"
            self._part.touch()
        except OSError as error:
            raise OSError(f"the output folder {folder} cannot be written: {error.strerror or error}") from error
        self.entries: dict[str, Entry] = {}
        for part in sorted((folder / "parts").glob("*.jsonl")):
            self.entries |= {entry["image_id"]: entry for entry in _read_part(part)}
        _cut_broken_end(self._part)
        if process == 0:
            self.write_rows(self.entries.values())

    def add(self, entry: Entry) -> None:
        """Keep a finished image, on disk before this returns."""
        line = json.dumps(_without_nan(entry))
        # As the next run would read it.
        self.entries[entry["image_id"]] = entry = json.loads(line)
        _append(self._part, line + "\n")
        _append(self.folder / "objects.csv", _to_csv(entry["rows"]))

    def reset(self, processes: int = 1) -> None:
        """Drop everything that was measured. Processes that share the images do it together, each its part.

        Args:
            processes: how many they are; parts that more of them have left go too.
        """
        self.entries = {}
        self._part.write_text("", encoding="utf-8")
        for part in self._part.parent.glob("*.jsonl"):
            if int(part.stem) >= processes:
                part.unlink(missing_ok=True)
        self.write_rows(())

    def write_rows(self, entries: Iterable[Entry]) -> None:
        """Write ``objects.csv`` anew, in the order of the entries."""
        rows = [row for entry in entries for row in entry["rows"]]
        write_atomically(self.folder / "objects.csv", ",".join(COLUMNS) + "\n" + _to_csv(rows))


def _check_settings(path: Path, settings: dict[str, Any]) -> None:
    if not path.exists():
        # Several processes may do this at once; they write the same.
        write_atomically(path, json.dumps(settings, indent=1) + "\n")
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not what an evaluation wrote; choose another output folder") from error
    for key, new, before in _differences(settings, old):
        raise ValueError(
            f"the folder {path.parent} holds results with {key} {before}, not {new}; "
            "choose another output folder, or the same settings to go on"
        )


def _differences(new: Mapping[str, Any], old: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, new value, old value) of every setting that differs."""
    for key in dict.fromkeys((*new, *old)):
        one, other = new.get(key), old.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            yield from _differences(one, other, f"{prefix}{key}.")
        elif one != other:
            yield f"{prefix}{key}", one, other


def _read_part(path: Path) -> list[Entry]:
    """The complete lines of a part; a killed process may leave half a line at the end."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


def _cut_broken_end(path: Path) -> None:
    content = path.read_bytes()
    if not content.endswith(b"\n") and content:
        os.truncate(path, content.rfind(b"\n") + 1)


def _append(path: Path, text: str) -> None:
    """Append in one call, which processes that append to one file at once do not mix up."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(descriptor, text.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _to_csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    # Numbers as Python writes them, so that reading gives the same; None, for undefined, is an empty cell.
    writer.writerows(rows)
    return text.getvalue()


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: None stands for it."""
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    return [_without_nan(part) for part in value] if isinstance(value, list) else value
