"""Tables 1 to 3 of every bundled detector: maps of the objects that it finds in COCO's 220 validation photographs.

Runs are kept in output/tables and go on where they were stopped: the same command, again. Each is what the command
``odam evaluate`` does with the settings below. The tables are also written there as Markdown, a file a detector.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.maps import measure_maps
from benchmarks.measure import Options, Table
from benchmarks.trainings import base_folder
from odam_d2 import ODAMPredictor
from odam_d2.data.builtin import register_all
from odam_d2.evaluation.study.settings import CHEAP, METRICS, ExplanationSettings
from odam_d2.evaluation.study.summary import summarize
from odam_d2.evaluation.study.tables import PaperTable, make_tables, write_tables
from odam_d2.files import write_atomically

FOLDER = Path("output/tables")
DATASET = "coco_mini_more_val"
DETECTORS = {"fcos": "FCOS", "faster_rcnn": "Faster R-CNN", "retinanet": "RetinaNet"}
# RetinaNet shows the gradient methods alone: the others take hours.
LONG = ("fcos", "faster_rcnn")
GRADIENTS = ("odam", "gradcam", "gradcam++", "layercam", "ssgradcam++")
PERTURBED = ("deletion_auc", "insertion_auc")
# Few masks for every object, and as many as D-RISE's own paper has for the objects of the first images.
FEW_MASKS, MASKS, IMAGES = 500, 5000, 12
FEW = f"drise, {FEW_MASKS} masks"
OBJECTS, STEPS = 100, 100
# The images of black boxes, Deletion and Insertion go through the detector in mixed precision.
AMP = ("ODAM.EXPLAIN.AMP", True)
# Small: whether everything runs.
QUICK = ("INPUT.MIN_SIZE_TEST", 128, "ODAM.EXPLAIN.DRISE_MASKS", 4)

Row = dict[str, Any]


def run(options: Options) -> Iterator[Table]:
    register_all()
    base = base_folder(FOLDER, options)
    for name, title in DETECTORS.items():
        told = []
        for what, tables in tables_of(name, base / name, options):
            for table in tables:
                headed = f"{title}, {what}: {table.title}"
                told.append(table._replace(title=headed))
                yield Table(headed, [dict(zip(table.headings, row)) for row in table.rows], table.note)
            write_atomically(base / f"{name}.md", write_tables(told, {"dataset": DATASET}, title))


def tables_of(name: str, folder: Path, options: Options) -> Iterator[tuple[str, list[PaperTable]]]:
    """What is shown of a detector; what takes minutes is measured before what takes hours."""
    study = Study(name, folder, options)
    rows, methods = study.rows("gradients", GRADIENTS), [*GRADIENTS, "odam, smoothed"]
    rows += renamed(study.rows("smoothed", ("odam",), "ODAM.EXPLAIN.SMOOTHING", "gaussian"), methods[-1])
    if name in LONG:
        rows += renamed(study.rows("drise", ("drise",), *AMP, "ODAM.EXPLAIN.DRISE_MASKS", FEW_MASKS), FEW)
        methods.append(FEW)
    for least in (0.5, 0.9):
        yield f"IoU > {least}", to_tables([row for row in rows if row["iou"] > least], methods, CHEAP)
    if name not in LONG:
        return
    perturbed = study.rows("perturbed", GRADIENTS, *AMP, metrics=PERTURBED, steps=STEPS, max_objects=OBJECTS)
    yield "Deletion and Insertion", to_tables(perturbed, GRADIENTS, PERTURBED)
    every = {"metrics": tuple(METRICS), "steps": STEPS, "max_images": IMAGES}
    many = study.rows("drise_5000", ("odam", "drise"), *AMP, "ODAM.EXPLAIN.DRISE_MASKS", MASKS, **every)
    objects = {(row["image_id"], row["annotation_id"]) for row in many}
    others = [row for row in rows if (row["image_id"], row["annotation_id"]) in objects and row["method"] != "odam"]
    yield (
        f"the first {IMAGES} images, D-RISE with {MASKS} masks",
        to_tables(many + others, [*methods, "drise"], METRICS),
    )


class Study:
    """The runs of one detector, each in a folder of its own."""

    def __init__(self, name: str, folder: Path, options: Options):
        self.config, self.folder, self.options = f"demo/{name}_nanodet_g.yaml", folder, options

    def rows(self, run: str, methods: Sequence[str], *opts: object, **settings: Any) -> list[Row]:
        """A row a method and object; measured where they are not yet."""
        folder, options = self.folder / run, self.options
        if not (folder / "summary.json").exists():
            print(f"measuring {folder}", flush=True)
            predictor = ODAMPredictor(options.load_config(self.config, [*opts, *options.size((), QUICK)]))
            settings["max_images"] = options.size(settings.get("max_images"), 1)
            if "steps" in settings:
                settings["steps"] = options.size(STEPS, 2)
            chosen = ExplanationSettings(methods, iou_threshold=0.5, **settings)
            measure_maps(predictor, DATASET, folder, chosen)
        with open(folder / "objects.csv", newline="", encoding="utf-8") as file:
            return [{key: _value(key, cell) for key, cell in row.items()} for row in csv.DictReader(file)]


def _value(column: str, cell: str) -> Any:
    if column in ("zero_map", "missing", "has_mask", "other_objects"):
        return int(cell)
    if column in METRICS or column == "iou":
        return float(cell) if cell else None
    return cell


def renamed(rows: Sequence[Row], method: str) -> list[Row]:
    return [row | {"method": method} for row in rows]


def to_tables(rows: Sequence[Row], methods: Sequence[str], metrics: Sequence[str]) -> list[PaperTable]:
    """Means, and the differences between the first method and each other on the same objects."""
    present = [method for method in methods if any(row["method"] == method for row in rows)]
    if not present:
        return []
    found = map(only_measured, make_tables(rows, summarize(rows, present, metrics), present, metrics))
    return [table for table in found if len(table.headings) > 1]


def only_measured(table: PaperTable) -> PaperTable:
    """The table without columns that were not run; the first, of the methods' names, stays."""
    columns = [i for i in range(len(table.headings)) if any(row[i] != "not run" for row in table.rows)]
    rows = [[row[i] for i in columns] for row in table.rows]
    return table._replace(headings=[table.headings[i] for i in columns], rows=rows)
