"""Tables 9, 11 and 12 on synthetic crowds: detectors trained on with ODAM-Train and without, three times each.

From the same weights, with the same order of images and the same augmentation for each seed, for as many iterations.
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from benchmarks.crowds import DATASETS, MEASURES, check_data
from benchmarks.kept_sets import DETECTORS
from benchmarks.measure import Options, Table
from benchmarks.odam_train_runs import measure, train, two_people_cells
from benchmarks.trainings import base_folder, spread
from odam_d2.evaluation.study.settings import METRICS

FOLDER = Path("output/odam_train/tables")
SEEDS = (0, 1, 2)
VARIANTS = {
    "without": ("ODAM.TRAIN.ENABLED", False),
    "first order": ("ODAM.TRAIN.ENABLED", True, "ODAM.TRAIN.SECOND_ORDER", False),
    "second order": ("ODAM.TRAIN.ENABLED", True, "ODAM.TRAIN.SECOND_ORDER", True),
}


def run(options: Options) -> Iterator[Table]:
    check_data()
    base = base_folder(FOLDER, options)
    for name, file, node in DETECTORS:
        measured = defaultdict(list)
        for variant in VARIANTS:
            for seed in options.size(SEEDS, SEEDS[:1]):
                folder = base / file / variant.replace(" ", "_") / str(seed)
                train(file, VARIANTS[variant], seed, folder, options)
                measured[variant].append(measure(folder, node, DATASETS, options))
        seeds = f"mean and standard deviation over {len(SEEDS)} trainings; the first three sets of synthetic crowds"
        yield Table(f"{name}: NMS with and without ODAM-Train (Table 12)", list(nms_rows(measured)), seeds)
        yield Table(f"{name}: maps with and without ODAM-Train (Tables 9 and 11)", list(map_rows(measured)), seeds)


def nms_rows(measured: dict[str, list[dict]]) -> Iterator[dict]:
    for name in next(iter(measured.values()))[0]["nms"]:
        for variant, trainings in measured.items():
            own = [training["nms"][name] for training in trainings]
            yield {
                "NMS": name,
                "ODAM-Train": variant,
                **{title: spread([one[title] for one in own]) for title in MEASURES},
                **two_people_cells(own),
            }


def map_rows(measured: dict[str, list[dict]]) -> Iterator[dict]:
    for variant, trainings in measured.items():
        names = trainings[0]["maps"]
        own = {name: [training["maps"][name] for training in trainings] for name in names}
        yield {
            "ODAM-Train": variant,
            **{METRICS[name].title: spread(values, METRICS[name].digits) for name, values in own.items()},
        }
