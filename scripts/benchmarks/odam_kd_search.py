"""How much each distiller's losses weigh: chosen on synthetic crowds and by a seed of their own.

Published weights are of detectors of another size, trained by another optimiser. One short training for each distiller
and factor of all its weights, from the same weights, with the same order of images; every one is judged on
``synthetic_crowd_tune``, which no other figure is made on.
"""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Options, Table
from benchmarks.odam_kd_runs import MEASURES, measure, train, weighed
from benchmarks.trainings import base_folder
from odam_d2.data.objects import load_objects

FOLDER = Path("output/odam_kd/search")
STUDENT = "fcos_lcnet_050_synthetic"
DATASETS = ("synthetic_crowd_tune_coco",)
# None of the tables'.
SEED = 10
ITERATIONS = 300
FACTORS = (1.0, 0.1, 0.01)
# Distiller -> the section of its weights.
DISTILLERS = {"fgd": "FGD", "odam_kd": "FGD", **{name.lower(): name for name in ("FGFI", "GID", "FKD", "CWD", "PKD")}}


def run(options: Options) -> Iterator[Table]:
    load_objects(DATASETS[0])
    base = base_folder(FOLDER, options)
    settings = {"student alone": ("ODAM.KD.DISTILLER", "")} | {
        f"{name}, weights x {factor:g}": ("ODAM.KD.DISTILLER", name, *weighed(section, factor))
        for name, section in DISTILLERS.items()
        for factor in FACTORS
    }
    rows = []
    for setting, changes in list(settings.items())[: options.size(None, 2)]:
        folder = base / setting.replace(", weights x", "").replace(" ", "_")
        train(STUDENT, ("SOLVER.MAX_ITER", ITERATIONS, *changes), SEED, folder, options)
        found = measure(folder, DATASETS, options)
        rows.append({"training": setting} | {name: found[name] for name in MEASURES})
    yield Table("Weights of distillers", rows, f"training seed {SEED}, {ITERATIONS} iterations, {DATASETS[0]}")
