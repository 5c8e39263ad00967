"""How much weight ODAM-Train's losses get, and which pairs count: chosen on crowds and by a seed of their own.

One training for each setting, from the same weights, with the same order of images; every setting is judged on
``synthetic_crowd_tune``, which no other figure is made on.
"""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.crowds import MEASURES, check_data
from benchmarks.kept_sets import DETECTORS
from benchmarks.measure import Options, Table
from benchmarks.odam_train_runs import measure, train, two_people_cells
from benchmarks.trainings import base_folder
from odam_d2.evaluation.study.settings import METRICS

FOLDER = Path("output/odam_train/search")
DATASETS = ("synthetic_crowd_tune",)
# None of the tables'.
SEED = 10
SETTINGS = {"without": ("ODAM.TRAIN.ENABLED", False)} | {
    f"weight {weight}, {negatives}": ("ODAM.TRAIN.WEIGHT", weight, "ODAM.TRAIN.NEGATIVES", negatives)
    for weight, negatives in ((0.3, "all"), (1.0, "all"), (1.0, "overlapping"), (10.0, "all"), (10.0, "overlapping"))
}
NMS = ("NMS", "ODAM-NMS .9/.1", "ODAM-NMS .8/.2")
SHOWN = ("pg_box", "enpg_mask", "odi_mask", "vea_auc")


def run(options: Options) -> Iterator[Table]:
    check_data(DATASETS)
    base = base_folder(FOLDER, options)
    for name, file, node in DETECTORS:
        rows = []
        for setting, changes in list(SETTINGS.items())[: options.size(None, 2)]:
            folder = base / file / setting.replace(", ", "_").replace(" ", "_")
            train(file, changes, SEED, folder, options)
            rows.append({"setting": setting, **_cells(measure(folder, node, DATASETS, options))})
        yield Table(f"{name}: settings of ODAM-Train", rows, f"training seed {SEED}, {DATASETS[0]}")


def _cells(found: dict) -> dict:
    row = {}
    for name in NMS:
        own = found["nms"][name]
        row[name] = " / ".join(f"{own[title]:.1f}" for title in MEASURES)
        row |= {f"{name}, {title}": cell for title, cell in two_people_cells([own]).items()}
    return row | {METRICS[metric].title: found["maps"][metric] for metric in SHOWN}
