"""The page of an evaluation of explanations: its tables and curves, then examples, then every object.

One self-contained file, ``templates/evaluation.html`` filled with JSON. Shapes: D explained objects of an image, M
methods, (mh,mw) small map. Boxes are XYXY in pixels of the image.
"""

import base64
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from odam_d2.evaluation.study.examples import RANKING, ExampleStore, extreme_objects
from odam_d2.evaluation.study.record import Entry, Row
from odam_d2.evaluation.study.settings import COUNTS, METRICS, ExplanationSettings
from odam_d2.evaluation.study.tables import NOTHING, PaperTable
from odam_d2.explain import METHODS
from odam_d2.files import open_atomically
from odam_d2.show.overlays import BRIGHTNESS, LUT, OPACITY, SATURATION
from odam_d2.show.page import data_script
from odam_d2.show.template import around_data

# Opacity of each of the 256 colours, as in the overlays.
ALPHA = np.rint(255 * OPACITY * np.sqrt(np.arange(256) / 255)).astype(np.uint8)
# (image id, annotation id) -> number of the object on the page.
Numbers = dict[tuple[str, str], int]


def write_evaluation_page(
    path: Path,
    entries: Mapping[str, Entry],
    files: Mapping[str, Path],
    settings: ExplanationSettings,
    summary: Mapping[str, Any],
    tables: Sequence[PaperTable],
    curves: Path | None,
    examples: ExampleStore,
    details: Mapping[str, Any],
) -> None:
    """Write the page, and drop pictures that are not on it.

    Args:
        path: of the HTML file, replaced in one step.
        entries: of all images, in order.
        files: image id -> file of the image.
        settings: of the run.
        summary: means and counts, see :func:`odam_d2.evaluation.study.summary.summarize`, with those of the images.
        tables: of the paper.
        curves: picture of the mean curves, if there are any.
        examples: the pictures kept so far.
        details: facts about the run.

    Raises:
        OSError: it cannot be written; an older page is then left as it was.
    """
    methods = settings.names
    objects = [row for entry in entries.values() for row in entry["rows"] if row["method"] == methods[0]]
    numbers = {(row["image_id"], row["annotation_id"]): number for number, row in enumerate(objects)}
    reasons = extreme_objects(entries.values(), methods)
    wanted = {image_id for image_id, _ in reasons}
    before, after = around_data("odam_d2.evaluation.study", "evaluation.html")
    shown = []
    # A file name that is not valid text must not cost the page.
    with open_atomically(path, errors="replace") as file:
        file.write(before)
        for place, (image_id, entry) in enumerate(entries.items()):
            kept = examples.load(entry) if image_id in wanted else None
            if kept is not None:
                file.write(data_script(f"image-{place}", _image_data(entry, numbers, methods, *kept)))
                shown.append(image_id)
        data = {
            "details": {key: str(value) for key, value in details.items()},
            "lead": _lead(summary[COUNTS], settings),
            "tables": [table._asdict() for table in tables],
            "counts": _count_table(summary[COUNTS], settings),
            "curves": base64.b64encode(curves.read_bytes()).decode() if curves else None,
            "methods": [_method(name) for name in methods],
            "metrics": [{"name": name, **METRICS[name]._asdict()} for name in settings.metrics],
            "examples": _groups(entries, numbers, reasons, methods, set(shown)),
            "filters": {"saturation": SATURATION, "brightness": BRIGHTNESS},
            **_objects(objects, entries, files, settings, set(shown)),
        }
        file.write(data_script("report", data))
        file.write(after)
    examples.drop_but(shown)


def _lead(counts: Mapping[str, Any], settings: ExplanationSettings) -> list[str]:
    """Sentences about what was measured."""
    measured = (
        f"{counts['objects']} objects were measured, in {counts['with_explained']} of {counts['images']} images, of "
        f"{counts['annotated']} that are annotated there."
    )
    chosen = (
        "An object is measured if the detector found it well: with a detection of its class, a score > "
        f"{settings.score_threshold} and an IoU with its box > {settings.iou_threshold}."
    )
    if settings.max_objects is not None:
        chosen += f" Of these, at most {settings.max_objects} were chosen, spread evenly over the images."
    if not counts["objects"]:
        return [NOTHING, chosen]
    return [measured, f"{chosen} All methods explain the same objects."]


