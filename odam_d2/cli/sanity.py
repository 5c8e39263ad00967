"""Sanity checks of explanations: do maps depend on what the detector learned, and on which detection is explained?"""

import argparse
import json
from itertools import islice
from pathlib import Path
from typing import Any

from detectron2.utils.logger import setup_logger
from rich.console import Console
from rich.progress import track
from rich.table import Table

from odam_d2.config import load_config
from odam_d2.data.objects import load_objects
from odam_d2.evaluation.study.sanity import DEPENDS, SAME, SanityResult, check_image, draw_sanity
from odam_d2.explain import METHODS, TARGETS, GradientExplainer, check_targets
from odam_d2.predictor import ODAMPredictor


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config-file", required=True, metavar="YAML")
    parser.add_argument("--dataset", required=True, metavar="NAME", help="a registered one, such as coco_mini_val")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR")
    parser.add_argument("--methods", default="odam,gradcam,gradcam++", metavar="NAMES", help=f"of {', '.join(METHODS)}")
    parser.add_argument("--target", default="class_score", help=", ".join(TARGETS))
    parser.add_argument("--features", default="fpn", help="fpn, roi_pool or a stage such as res4")
    parser.add_argument("--score-threshold", type=float, default=0.3, metavar="SCORE")
    parser.add_argument("--max-images", type=int, default=10, metavar="N", help="the first images of the dataset")
    parser.add_argument("--max-detections", type=int, default=5, metavar="N", help="of an image, for randomisation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE")
    return parser.parse_args()


def check(args: argparse.Namespace, console: Console) -> dict[str, SanityResult]:
    """Run the checks."""
    methods = [word.strip() for word in args.methods.split(",") if word.strip()]
    if not methods:
        raise ValueError(f"--methods names no method; valid methods are {', '.join(METHODS)}")
    if min(args.max_images, args.max_detections) < 1:
        raise ValueError(
            f"--max-images {args.max_images} and --max-detections {args.max_detections} must be at least 1"
        )
    check_targets([args.target])
    explainers = {method: GradientExplainer(method, args.features) for method in methods}
    predictor = ODAMPredictor(load_config(args.config_file, args.opts))
    predictor.check_features((args.features,))
    images = list(islice(load_objects(args.dataset).values(), args.max_images))
    args.output.mkdir(parents=True, exist_ok=True)
    results = {method: SanityResult() for method in methods}
    options = (args.target, args.score_threshold, args.max_detections, args.seed)
    for objects in track(images, "checking", console=console, disable=not console.is_terminal):
        check_image(predictor, objects.read_image(), explainers, results, *options)
    return results


def result_table(found: dict[str, dict[str, Any]]) -> Table:
    """A method a row: similarity after each step, and the verdicts."""
    groups = list(next(iter(found.values()))["spearman"])
    few = [group for group in groups if group in (*groups[:3], groups[-1])]
    table = Table(title="Mean rank correlation with the original map, randomised from the top down to ...")
    table.add_column("method", no_wrap=True)
    for title in (*few, "depends on weights", "neighbours' cosine", "neighbours differ"):
        table.add_column(title, justify="right", overflow="fold")
    words = {True: "yes", False: "NO", None: "not measured"}
    for method, own in found.items():
        neighbours = "–" if own["neighbour_cosine"] is None else f"{own['neighbour_cosine']:.2f}"
        verdicts = (words[own["depends_on_weights"]], neighbours, words[own["neighbours_differ"]])
        table.add_row(method, *(f"{own['spearman'][group]:.2f}" for group in few), *verdicts)
    return table


def main() -> int:
    """Run; the exit code is 1 where nothing could be checked. A method that fails a check is a finding, no error."""
    args = parse_arguments()
    console = Console(stderr=True)
    for name in ("fvcore", "detectron2"):
        setup_logger(name=name).setLevel("WARNING")
    try:
        found = check(args, console)
        numbers = {method: result.to_json() for method, result in found.items()}
        settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
        content = {
            "settings": settings,
            "passes": {"spearman below": DEPENDS, "cosine below": SAME},
            "methods": numbers,
        }
        (args.output / "sanity.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        draw_sanity(args.output / "sanity.png", found)
    except (ValueError, OSError) as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 1
    if not next(iter(numbers.values()))["detections"]:
        print(f"there is no detection with a score > {args.score_threshold} to explain")
        return 1
    Console().print(result_table(numbers), highlight=False)
    print(f"see {args.output / 'sanity.png'} and {args.output / 'sanity.json'}")
    return 0
