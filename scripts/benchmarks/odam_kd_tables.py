"""Tables 7 and 8 in miniature, on BCCD and on synthetic crowds: one student and all distillers, three times each.

From the same weights, with the same order of images and the same augmentation for each seed, for as many iterations;
three students on BCCD for longer, too. The teacher is trained once. BCCD's test images are not touched.
"""

from collections.abc import Iterator, Sequence
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
FACTORS = {"fgd": 0.01, "fgfi": 1.0, "gid": 1.0, "fkd": 1.0, "cwd": 1.0, "pkd": 0.01, "odam_kd": 0.01}
# Title, the student, and where detections are measured.
DATA = {
    "BCCD": ("fcos_lcnet_050_bccd", ("bccd_val",)),
    "synthetic crowds": ("fcos_lcnet_050_synthetic", tuple(f"synthetic_crowd_val{n}_coco" for n in range(3))),
}


def _row(foreground: str, background: bool, attention: str) -> tuple[Any, ...]:
    keys = {"FOREGROUND": foreground, "BACKGROUND": background, "ATTENTION": attention}
    row = (x for key, value in keys.items() for x in (f"ODAM.KD.{key}", value))
    return (*weighed("odam_kd", 1.0), *row)


# Table 7's rows, with ODAM-KD's published weights; (5) is FGD with them.
ABLATIONS = {
    "(1) unfocused, bottom-up": _row("unfocused", False, "bottom_up"),
    "(2) focused, bottom-up": _row("focused", False, "bottom_up"),
    "(3) together, bottom-up": _row("together", False, "bottom_up"),
    "(4) focused, ODAM": _row("focused", False, "odam"),
    "(5) together, background": _row("together", True, "bottom_up"),
    "(6) focused, background, ODAM": _row("focused", True, "odam"),
    "(7) focused, background, Grad-CAM": _row("focused", True, "gradcam"),
}
# Table 8's, each with weights of its own.
DISTILLERS = {name.upper().replace("_", "-"): weighed(name, factor) for name, factor in FACTORS.items()}
STUDENT, TEACHER = "student alone", "teacher"
STUDENTS = {STUDENT: ALONE, **ABLATIONS, **DISTILLERS}
ODAM_KD = "(6) focused, background, ODAM"
# Whether distilling pays later: on real images, four times as long.
LONGER, LONGER_DATA, LONGER_STUDENTS = 1200, "BCCD", [STUDENT, "(5) together, background", ODAM_KD]
QUICK_STUDENTS = [*LONGER_STUDENTS, "FGD"]
TABLE_8 = {name: name for name in (TEACHER, STUDENT, *DISTILLERS)} | {"ODAM-KD, published weights": ODAM_KD}


def run(options: Options) -> Iterator[Table]:
    kept = base_folder(FOLDER, options)
    for title, (name, datasets) in options.size(list(DATA.items()), list(DATA.items())[1:]):
        # Missing data are said now, not after a training.
        cfg = load_config(f"odam_kd/{name}.yaml")
        for dataset in datasets:
            load_objects(dataset)
        base = kept / name
        weights = teacher_weights(name, base, options)
        cfg.ODAM.KD.TEACHER.WEIGHTS = weights
        start = start_weights(name, (), base, options)
        shared = ("ODAM.KD.TEACHER.WEIGHTS", weights, "MODEL.WEIGHTS", start)
        measured = {TEACHER: [measure_detector(teacher_of(cfg, options), datasets, base / "teacher.json")]}
        wanted = options.size(list(STUDENTS), QUICK_STUDENTS)
        measured |= distil(name, wanted, (*shared, "SOLVER.MAX_ITER", ITERATIONS), datasets, base, options)
        note = f"mean and standard deviation over {len(SEEDS)} trainings of {{}} iterations; {', '.join(datasets)}"
        short, long = note.format(ITERATIONS), note.format(LONGER)
        yield Table(f"{title}: what of ODAM-KD does it (Table 7)", rows({x: x for x in ABLATIONS}, measured), short)
        yield Table(f"{title}: distillers (Table 8)", rows(TABLE_8, measured), short)
        if title == LONGER_DATA or options.quick:
            own = (*shared, "SOLVER.MAX_ITER", LONGER)
            measured = distil(name, options.size(LONGER_STUDENTS, [ODAM_KD]), own, datasets, base / "longer", options)
            yield Table(f"{title}: {LONGER} iterations", rows({x: x for x in LONGER_STUDENTS}, measured), long)


def distil(
    config: str, students: Sequence[str], shared: Sequence[Any], datasets: Sequence[str], base: Path, options: Options
) -> dict[str, list[dict]]:
    """Train students and measure them, once for each seed.

    Args:
        config: name of the students' config.
        students: some of :data:`STUDENTS`.
        shared: keys of all their configs with other values.
        datasets: where their detections are measured.
        base: of their folders.
        options: of the benchmark.

    Returns:
        student -> measures of each training.
    """
    measured: dict[str, list[dict]] = {student: [] for student in students}
    for seed in options.size(SEEDS, SEEDS[:1]):
        for number, (student, changes) in enumerate(STUDENTS.items()):
            if student in measured:
                folder = base / f"{number:02}" / str(seed)
                train(config, (*changes, *shared), seed, folder, options)
                measured[student].append(measure(folder, datasets, options))
    return measured


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