def _count_table(counts: Mapping[str, Any], settings: ExplanationSettings) -> dict[str, Any]:
    """How many objects stand behind the numbers of each method."""
    if not counts["objects"]:
        return {"headings": [], "rows": []}
    titles = {name: METRICS[name].title[:-2] for name in settings.metrics}
    rows = []
    for method in settings.names:
        own = counts[method]
        undefined = [f"{titles[name]} {count}" for name, count in own["undefined"].items() if count]
        rows.append([method, own["objects"], own["missing"], own["zero_maps"], ", ".join(undefined) or "0"])
    return {"headings": ["method", "measured", "maps missing", "maps all zero", "undefined"], "rows": rows}


def _method(name: str) -> dict[str, str]:
    return {"name": name, "meaning": METHODS[name].title if name in METHODS else "maps from a folder"}


def _objects(
    objects: Sequence[Row],
    entries: Mapping[str, Entry],
    files: Mapping[str, Path],
    settings: ExplanationSettings,
    shown: set[str],
) -> dict[str, Any]:
    """Images and objects, and each method's numbers of them: lists in the order of the objects."""
    places = {image_id: place for place, image_id in enumerate(entries)}
    by_method: dict[str, list[Row]] = defaultdict(list)
    for entry in entries.values():
        for row in entry["rows"]:
            by_method[row["method"]].append(row)
    # Sorting is finer than what is read.
    values = [
        [[_rounded(row[name], METRICS[name].digits + 2) for row in by_method[method]] for name in settings.metrics]
        for method in settings.names
    ]
    notes = [[_note(row) for row in by_method[method]] for method in settings.names]
    return {
        "images": [
            {"name": files[image_id].name, "file": files[image_id].absolute().as_uri(), "shown": image_id in shown}
            for image_id in entries
        ],
        "objects": {
            "image": [places[row["image_id"]] for row in objects],
            "id": [row["annotation_id"] for row in objects],
            "class": [row["class"] for row in objects],
            "score": [_rounded(row["score"], 4) for row in objects],
            "iou": [_rounded(row["iou"], 4) for row in objects],
            "values": values,
            "notes": notes,
        },
    }


def _note(row: Row) -> str:
    return "map missing" if row["missing"] else "map all zero" if row["zero_map"] else ""


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _groups(
    entries: Mapping[str, Entry],
    numbers: Numbers,
    reasons: Mapping[tuple[str, str], Sequence[str]],
    methods: Sequence[str],
    shown: set[str],
) -> list[dict[str, Any]]:
    """The best and the worst objects of each method, from either end."""
    value = {
        (row["method"], row["image_id"], row["annotation_id"]): row[RANKING]
        for image_id in shown
        for row in entries[image_id]["rows"]
    }
    groups = []
    for place, method in enumerate(methods):
        for why in ("best", "worst"):
            keys = [key for key, found in reasons.items() if f"{why} of {method}" in found and key[0] in shown]
            own = sorted(((value[(method, *key)], *key) for key in keys), reverse=why == "best")
            if own:
                groups.append({"method": place, "why": why, "objects": [numbers[tuple(key)] for _, *key in own]})
    return groups


def _image_data(
    entry: Entry, numbers: Numbers, methods: Sequence[str], photo: bytes, maps: np.ndarray
) -> dict[str, Any]:
    """An example's photograph, and box and maps of each of its objects, (M,D,mh,mw)."""
    rows = [row for row in entry["rows"] if row["method"] == methods[0]]
    height, width = entry["size"]
    return {
        "width": width,
        "height": height,
        "photo": base64.b64encode(photo).decode(),
        "objects": [
            {
                "number": numbers[row["image_id"], row["annotation_id"]],
                "box": [round(row[side], 1) for side in ("x1", "y1", "x2", "y2")],
                "maps": [_heat_picture(own[place]) for own in maps],
            }
            for place, row in enumerate(rows)
        ],
    }


def _heat_picture(heat: np.ndarray) -> str:
    """A map as a PNG in the colours and opacities of the overlays, to be laid over a dimmed photograph.

    Args:
        heat: (mh,mw) uint8.
    """
    picture = Image.fromarray(heat).convert("P")
    picture.putpalette(LUT.tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", transparency=ALPHA.tobytes())
    return base64.b64encode(buffer.getvalue()).decode()
