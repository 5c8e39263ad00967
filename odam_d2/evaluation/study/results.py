"""The files that an evaluation of explanations ends with."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from odam_d2.evaluation.study.curves import draw_curves, mean_curves
from odam_d2.evaluation.study.examples import ExampleStore
from odam_d2.evaluation.study.record import Entry
from odam_d2.evaluation.study.report import write_evaluation_page
from odam_d2.evaluation.study.settings import COUNTS, METRICS, ExplanationSettings
from odam_d2.evaluation.study.summary import summarize
from odam_d2.evaluation.study.tables import make_tables, write_tables
from odam_d2.files import write_atomically

# Of the settings, what a reader of the tables wants to know.
SHOWN = ("target", "iou_threshold", "score_threshold", "max_images", "max_objects", "map_folders")
# All that an evaluation ends with.
FILES = ("summary.json", "tables.md", "curves.json", "curves.png", "index.html")


def remove_results(folder: Path) -> None:
    """Remove what :func:`write_results` wrote, where there is any.

    Args:
        folder: output folder.
    """
    for name in FILES:
        (folder / name).unlink(missing_ok=True)


def write_results(
    folder: Path,
    entries: Mapping[str, Entry],
    files: Mapping[str, Path],
    settings: ExplanationSettings,
    facts: Mapping[str, Any],
    examples: ExampleStore,
) -> dict[str, dict[str, Any]]:
    """Write ``summary.json``, ``tables.md``, ``curves.json``, ``curves.png`` and ``index.html``.

    Args:
        folder: output folder.
        entries: of all images, in order.
        files: image id -> file of the image.
        settings: of the run.
        facts: about the run.
        examples: the pictures kept so far.

    Returns:
        the summary, see :func:`odam_d2.evaluation.study.summary.summarize`; its counts also tell the ``images``,
        those ``with_explained`` objects and the ``annotated`` objects.

    Raises:
        OSError: a file cannot be written.
    """
    rows = [row for entry in entries.values() for row in entry["rows"]]
    methods, metrics = settings.names, settings.metrics
    summary = summarize(rows, methods, metrics)
    of_images = {
        "images": len(entries),
        "with_explained": sum(bool(entry["rows"]) for entry in entries.values()),
        "annotated": sum(entry["objects"] for entry in entries.values()),
    }
    counts = summary[COUNTS] = of_images | summary[COUNTS]
    write_atomically(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    told = dict(facts) | _told(settings) | {"objects": _objects(counts)}
    tables = make_tables(rows, summary, methods, metrics)
    write_atomically(folder / "tables.md", write_tables(tables, told))
    wanted = {f"{name.removesuffix('_auc')}_curve" for name in metrics}
    curves = {name: curve for name, curve in mean_curves(rows, methods).items() if name in wanted}
    write_atomically(folder / "curves.json", json.dumps(curves, indent=1) + "\n")
    # Of an earlier run that was stopped while it wrote.
    (folder / "curves.png").unlink(missing_ok=True)
    if curves:
        draw_curves(folder / "curves.png", curves)
    curve_picture = folder / "curves.png" if curves else None
    write_evaluation_page(
        folder / "index.html", entries, files, settings, summary, tables, curve_picture, examples, told
    )
    return summary


def _told(settings: ExplanationSettings) -> dict[str, Any]:
    everything = settings.to_json()
    told = {key: everything[key] for key in SHOWN if everything[key] not in (None, [])}
    if any(METRICS[name].needs_runs for name in settings.metrics):
        told |= {"protocol": settings.protocol, "steps": settings.steps}
    explain = settings.explain
    told |= {"layer": explain.layer, "smoothing": explain.smoothing, "path": explain.path}
    told |= {"amp": True} if explain.amp else {}
    told |= {"drise_masks": explain.drise_masks} if "drise" in settings.methods else {}
    return told | ({"bbam_steps": explain.bbam_steps} if "bbam" in settings.methods else {})


def _objects(counts: Mapping[str, Any]) -> str:
    return (
        f"{counts['objects']} explained in {counts['with_explained']} of {counts['images']} images, "
        f"of {counts['annotated']} annotated"
    )
