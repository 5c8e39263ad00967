"""One page over the folders of several runs: the same photographs, and under each what every detector saw in it.

Plain HTML without a script, ``templates/side_by_side.html`` filled in. Sheets are not copied: the page shows those in
the folders by relative addresses, so that page and folders can be moved together.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from odam_d2.files import write_atomically
from odam_d2.show.folders import (
    ExplainedFolder,
    Unshared,
    name_folders,
    read_folders,
    share_photographs,
    sheet_size,
)
from odam_d2.show.template import fill_template
from odam_d2.show.words import NO_DETECTIONS, meanings_of, plural

Meanings = Callable[[str], Mapping[str, str]]

# Facts that stand in sight; the others open on a click.
FACTS = (
    "config",
    "weights",
    "method",
    "layer",
    "smoothing",
    "targets",
    "confidence_threshold",
    "max_instances",
    "device",
)

# What a fact affects besides the detector: the page warns where it is not the same in all runs.
EFFECTS = {
    "method": "the maps",
    "layer": "the maps",
    "smoothing": "the maps",
    "masks": "the maps",
    "path": "the maps and the times",
    "targets": "the columns",
    "confidence_threshold": "the number of detections",
    "max_instances": "the number of detections",
    "device": "the times",
}
# A list of photographs this long is in sight.
FEW_PHOTOGRAPHS = 12
NOTHING = "none"


def write_side_by_side(
    path: Path,
    folders: Sequence[Path],
    names: Sequence[str] | None = None,
    own_meanings: Meanings | None = None,
) -> tuple[list[str], list[Unshared]]:
    """Write the page.

    Args:
        path: of the HTML file, in an existing folder; replaced in one step.
        folders: that ``odam explain --sheets`` wrote, at least two, in the order of the rows.
        names: of the detectors, one a folder; by default those of their architectures.
        own_meanings: from a method to what its maps answer, by target, where they answer something else than ODAM's.

    Returns:
        the files of the photographs on it, and those that not all runs have explained.

    Raises:
        ValueError: folders or names that cannot be used, no photograph in common, or a path that is no place for it.
        OSError: the file cannot be written; an older page is then left as it was.
    """
    _check_path(path, folders)
    runs = read_folders(folders)
    names = name_folders(runs, names)
    shared, others = share_photographs(runs)
    parts = {
        "title": escape(f"{_join(names)} side by side"),
        "lead": _lead(len(runs), len(shared), len(others)),
        "warning": _warning(runs, names),
        "columns": "".join(_columns(runs, names, own_meanings or (lambda method: {}))),
        "runs": _runs(path, runs, names, shared),
        "photographs": "".join(_photographs(path, runs, names, shared)),
        "unshared": _unshared(others, names),
    }
    page = fill_template("odam_d2.show", "side_by_side.html", parts)
    # A file name that is not valid text must not cost the page.
    write_atomically(path, page.encode("utf-8", errors="replace"))
    return shared, others


def _check_path(path: Path, folders: Sequence[Path]) -> None:
    """Refuse a place for the page before anything is read."""
    if path.is_dir():
        raise ValueError(f"the page cannot be written to {path}, which is a folder; name a file, {path / 'page.html'}")
    if not path.parent.is_dir():
        raise ValueError(f"the page cannot be written to {path}: there is no folder {path.parent}; make it first")
    own = [folder for folder in folders if path.resolve() == (folder / "index.html").resolve()]
    if own:
        raise ValueError(f"{path} is the page of the run into {own[0]}; name another file")


def _lead(runs: int, shared: int, others: int) -> str:
    words = f"{plural(shared, 'photograph')}, each explained by {runs} runs."
    if others:
        verb = "is" if others == 1 else "are"
        words += f' {plural(others, "more photograph")} {verb} <a href="#unshared">not in all of them</a>.'
    return words


def _warning(runs: Sequence[ExplainedFolder], names: Sequence[str]) -> str:
    """What is not the same in all runs, and what that affects."""
    lines = []
    for fact, effect in EFFECTS.items():
        # D-RISE has no layer, which its being another method says.
        values = dict.fromkeys(_value(run, fact) for run in runs if fact in run.run)
        if len(values) > 1:
            lines.append(f"<li><b>{_spaced(fact)}</b> ({escape(' or '.join(values))}) affects {effect}</li>\n")
    if not lines:
        return ""
    words = "These runs differ in more than the detector, so not all that differs below comes from the detectors:"
    return f'<aside role="note" id="warning"><p><b>Careful.</b> {words}</p>\n<ul>{"".join(lines)}</ul></aside>'


def _columns(runs: Sequence[ExplainedFolder], names: Sequence[str], own: Meanings) -> Iterator[str]:
    """What each column answers; where that depends on the method, for each run."""
    meanings = [meanings_of(run.run["targets"], own(run.run["method"])) for run in runs]
    for target in dict.fromkeys(target for each in meanings for target in each):
        found: dict[str, list[str]] = {}
        for name, each in zip(names, meanings):
            if target in each:
                found.setdefault(each[target], []).append(name)
        by_all = list(found.values()) == [list(names)]
        words = [meaning if by_all else f"{meaning} ({', '.join(own)})" for meaning, own in found.items()]
        yield f"<dt>{escape(target)}</dt><dd>{escape('; '.join(words))}</dd>\n"


def _runs(path: Path, runs: Sequence[ExplainedFolder], names: Sequence[str], shared: Sequence[str]) -> str:
    """A table with a column for each run, and all else that is known of them behind a click."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    pages = [f'<a href="{_address(path, run.path / "index.html")}">{escape(str(run.path))}</a>' for run in runs]
    times = [escape(_mean_times(run, shared)) for run in runs]
    rows = [_cells("folder and page", pages), *(_fact_row(fact, runs) for fact in FACTS)]
    rows.append(_cells("mean time of these photographs", times))
    known = dict.fromkeys(fact for run in runs for fact in run.run)
    rest = [_fact_row(fact, runs) for fact in known if fact not in FACTS]
    table = '<div class="wide"><table><thead><tr><td></td>{}</tr></thead>\n<tbody>{}</tbody></table></div>'
    more = f"<details><summary>All that is known of these runs</summary>{table.format(head, ''.join(rest))}</details>"
    return f"{table.format(head, ''.join(rows))}\n<p class='quiet'>What is not the same is marked.</p>\n{more}"


