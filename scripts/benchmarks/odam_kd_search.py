"""How much each distiller's losses weigh: chosen on blood cells that no other figure is made on, by seeds of their own.

Published weights are of detectors of another size, trained by another optimiser. Three short trainings for each
distiller and factor of all its weights, from where the student is after training alone, with the same order of images
for each seed. A quarter of BCCD's training images is kept aside for the comparison. The teacher has seen them; the
students have not.
"""

from collections.abc import Iterator
from pathlib import Path

from detectron2.data import MetadataCatalog

from benchmarks.measure import Options, Table
from benchmarks.odam_kd_runs import (
    ALONE,
    ITERATIONS,
    MEASURES,
    SECTIONS,
    measure,
    start_weights,
    teacher_weights,
    train,
    weighed,
)
from benchmarks.trainings import base_folder, spread
from odam_d2.data.objects import load_objects

FOLDER = Path("output/odam_kd/search")
STUDENT = "fcos_lcnet_050_bccd"
# Of the training images, every so many are kept aside.
ASIDE = 4
# None of the tables'.
SEEDS = (10, 11, 12)
FACTORS = (1.0, 0.01)


def run(options: Options) -> Iterator[Table]:
    load_objects("bccd_train")
    base = base_folder(FOLDER, options)
    described = split_training_images(Path(MetadataCatalog.get("bccd_train").dirname), base / "bccd")
    data = ("ODAM.DATASETS", described, "DATASETS.TRAIN", ("kd_fit",))
    start = start_weights(STUDENT, data, base, options)
    shared = (*data, "MODEL.WEIGHTS", start, "SOLVER.MAX_ITER", ITERATIONS)
    teacher = ("ODAM.KD.TEACHER.WEIGHTS", teacher_weights(STUDENT, base, options))
    settings = {"student alone": ALONE} | {
        f"{name}, weights x {factor:g}": (*weighed(name, factor), *teacher) for name in SECTIONS for factor in FACTORS
    }
    rows = []
    seeds = options.size(SEEDS, SEEDS[:1])
    for setting, changes in list(settings.items())[: options.size(None, 2)]:
        found = []
        for seed in seeds:
            folder = base / setting.replace(", weights x", "").replace(" ", "_") / str(seed)
            train(STUDENT, (*shared, *changes), seed, folder, options)
            found.append(measure(folder, ("kd_tune",), options))
        rows.append({"training": setting} | {name: spread([one[name] for one in found]) for name in MEASURES})
    yield Table(
        "Weights of distillers",
        rows,
        f"mean and standard deviation over {len(seeds)} trainings of {ITERATIONS} iterations; images kept aside",
    )


def split_training_images(source: Path, folder: Path) -> list[str]:
    """Two splits of a VOC folder's training images, in a folder of their own beside links to the files.

    Args:
        source: the VOC folder.
        folder: of the splits.

    Returns:
        ``ODAM.DATASETS``: ``kd_fit`` and ``kd_tune``.
    """
    main = folder / "ImageSets" / "Main"
    main.mkdir(parents=True, exist_ok=True)
    for name in ("Annotations", "JPEGImages"):
        link = folder / name
        if not link.exists():
            link.symlink_to((source / name).resolve(), target_is_directory=True)
    images = (source / "ImageSets" / "Main" / "train.txt").read_text().split()
    splits = {"fit": [one for i, one in enumerate(images) if i % ASIDE], "tune": images[::ASIDE]}
    for name, own in splits.items():
        (main / f"{name}.txt").write_text("".join(f"{one}\n" for one in own))
    return [f"kd_{name}=voc:{folder.resolve()}:{name}" for name in splits]
