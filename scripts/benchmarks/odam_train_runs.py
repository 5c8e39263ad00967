"""Trainings with ODAM-Train and without, from the same weights, and what their detectors do then.

Trainings are kept in output/odam_train and go on where they were stopped: the same command, again.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from benchmarks import trainings
from benchmarks.crowds import MEASURES, find_candidates, read_set, to_detections
from benchmarks.maps import measure_maps
from benchmarks.measure import Options
from odam_d2 import ODAMPredictor, read_image
from odam_d2.evaluation.detections.crowdhuman import evaluate_crowd
from odam_d2.evaluation.detections.spared import count_spared
from odam_d2.evaluation.study.settings import CHEAP, ExplanationSettings
from odam_d2.nms import greedy_nms, odam_nms, soft_nms

# How many objects maps are measured on where the detector runs again and again, and in how many steps.
PERTURBED_OBJECTS, STEPS = 60, 20
# Small: whether everything runs.
QUICK = ("SOLVER.MAX_ITER", 1, "SOLVER.IMS_PER_BATCH", 1, "INPUT.MIN_SIZE_TRAIN", (96,), "INPUT.MIN_SIZE_TEST", 128)

# Iterations.
CHECKPOINT_PERIOD = 50
# Pairs of detections that an NMS spared are counted among those that score at least as much.
SPARED_SCORES = (0.3, 0.5)


def train(file: str, changes: Sequence, seed: int, folder: Path, options: Options) -> Path:
    """The folder of a finished training, which is begun or goes on where it is not.

    Args:
        file: beginning of the config's name in configs/odam_train.
        changes: keys of the config with other values.
        seed: of the order of images and their augmentation.
        folder: of this training.
        options: of the benchmark.
    """
    own = (*changes, *options.size((), QUICK))
    return trainings.train(f"odam_train/{file}_nanodet_g_synthetic.yaml", own, seed, folder, CHECKPOINT_PERIOD, options)


def measure(folder: Path, node: str, datasets: Sequence[str], options: Options) -> dict:
    """All numbers of one training, kept beside its weights.

    Args:
        folder: of the training.
        node: of the config that has its IoU threshold.
        datasets: synthetic crowds; maps are measured on the first.
        options: of the benchmark.
    """
    kept = folder / "measured.json"
    if kept.exists():
        return json.loads(kept.read_text())
    opts = ["MODEL.WEIGHTS", folder / "model_final.pth", "ODAM.NMS.NAME", "odam"]
    cfg = options.load_config(str(folder / "config.yaml"), [str(x) if isinstance(x, Path) else x for x in opts])
    predictor = ODAMPredictor(cfg)
    found = {"nms": measure_nms(predictor, cfg.MODEL[node].NMS_THRESH_TEST, datasets, options), "maps": {}}
    everything = {"cheap": CHEAP, "perturbed": ("deletion_auc", "insertion_auc")}
    for what, metrics in everything.items():
        few = options.size(PERTURBED_OBJECTS, 1) if what == "perturbed" else None
        settings = ExplanationSettings(
            methods=("odam",),
            metrics=metrics,
            iou_threshold=0.5,
            steps=options.size(STEPS, 2),
            max_objects=few,
            max_images=options.size(None, 1),
        )
        summary = measure_maps(predictor, f"{datasets[0]}_coco", folder / what, settings)
        found["maps"] |= {name: summary["odam"][name] for name in metrics}
    kept.write_text(json.dumps(found))
    return found


def measure_nms(
    predictor: ODAMPredictor, iou: float, datasets: Sequence[str], options: Options
) -> dict[str, dict[str, float]]:
    """Means over the sets, and spared pairs of all of them, by NMS."""
    limit = predictor.cfg.TEST.DETECTIONS_PER_IMAGE
    results, pairs = defaultdict(list), defaultdict(Counter)
    for dataset in datasets:
        records, truth = read_set(dataset, options.size(None, 1))
        found = defaultdict(list)
        for record, image in zip(records, truth):
            candidates = find_candidates(predictor, read_image(record["file_name"]))
            maps = predictor.model.nms.maps(candidates)
            parts = candidates.boxes, candidates.scores, candidates.classes
            kept = {"NMS": greedy_nms(*parts, iou), "Soft-NMS": soft_nms(*parts)}
            for name, thresholds in {"ODAM-NMS .9/.1": (0.9, 0.1), "ODAM-NMS .8/.2": (0.8, 0.2)}.items():
                kept[name] = odam_nms(*parts, maps, iou, *thresholds)
            for name, keep in kept.items():
                keep, scores = keep if isinstance(keep, tuple) else (keep, candidates.scores[keep])
                detections = to_detections(record, candidates, keep[:limit], scores[:limit])
                found[name].append(detections)
                people = image.boxes[~image.ignored]
                for score in SPARED_SCORES:
                    spared = count_spared(detections.boxes, detections.scores, people, iou, score)
                    pairs[name].update(dict(zip(pair_keys(score), spared)))
        for name, detections in found.items():
            results[name].append(evaluate_crowd(truth, detections))
    return {
        name: {title: mean(getattr(one, attribute) for one in own) for title, attribute in MEASURES.items()}
        | pairs[name]
        for name, own in results.items()
    }


def pair_keys(score: float) -> tuple[str, str]:
    """What the numbers of spared pairs, and of those that are two people, are called above a score."""
    return f"spared pairs above {score:g}", f"two people above {score:g}"


def two_people_cells(measured: Sequence[dict[str, float]]) -> dict[str, str]:
    """Of the pairs that an NMS spared, how many are two people, by score; over several trainings together.

    Args:
        measured: of each training, what :func:`measure_nms` found for the NMS.
    """
    cells = {}
    for score in SPARED_SCORES:
        pairs, two = (sum(one[key] for one in measured) for key in pair_keys(score))
        cells[f"two people above {score:g}"] = f"{100 * two / pairs:.0f} % of {pairs}" if pairs else "no pair"
    return cells
