"""Folders that ``odam explain`` wrote, read again: what each run explained, and which photographs several of them have.

A photograph is its file, however a run calls it: the names of sheets and maps are a run's own.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from odam_d2.show.records import RUN_FILE, read_entries, read_run

# What a page over several runs has to know of each.
NEEDED = ("meta_architecture", "method", "targets", "confidence_threshold", "max_instances")


@dataclass(frozen=True, eq=False)
class ExplainedFolder:
    """What one run has explained.

    Args:
        path: of the folder, as it was given.
        run: facts about the run, see :func:`odam_d2.show.records.begin_run`.
        settings: name -> value of all that decided about the results.
        entries: file of a photograph, absolute and without links -> its line.
        left_out: the same of photographs that could not be explained.
    """

    path: Path
    run: Mapping[str, Any]
    settings: Mapping[str, Any]
    entries: Mapping[str, Mapping[str, Any]]
    left_out: Mapping[str, Mapping[str, Any]]

    def detector(self) -> str:
        """What people call the detector, such as ``Faster R-CNN``; a user's own is called as its class."""
        name = str(self.run["meta_architecture"]).removeprefix("ODAM")
        if name != "RCNN":
            return name
        cascade = "Cascade" in str(self.settings.get("MODEL.ROI_HEADS.NAME"))
        kinds = ["Cascade"] * cascade + ["Mask"] * bool(self.settings.get("MODEL.MASK_ON"))
        return f"{' '.join(kinds) or 'Faster'} R-CNN"


@dataclass(frozen=True, eq=False)
class Unshared:
    """A photograph that does not stand beside itself, because not all runs have explained it.

    Args:
        file: of the photograph, as the first run with it names it.
        states: for each run, what became of it, in a few words.
    """

    file: str
    states: Sequence[str]


def read_folder(path: Path) -> ExplainedFolder:
    """Read what ``odam explain --sheets`` has written.

    Args:
        path: of the folder.

    Raises:
        ValueError: it is no such folder, its run is not finished, or a photograph has no sheet.
    """
    if not (path / RUN_FILE).is_file():
        what = f"holds no {RUN_FILE}" if path.is_dir() else "does not exist"
        raise ValueError(f"{path} is no folder that odam explain wrote, it {what}; name an --output of odam explain")
    record = read_run(path)
    if missing := [name for name in NEEDED if name not in record["run"]]:
        raise ValueError(f"{path / RUN_FILE} does not tell {', '.join(missing)}; explain into another --output")
    if not (path / "index.html").is_file():
        raise ValueError(f"{path} has no page, its run was stopped; give the same odam explain with --resume")
    entries: dict[str, dict[str, Any]] = {}
    left_out: dict[str, dict[str, Any]] = {}
    for entry in read_entries(path):
        (left_out if "left_out" in entry else entries).setdefault(os.path.realpath(entry["file"]), entry)
    without = [entry for entry in entries.values() if not (path / entry.get("sheet", "sheets/none")).is_file()]
    if without:
        raise ValueError(
            f"{path} has no sheets of {len(without)} of its {len(entries)} photographs; run odam explain with --sheets "
            "into another --output"
        )
    return ExplainedFolder(path, record["run"], record["settings"], entries, left_out)


def read_folders(paths: Sequence[Path]) -> list[ExplainedFolder]:
    """Read folders that are to be compared.

    Args:
        paths: of the folders.

    Raises:
        ValueError: fewer than two, one of them twice, or as :func:`read_folder`.
    """
    if len(paths) < 2:
        named = f"only {paths[0]} was named" if paths else "none was named"
        raise ValueError(f"at least two folders that odam explain wrote are needed to compare them; {named}")
    known: set[Path] = set()
    for path in paths:
        if path.resolve() in known:
            raise ValueError(f"the folder {path} is named twice; name different ones")
        known.add(path.resolve())
    return [read_folder(path) for path in paths]


def name_folders(folders: Sequence[ExplainedFolder], names: Sequence[str] | None = None) -> list[str]:
    """What each run is called on a page: the given name, else its detector's, with the folder's where two are alike.

    Args:
        folders: of the runs.
        names: one a folder, each different.

    Raises:
        ValueError: another number of names, one that is empty, or one twice.
    """
    if names is None:
        names = [folder.detector() for folder in folders]
        for more in (lambda path: path.resolve().name, str):
            alike = [names.count(name) > 1 for name in names]
            names = [
                f"{name} ({more(folder.path)})" if twin else name for name, twin, folder in zip(names, alike, folders)
            ]
        return names
    if len(names) != len(folders):
        raise ValueError(f"{len(folders)} folders need a name each, not {len(names)} names ({', '.join(names)})")
    for name in names:
        if not name.strip() or names.count(name) > 1:
            raise ValueError(f"the name {name!r} does not tell one folder from the others; give each folder its own")
    return list(names)


def share_photographs(folders: Sequence[ExplainedFolder]) -> tuple[list[str], list[Unshared]]:
    """Which photographs stand side by side: those that every run has explained, at the same size.

    Args:
        folders: of the runs.

    Returns:
        the files of these photographs, absolute and without links, in the order of the first run, and all others.

    Raises:
        ValueError: there is none of the first kind.
    """
    files = dict.fromkeys(file for folder in folders for file in (*folder.entries, *folder.left_out))
    shared, others = [], []
    for file in files:
        sizes = {tuple(folder.entries[file]["size"]) if file in folder.entries else None for folder in folders}
        if len(sizes) == 1 and None not in sizes:
            shared.append(file)
        else:
            named = next(
                known[file]["file"] for run in folders for known in (run.entries, run.left_out) if file in known
            )
            others.append(Unshared(named, [_state(folder, file, len(sizes - {None}) > 1) for folder in folders]))
    if not shared:
        where = ", ".join(f"{folder.path} has {_example(folder)}" for folder in folders)
        raise ValueError(f"no photograph was explained in all {len(folders)} folders, {where}; give all one --input")
    return shared, others


def sheet_size(folder: ExplainedFolder, entry: Mapping[str, Any]) -> tuple[int, int]:
    """(width, height) of a photograph's sheet in pixels.

    Raises:
        ValueError: the file is no picture.
    """
    path = folder.path / entry["sheet"]
    try:
        with Image.open(path) as sheet:
            return sheet.size
    except OSError as error:
        raise ValueError(f"the sheet {path} cannot be read; explain into another --output: {error}") from error


def _state(folder: ExplainedFolder, file: str, sizes_differ: bool) -> str:
    """What became of a photograph in one run."""
    if file in folder.entries:
        width, height = folder.entries[file]["size"]
        return f"explained at {width} x {height}" if sizes_differ else "explained"
    if file in folder.left_out:
        return f"left out, {folder.left_out[file]['left_out']}"
    return "not among its images"


def _example(folder: ExplainedFolder) -> str:
    """The photographs of a run, for an error."""
    if not folder.entries:
        return "none"
    first, others = next(iter(folder.entries.values()))["file"], len(folder.entries) - 1
    return f"{first} and {others} more" if others else first
