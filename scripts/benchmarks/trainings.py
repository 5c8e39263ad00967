"""Trainings that tables are made of: begun once, gone on with where they were stopped, and told as mean and spread."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.measure import Options, run_process


def base_folder(folder: Path, options: Options) -> Path:
    """Where the trainings of a table are kept; in small sizes an empty place of its own.

    Args:
        folder: of the table.
        options: of the benchmark.
    """
    if options.quick:
        shutil.rmtree(folder / "quick", ignore_errors=True)
    return folder / options.size("full", "quick")


def train(config: str, changes: Sequence[Any], seed: int, folder: Path, period: int, options: Options) -> Path:
    """The folder of a finished training, which is begun or goes on where it is not.

    Args:
        config: name of one of odam_d2's.
        changes: keys of the config with other values.
        seed: of weights, the order of images and their augmentation.
        folder: of this training.
        period: iterations between checkpoints.
        options: of the benchmark.

    Raises:
        RuntimeError: it could not be trained.
    """
    if (folder / "model_final.pth").exists():
        return folder
    opts = [*changes, "SEED", seed, "OUTPUT_DIR", folder, "MODEL.DEVICE", options.device]
    opts += ["SOLVER.CHECKPOINT_PERIOD", period, "DATASETS.TEST", ()]
    words = ["train", "--resume", "--config-file", config, *opts]
    print(f"training {folder}", flush=True)
    run_process("-W", "ignore", "-m", "odam_d2.cli", *words, device=options.device, name=f"training {folder}")
    return folder


def spread(values: Sequence[float | None], digits: int = 1) -> str:
    """Mean and standard deviation, as in ``73.6 ± 1.2``.

    Args:
        values: None where there is no number; they are left out.
        digits: after the point.
    """
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    width = f" ± {stdev(known):.{digits}f}" if len(known) > 1 else ""
    return f"{mean(known):.{digits}f}{width}"
