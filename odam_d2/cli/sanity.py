"""Sanity checks of explanations: do maps depend on what the detector learned, and on which detection is explained?"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from rich.table import Table

from odam_d2.cli.arguments import (
    add_config_file,
    add_dataset,
    add_layer,
    add_names,
    add_opts,
    add_output,
    make_parser,
)
from odam_d2.cli.common import FAILED, make_table, prepare_for_network, print_table, progress_bar, run_command
from odam_d2.cli.settings import read_config
from odam_d2.data.objects import load_objects
from odam_d2.data.own import dataset_name
from odam_d2.evaluation.study.sanity import DEPENDS, SAME, SanityResult, check_image, draw_sanity
from odam_d2.explain import TARGETS, TRACE_METHODS, ExplainSettings, check_methods, check_targets, make_explainer
from odam_d2.files import write_atomically
from odam_d2.predictor import ODAMPredictor

DEFAULT_METHODS = ("odam", "gradcam", "gradcam++")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = make_parser("sanity", __doc__)
    add_config_file(parser)
    add_dataset(parser)
    add_output(parser)
    methods = f"of {', '.join(TRACE_METHODS)}; default {','.join(DEFAULT_METHODS)}"
    add_names(parser, "--methods", methods, default=DEFAULT_METHODS)
    parser.add_argument("--target", default="class_score", help=", ".join(TARGETS))
    add_layer(parser)
    parser.add_argument("--score-threshold", type=float, default=0.3, metavar="SCORE")
    parser.add_argument("--max-images", type=int, default=10, metavar="N", help="the first images of the dataset")
    parser.add_argument("--max-detections", type=int, default=5, metavar="N", help="of an image, for randomisation")
    parser.add_argument("--seed", type=int, default=0)
    add_opts(parser)
    return parser.parse_args(argv)


def check(args: argparse.Namespace) -> tuple[dict[str, SanityResult], dict[str, Any]]:
    """Run the checks; by method what they found, and how its maps were made."""
    if min(args.max_images, args.max_detections) < 1:
        raise ValueError(
            f"--max-images {args.max_images} and --max-detections {args.max_detections} must be at least 1"
        )
    check_targets([args.target])
    check_methods(args.methods, TRACE_METHODS)
    cfg = read_config(args)
    settings = ExplainSettings.from_options(cfg.ODAM.EXPLAIN)
    explainers = {method: make_explainer(replace(settings, method=method)) for method in args.methods}
    predictor = ODAMPredictor(cfg)
    (target,) = predictor.resolve_targets(args.target)
    predictor.check_layers((settings.layer,))
    images = list(islice(load_objects(dataset_name(args.dataset)).values(), args.max_images))
    args.output.mkdir(parents=True, exist_ok=True)
    results = {method: SanityResult() for method in args.methods}
    options = (target, args.score_threshold, args.max_detections, args.seed)
    with progress_bar() as progress:
        for objects in progress.track(images, description="checking"):
            check_image(predictor, objects.read_image(), explainers, results, *options)
    return results, {method: explainer.settings.describe() for method, explainer in explainers.items()}


def result_table(found: dict[str, dict[str, Any]]) -> Table:
    """A method a row: similarity after each step, and the verdicts."""
    groups = list(next(iter(found.values()))["spearman"])
    few = [group for group in groups if group in (*groups[:3], groups[-1])]
    words = {True: "yes", False: "NO", None: "not measured"}
    rows = []
    for method, own in found.items():
        neighbours = "–" if own["neighbour_cosine"] is None else f"{own['neighbour_cosine']:.2f}"
        verdicts = (words[own["depends_on_weights"]], neighbours, words[own["neighbours_differ"]])
        rows.append([method, *(f"{own['spearman'][group]:.2f}" for group in few), *verdicts])
    title = "Mean rank correlation with the original map, randomised from the top down to ..."
    return make_table(title, ["method", *few, "depends on\nweights", "neighbours'\ncosine", "neighbours\ndiffer"], rows)


def run(argv: Sequence[str] | None) -> int:
    """Check, write and print. A method that fails a check is a finding, no error."""
    args = parse_arguments(argv)
    prepare_for_network()
    found, explained_by = check(args)
    numbers = {method: result.to_json() for method, result in found.items()}
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
    content = {
        "settings": settings,
        "explained by": explained_by,
        "passes": {"spearman below": DEPENDS, "cosine below": SAME},
        "methods": numbers,
    }
    write_atomically(args.output / "sanity.json", json.dumps(content, indent=1) + "\n")
    draw_sanity(args.output / "sanity.png", found)
    if not next(iter(numbers.values()))["detections"]:
        print(f"there is no detection with a score > {args.score_threshold} to explain")
        return FAILED
    print_table(result_table(numbers))
    print(f"see {args.output / 'sanity.png'} and {args.output / 'sanity.json'}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 1 where nothing could be checked."""
    return run_command(lambda: run(argv))
