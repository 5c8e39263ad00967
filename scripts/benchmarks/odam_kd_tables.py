"""Tables 7 and 8 in miniature, on BCCD and on synthetic crowds: one student and all distillers, three times each.

From the same weights, with the same order of images and the same augmentation for each seed, for as many iterations.
The teacher is trained once. BCCD's test images are not touched.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from benchmarks.measure import Options, Table
from benchmarks.odam_kd_runs import (
    ALONE,
    ITERATIONS,
    MEASURES,
    measure,
    measure_detector,
    start_weights,
    teacher_weights,
    train,
    weighed,
)
from benchmarks.trainings import base_folder, spread
from odam_d2.config import load_config
from odam_d2.data.objects import load_objects

FOLDER = Path("output/odam_kd/tables")
SEEDS = (0, 1, 2)
# Distiller -> what all its published weights are multiplied by: the best of odam_kd_search.
FACTORS = {"odam_kd": 1.0, "fgd": 0.01, "fgfi": 1.0, "gid": 1.0, "fkd": 1.0, "cwd": 1.0, "pkd": 0.01}
# Title, the student, and where detections are measured.
DATA = {
    "BCCD": ("fcos_lcnet_050_bccd", ("bccd_val",)),
    "synthetic crowds": ("fcos_lcnet_050_synthetic", tuple(f"synthetic_crowd_val{n}_coco" for n in range(3))),
}


def _row(foreground: str, background: bool, attention: str) -> tuple[Any, ...]:
    keys = {"FOREGROUND": foreground, "BACKGROUND": background, "ATTENTION": attention}
    row = (x for key, value in keys.items() for x in (f"ODAM.KD.{key}", value))
    return (*weighed("odam_kd", FACTORS["odam_kd"]), *row)


# Table 7's rows; (5) is FGD with ODAM-KD's weights.
ABLATIONS = {
    "(1) unfocused, bottom-up": _row("unfocused", False, "bottom_up"),
    "(2) focused, bottom-up": _row("focused", False, "bottom_up"),
    "(3) together, bottom-up": _row("together", False, "bottom_up"),
    "(4) focused, ODAM": _row("focused", False, "odam"),
    "(5) together, background": _row("together", True, "bottom_up"),
    "(6) focused, background, ODAM": _row("focused", True, "odam"),
    "(7) focused, background, Grad-CAM": _row("focused", True, "gradcam"),
}
# The other distillers, each with weights of its own.
OTHERS = {name.upper(): weighed(name, factor) for name, factor in FACTORS.items() if name != "odam_kd"}
# FGD's factor, for their comparison.
OTHERS["ODAM-KD, a hundredth"] = weighed("odam_kd", FACTORS["fgd"])
STUDENT, TEACHER = "student alone", "teacher"
STUDENTS = {STUDENT: ALONE, **ABLATIONS, **OTHERS}
ODAM_KD = "(6) focused, background, ODAM"
QUICK_STUDENTS = [STUDENT, "(5) together, background", ODAM_KD, "FGD"]
# What else the same trainings are called.
TABLE_8 = {TEACHER: TEACHER, STUDENT: STUDENT, **{name: name for name in OTHERS}, "ODAM-KD": ODAM_KD}


def run(options: Options) -> Iterator[Table]:
    kept = base_folder(FOLDER, options)
    for title, (name, datasets) in options.size(list(DATA.items()), list(DATA.items())[1:]):
        # Missing data are said now, not after a training.
        cfg = load_config(f"odam_kd/{name}.yaml")
        for dataset in datasets:
            load_objects(dataset)
        measured = {TEACHER: [], **{student: [] for student in options.size(list(STUDENTS), QUICK_STUDENTS)}}
        base = kept / name
        weights = teacher_weights(name, base, options)
        cfg.ODAM.KD.TEACHER.WEIGHTS = weights
        start = start_weights(name, (), base, options)
        shared = ("ODAM.KD.TEACHER.WEIGHTS", weights, "MODEL.WEIGHTS", start, "SOLVER.MAX_ITER", ITERATIONS)
        measured[TEACHER].append(measure_detector(teacher_of(cfg, options), datasets, base / "teacher.json"))
        for seed in options.size(SEEDS, SEEDS[:1]):
            for number, (student, changes) in enumerate(STUDENTS.items()):
                if student in measured:
                    folder = base / f"{number:02}" / str(seed)
                    train(name, (*changes, *shared), seed, folder, options)
                    measured[student].append(measure(folder, datasets, options))
        note = (
            f"mean and standard deviation over {len(SEEDS)} trainings of {ITERATIONS} iterations; {', '.join(datasets)}"
        )
        yield Table(f"{title}: what of ODAM-KD does it (Table 7)", rows({x: x for x in ABLATIONS}, measured), note)
        yield Table(f"{title}: distillers (Table 8)", rows(TABLE_8, measured), note)


def teacher_of(cfg: CfgNode, options: Options) -> CfgNode:
    """The config of a student's teacher, with the sizes of its student's images.

    Args:
        cfg: of the student.
        options: of the benchmark.
    """
    sizes = [x for key in ("MIN_SIZE_TEST", "MAX_SIZE_TEST") for x in (f"INPUT.{key}", cfg.INPUT[key])]
    named = cfg.ODAM.KD.TEACHER
    own = load_config(named.CONFIG_FILE, [*sizes, "MODEL.DEVICE", options.device])
    own.MODEL.WEIGHTS = named.WEIGHTS or own.MODEL.WEIGHTS
    return own


def rows(titles: dict[str, str], measured: dict[str, list[dict]]) -> list[dict]:
    """A row for each training that was made, under its title."""
    return [
        {"training": title} | {name: spread([one[name] for one in measured[key]]) for name in MEASURES}
        for title, key in titles.items()
        if measured.get(key)
    ]
