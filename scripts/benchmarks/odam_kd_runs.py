"""Trainings of one student by several distillers, from the same weights, and what their detectors find then.

Trainings are kept in output/odam_kd and go on where they were stopped: the same command, again.
"""

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from detectron2.config import CfgNode

from benchmarks import trainings
from benchmarks.measure import Options
from odam_d2.config import load_config
from odam_d2.distill import FGD_FCOS, FKD_ONE_STAGE
from odam_d2.engine import ODAMTrainer
from odam_d2.evaluation.detections.evaluators import BoxEvaluator
from odam_d2.modeling.checkpoint import load_weights
from odam_d2.teaching.options import FGD_KEYS, PKD_WEIGHTS

MEASURES = ("AP", "AR", "APs", "APm", "APl")
# Small: whether everything runs.
QUICK = ("SOLVER.MAX_ITER", 1, "SOLVER.IMS_PER_BATCH", 1, "INPUT.MIN_SIZE_TRAIN", (96,), "INPUT.MIN_SIZE_TEST", 96)

# Student -> its teacher, where that is not bundled and is trained first.
TEACHERS = {"fcos_lcnet_050_bccd": "fcos_nanodet_g_bccd"}
TEACHER_SEED = 0
# Student -> iterations alone, after which all its trainings begin: from random weights imitation only disturbs.
STARTS = {"fcos_lcnet_050_bccd": 1500, "fcos_lcnet_050_synthetic": 2000}
START_SEED = 100
# Of each training after that.
ITERATIONS = 300
ALONE = ("ODAM.KD.DISTILLER", "")
# Also iterations.
CHECKPOINT_PERIOD = 100
# Section of ODAM.KD -> the published weights of its terms for FCOS, by key. FGD's are ODAM-KD's, too.
_KD = load_config("odam_kd/Base-small.yaml").ODAM.KD
PUBLISHED = {
    "FGD": {key: getattr(FGD_FCOS, field) for key, field in FGD_KEYS.items() if key != "TEMPERATURE"},
    "FGFI": {"WEIGHT": _KD.FGFI.WEIGHT},
    "GID": {key: _KD.GID[key] for key in ("FEATURE", "RELATION", "RESPONSE_CLASS", "RESPONSE_BOX")},
    "FKD": {field.upper(): getattr(FKD_ONE_STAGE, field) for field in ("feature", "attention", "relation")},
    "CWD": {"WEIGHT": _KD.CWD.WEIGHT},
    "PKD": {"WEIGHT": PKD_WEIGHTS["fcos"]},
}


# Distiller -> the section of its weights.
SECTIONS = {"fgd": "FGD", "odam_kd": "FGD", **{name.lower(): name for name in ("FGFI", "GID", "FKD", "CWD", "PKD")}}


class RecallEvaluator(BoxEvaluator):
    """Box AP with COCO's average recall of 100 detections an image beside it, ``AR``, which Table 7 has."""

    def _derive_coco_results(self, coco_eval, iou_type: str, class_names: list[str] | None = None) -> dict[str, float]:
        results = super()._derive_coco_results(coco_eval, iou_type, class_names)
        # The mean over IoUs of all areas at most 100 detections stands at place 8 of COCO's summary.
        return results if coco_eval is None else results | {"AR": 100 * float(coco_eval.stats[8])}


def weighed(distiller: str, factor: float) -> tuple[Any, ...]:
    """Keys and values of a distiller, all of whose weights are larger or smaller than published.

    Args:
        distiller: ``ODAM.KD.DISTILLER``.
        factor: of each weight.
    """
    section = SECTIONS[distiller]
    weights = (x for key, value in PUBLISHED[section].items() for x in (f"ODAM.KD.{section}.{key}", value * factor))
    return ("ODAM.KD.DISTILLER", distiller, *weights)


def train(config: str, changes: Sequence[Any], seed: int, folder: Path, options: Options) -> Path:
    """The folder of a finished training, which is begun or goes on where it is not.

    Args:
        config: name of one in configs/odam_kd.
        changes: keys of the config with other values.
        seed: of weights, the order of images and their augmentation.
        folder: of this training.
        options: of the benchmark.

    Raises:
        RuntimeError: it could not be trained.
    """
    own = (*changes, *options.size((), QUICK))
    return trainings.train(f"odam_kd/{config}.yaml", own, seed, folder, CHECKPOINT_PERIOD, options)


def teacher_weights(student: str, base: Path, options: Options) -> str:
    """The weights of a student's teacher, which is trained first where it is not bundled; empty: its config's own.

    Args:
        student: name of a config in configs/odam_kd.
        base: folder of the table.
        options: of the benchmark.
    """
    if student not in TEACHERS:
        return ""
    return str(train(TEACHERS[student], (), TEACHER_SEED, base / "teacher", options) / "model_final.pth")


def start_weights(student: str, data: Sequence[Any], base: Path, options: Options) -> str:
    """The weights that all trainings of a student begin with, which are trained first.

    Args:
        student: name of a config in configs/odam_kd.
        data: keys that say on what it is trained, where that is not its config's.
        base: folder of the table.
        options: of the benchmark.
    """
    changes = (*data, *ALONE, "SOLVER.MAX_ITER", STARTS[student])
    return str(train(student, changes, START_SEED, base / "start", options) / "model_final.pth")


def measure(folder: Path, datasets: Sequence[str], options: Options) -> dict[str, float | None]:
    """What :func:`measure_detector` finds of one training, kept beside its weights.

    Args:
        folder: of the training.
        datasets: registered ones.
        options: of the benchmark.
    """
    # The config is read as it was written; data sets are those of the table.
    weights = ["MODEL.WEIGHTS", str(folder / "model_final.pth")]
    cfg = load_config(str(folder / "config.yaml"), ["MODEL.DEVICE", options.device, *weights])
    return measure_detector(cfg, datasets, folder / "measured.json")


def measure_detector(cfg: CfgNode, datasets: Sequence[str], kept: Path) -> dict[str, float | None]:
    """AP, AR and AP by size, means over data sets.

    Args:
        cfg: of the detector, with its weights.
        datasets: registered ones.
        kept: file that holds the result from then on.

    Returns:
        by name, in percent; None where no data set has objects of that size.
    """
    if kept.exists():
        return json.loads(kept.read_text())
    cfg.DATASETS.TEST = tuple(datasets)
    model = ODAMTrainer.build_model(cfg)
    load_weights(model, cfg.MODEL.WEIGHTS)
    # Where annotations are not COCO's, the evaluator writes them so.
    options = {"tasks": ("bbox",), "output_dir": str(kept.parent / "boxes"), "allow_cached_coco": False}
    evaluators = [RecallEvaluator(name, **options) for name in datasets]
    with contextlib.redirect_stdout(io.StringIO()):
        results = ODAMTrainer.test(cfg, model, evaluators)
    of_sets = [results["bbox"]] if len(datasets) == 1 else [one["bbox"] for one in results.values()]
    found: dict[str, float | None] = {}
    for name in MEASURES:
        # COCO's mean of nothing is no number.
        values = [one[name] for one in of_sets if one.get(name, float("nan")) == one.get(name, float("nan"))]
        values = [value for value in values if value >= 0]
        found[name] = mean(values) if values else None
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(found))
    return found
