"""Tables 9, 11 and 12 on synthetic crowds: detectors trained on with ODAM-Train and without, three times each.

From the same weights, with the same order of images and the same augmentation for each seed, for as many iterations.
Trainings are kept in output/odam_train/tables and go on where they were stopped: the same command, again.
"""

import json
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev

from benchmarks.crowds import DATASETS, MEASURES, check_data, find_candidates, read_set, to_detections
from benchmarks.kept_sets import DETECTORS
from benchmarks.measure import Options, Table, own_environment
from odam_d2 import ODAMPredictor, read_image
from odam_d2.evaluation.detections.crowdhuman import evaluate_crowd
from odam_d2.evaluation.detections.spared import count_spared
from odam_d2.evaluation.study.run import ExplanationEvaluator
from odam_d2.evaluation.study.settings import CHEAP, METRICS, ExplanationSettings
from odam_d2.nms import greedy_nms, odam_nms, soft_nms

FOLDER = Path("output/odam_train/tables")
SEEDS = (0, 1, 2)
VARIANTS = {
    "without": ("ODAM.TRAIN.ENABLED", False),
    "first order": ("ODAM.TRAIN.ENABLED", True, "ODAM.TRAIN.SECOND_ORDER", False),
    "second order": ("ODAM.TRAIN.ENABLED", True, "ODAM.TRAIN.SECOND_ORDER", True),
}
# What each variant's maps are measured on, and where they run the detector again and again.
MASKS, PERTURBED_OBJECTS, STEPS = "synthetic_crowd_val0_coco", 60, 20
# Small: whether everything runs.
QUICK = ("SOLVER.MAX_ITER", 1, "SOLVER.IMS_PER_BATCH", 1, "INPUT.MIN_SIZE_TRAIN", (96,), "INPUT.MIN_SIZE_TEST", 128)


def run(options: Options) -> Iterator[Table]:
    check_data()
    if options.quick:
        shutil.rmtree(FOLDER / "quick", ignore_errors=True)
    for name, file, node in DETECTORS:
        measured = defaultdict(list)
        for variant in VARIANTS:
            for seed in options.size(SEEDS, SEEDS[:1]):
                folder = train(file, variant, seed, options)
                measured[variant].append(measure(folder, node, options))
        seeds = f"mean and standard deviation over {len(SEEDS)} trainings; the first three sets of synthetic crowds"
        yield Table(f"{name}: NMS with and without ODAM-Train (Table 12)", list(nms_rows(measured)), seeds)
        yield Table(f"{name}: maps with and without ODAM-Train (Tables 9 and 11)", list(map_rows(measured)), seeds)


def train(file: str, variant: str, seed: int, options: Options) -> Path:
    """The folder of a finished training, which is begun or goes on where it is not."""
    folder = FOLDER / ("quick" if options.quick else "full") / file / variant.replace(" ", "_") / str(seed)
    if (folder / "model_final.pth").exists():
        return folder
    opts = [*VARIANTS[variant], *options.size((), QUICK), "SEED", seed, "OUTPUT_DIR", folder]
    opts += ["MODEL.DEVICE", options.device, "SOLVER.CHECKPOINT_PERIOD", 50, "DATASETS.TEST", ()]
    words = ["train", "--resume", "--config-file", f"odam_train/{file}_lite0_synthetic.yaml", *opts]
    print(f"training {file}, {variant}, seed {seed}: {folder}", flush=True)
    command = [sys.executable, "-W", "ignore", "-m", "odam_d2.cli", *map(str, words)]
    done = subprocess.run(command, env=own_environment(options.device), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"training {folder} ended with {done.returncode}: {done.stderr[-2000:]}")
    return folder


def measure(folder: Path, node: str, options: Options) -> dict:
    """All numbers of one training, kept beside its weights."""
    kept = folder / "measured.json"
    if kept.exists():
        return json.loads(kept.read_text())
    opts = ["MODEL.WEIGHTS", folder / "model_final.pth", "ODAM.NMS.NAME", "odam"]
    cfg = options.load_config(str(folder / "config.yaml"), [str(x) if isinstance(x, Path) else x for x in opts])
    predictor = ODAMPredictor(cfg)
    found = {"nms": measure_nms(predictor, cfg.MODEL[node].NMS_THRESH_TEST, options), "maps": {}}
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
        evaluator = ExplanationEvaluator(predictor, MASKS, folder / what, settings)
        evaluator.process([{"image_id": image_id} for image_id in evaluator.image_ids])
        evaluator.evaluate()
        found["maps"] |= {name: evaluator.summary["odam"][name] for name in metrics}
    kept.write_text(json.dumps(found))
    return found


def measure_nms(predictor: ODAMPredictor, iou: float, options: Options) -> dict[str, dict[str, float]]:
    """Means over the validation sets, and spared pairs of all of them, by NMS."""
    limit = predictor.cfg.TEST.DETECTIONS_PER_IMAGE
    results, pairs = defaultdict(list), defaultdict(lambda: [0, 0])
    for dataset in DATASETS:
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
                spared = count_spared(detections.boxes, detections.scores, people, iou)
                pairs[name] = [a + b for a, b in zip(pairs[name], spared)]
        for name, detections in found.items():
            results[name].append(evaluate_crowd(truth, detections))
    return {
        name: {title: mean(getattr(one, attribute) for one in own) for title, attribute in MEASURES.items()}
        | {"spared pairs": pairs[name][0], "two people": pairs[name][1]}
        for name, own in results.items()
    }


def nms_rows(measured: dict[str, list[dict]]) -> Iterator[dict]:
    for name in next(iter(measured.values()))[0]["nms"]:
        for variant, trainings in measured.items():
            own = [training["nms"][name] for training in trainings]
            pairs, two = (sum(one[key] for one in own) for key in ("spared pairs", "two people"))
            yield {
                "NMS": name,
                "ODAM-Train": variant,
                **{title: spread([one[title] for one in own]) for title in MEASURES},
                "spared pairs": pairs,
                "two people, %": 100 * two / pairs if pairs else float("nan"),
            }


def map_rows(measured: dict[str, list[dict]]) -> Iterator[dict]:
    for variant, trainings in measured.items():
        names = trainings[0]["maps"]
        own = {name: [training["maps"][name] for training in trainings] for name in names}
        yield {
            "ODAM-Train": variant,
            **{METRICS[name].title: spread(values, METRICS[name].digits) for name, values in own.items()},
        }


def spread(values: list[float | None], digits: int = 1) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    width = f" ± {stdev(known):.{digits}f}" if len(known) > 1 else ""
    return f"{mean(known):.{digits}f}{width}"