def _fact_row(fact: str, runs: Sequence[ExplainedFolder]) -> str:
    values = [_value(run, fact) for run in runs]
    return _cells(_spaced(fact), list(map(escape, values)), len(set(values)) > 1)


def _cells(title: str, cells: Sequence[str], differs: bool = False) -> str:
    marked = ' class="differs"' if differs else ""
    return f'<tr{marked}><th scope="row">{escape(title)}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>\n'


def _mean_times(run: ExplainedFolder, shared: Sequence[str]) -> str:
    entries = [run.entries[file] for file in shared]
    keys = ("seconds_detection", "seconds_maps", "number_of_maps")
    detection, maps, count = (sum(entry[key] for entry in entries) / len(entries) for key in keys)
    return f"{detection:.3f} s to detect, {maps:.3f} s for {count:.1f} maps"


def _photographs(
    path: Path, runs: Sequence[ExplainedFolder], names: Sequence[str], shared: Sequence[str]
) -> Iterator[str]:
    """A list of the photographs, then each with a row for each detector."""
    yield _contents([runs[0].entries[file]["file"] for file in shared])
    for number, file in enumerate(shared, 1):
        entries = [run.entries[file] for run in runs]
        sizes = [sheet_size(run, entry) for run, entry in zip(runs, entries)]
        widest = max(width for width, _ in sizes)
        (width, height), named = entries[0]["size"], entries[0]["file"]
        yield (
            f'<section class="photograph" id="photograph-{number}">\n<h2>{escape(Path(named).name)}</h2>\n'
            f'<p class="quiet">{escape(named)}, {width} x {height} pixels</p>\n'
            f'<div class="wide"><div class="rows" style="--width: {widest}px">\n'
        )
        for run, name, entry, size in zip(runs, names, entries, sizes):
            yield _row(path, run, name, entry, size, widest)
        yield "</div></div>\n</section>\n"


def _contents(names: Sequence[str]) -> str:
    links = [f'<li><a href="#photograph-{i}">{escape(Path(name).name)}</a></li>\n' for i, name in enumerate(names, 1)]
    state = " open" if len(names) <= FEW_PHOTOGRAPHS else ""
    title = plural(len(names), "photograph")
    return f"<nav><details{state}><summary>{title}</summary>\n<ul>{''.join(links)}</ul></details></nav>\n"


def _row(
    path: Path, run: ExplainedFolder, name: str, entry: Mapping[str, Any], size: tuple[int, int], widest: int
) -> str:
    """One detector's sheet of one photograph, and the words above it."""
    sheet = _address(path, run.path / entry["sheet"])
    page, _, image = entry["page"].partition("#")
    own = f"{_address(path, run.path / page)}#{quote(image, safe='=&')}"
    times = f"detected in {entry['seconds_detection']:.3f} s"
    if entry["number_of_maps"]:
        times += f", {plural(entry['number_of_maps'], 'map')} in {entry['seconds_maps']:.3f} s"
    shows = f"a row for each of {name}'s detections, the photograph and its maps" if entry["classes"] else NO_DETECTIONS
    return (
        f'<article class="row">\n<div class="words"><h3>{escape(name)}</h3>\n'
        f'<p>{escape(_found(entry, run))}</p>\n<p class="quiet">{times}; '
        f'<a href="{own}">look closer on its own page</a></p></div>\n'
        f'<a href="{sheet}"><img src="{sheet}" width="{size[0]}" height="{size[1]}" loading="lazy" '
        f'style="width: {100 * size[0] / widest:.3f}%; max-width: {size[0]}px" alt="{escape(shows)}"></a>\n</article>\n'
    )


def _found(entry: Mapping[str, Any], run: ExplainedFolder) -> str:
    """How many detections, of which classes, and how sure."""
    count = len(entry["classes"])
    if not count:
        return f"{NO_DETECTIONS} of {run.run['confidence_threshold']}"
    classes = [f"{label} ×{n}" if n > 1 else label for label, n in Counter(entry["classes"]).items()]
    most = ", the most that were to be explained" if count == run.run["max_instances"] else ""
    return f"{plural(count, 'detection')}{most}: {', '.join(classes)}; best score {max(entry['scores']):.2f}"


def _unshared(others: Sequence[Unshared], names: Sequence[str]) -> str:
    if not others:
        return ""
    lines = []
    for one in others:
        states = "; ".join(f"{name}: {state}" for name, state in zip(names, one.states))
        lines.append(f"<li>{escape(one.file)} <span class='quiet'>({escape(states)})</span></li>\n")
    title = "Photographs that not all runs have explained"
    return f'<footer id="unshared"><h2>{title}</h2>\n<ul>{"".join(lines)}</ul></footer>'


def _value(run: ExplainedFolder, fact: str) -> str:
    """A fact about a run in words."""
    value = run.run.get(fact)
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    return NOTHING if value in (None, "") else str(value)


def _address(path: Path, target: Path) -> str:
    """Where a file is, from the folder of the page, as it stands between quotes in HTML."""
    return escape(quote(os.fsencode(os.path.relpath(target, path.parent))))


def _spaced(fact: str) -> str:
    return fact.replace("_", " ")


def _join(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"
