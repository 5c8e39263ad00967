"""What ``odam explain`` says in the end: how many images, how many detections, and how long it all took."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from odam_d2.cli.common import FAILED, INTERRUPTED, print_interrupted
from odam_d2.show.records import RESULTS_FILE
from odam_d2.show.results import ResultsFolder


def report(
    results: ResultsFolder,
    facts: Mapping[str, Any],
    paths: Sequence[Path],
    before: Collection[str],
    seconds: tuple[float, float],
    code: int,
) -> int:
    """Say what came out, where ``seconds`` are those until the first image and those from there to the end."""
    new = sum(1 for entry in results.entries() if entry["file"] not in before)
    if code == INTERRUPTED:
        kept = sum(1 for entry in results.entries() if "left_out" not in entry)
        print_interrupted(f"the results of {kept} of {len(paths)} images are kept; the same with --resume goes on")
    print_table(Console(), facts, (entry for entry in results.entries() if "left_out" not in entry))
    if before:
        print(f"{len(before)} of these images were there before")
    each = f", {seconds[1] / new:.3f} s an image" if new else ""
    print(f"{seconds[0]:.1f} s to start, then {seconds[1]:.1f} s for {new} images, all written{each}")
    print(f"open {results.folder / 'index.html'}")
    return code or (0 if any("left_out" not in entry for entry in results.entries()) else FAILED)


def print_table(console: Console, run: Mapping[str, Any], entries: Iterable[Mapping[str, Any]]) -> None:
    """One screen: an image a row while they fit, and the means and sums."""
    layer = f" at {run['layer']}" if "layer" in run else ""
    table = Table(title=f"Explained by {run['method']}{layer}")
    for column in ("image", "detections", "s detection", "s maps", "ms / map"):
        table.add_column(column, justify="left" if column == "image" else "right")
    shown = max(3, console.height - 14)
    images = detections = maps = 0
    seconds = [0.0, 0.0]
    for entry in entries:
        own = entry["seconds_detection"], entry["seconds_maps"]
        if images < shown:
            table.add_row(entry["name"], *_numbers(len(entry["boxes"]), own, own[1], entry["number_of_maps"]))
        images, detections, maps = images + 1, detections + len(entry["boxes"]), maps + entry["number_of_maps"]
        seconds = [total + value for total, value in zip(seconds, own)]
    if images > shown:
        table.add_row(f"... {images - shown} more in {RESULTS_FILE}", *[""] * 4)
    table.add_section()
    means = [total / max(1, images) for total in seconds]
    table.add_row(f"{images} images", *_numbers(detections, means, seconds[1], maps))
    console.print(table)


def _numbers(detections: int, seconds: Sequence[float], seconds_maps: float, maps: int) -> list[str]:
    per_map = f"{1000 * seconds_maps / maps:.1f}" if maps else "-"
    return [str(detections), *(f"{value:.3f}" for value in seconds), per_map]
