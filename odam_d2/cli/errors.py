"""Sort a detector's errors and show what misled it: wrong sides, wrong classes, duplicates, background, missed objects.

Every detection and every missed object is sorted by TIDE's definitions. Each error is explained: a wrong side by its
map beside that of a box that has the side right (Figure 5), a wrong class by what spoke for it and for the true one
(Figure 6), a duplicate by both maps and their correlation, a missed object by the maps of the place that came closest.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from rich.progress import Progress
from rich.table import Table

from odam_d2.cli.arguments import (
    add_config_file,
    add_dataset,
    add_layer,
    add_opts,
    add_output,
    make_parser,
)
from odam_d2.cli.common import FAILED, make_table, prepare_for_network, print_table, progress_bar, run_command
from odam_d2.cli.settings import read_config
from odam_d2.data.own import dataset_name
from odam_d2.evaluation.detections.error_modes import CORRECT, KINDS
from odam_d2.evaluation.study.errors.run import ErrorStudy
from odam_d2.evaluation.study.errors.settings import ErrorSettings
from odam_d2.evaluation.study.errors.summary import say_energy
from odam_d2.explain import GRADIENT_METHODS, check_methods
from odam_d2.predictor import ODAMPredictor


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    default = ErrorSettings()
    parser = make_parser("errors", __doc__)
    add_config_file(parser)
    add_dataset(parser)
    add_output(parser)
    parser.add_argument("--method", help=f"{', '.join(GRADIENT_METHODS)}; default: ODAM.EXPLAIN.METHOD")
    add_layer(parser)
    score = "detections with a higher score count"
    parser.add_argument("--score-threshold", type=float, default=default.score_threshold, metavar="SCORE", help=score)
    fits = f"from this IoU on a box fits (default {default.foreground})"
    parser.add_argument("--foreground", type=float, default=default.foreground, metavar="IOU", help=fits)
    nothing = f"below this IoU it means nothing (default {default.background})"
    parser.add_argument("--background", type=float, default=default.background, metavar="IOU", help=nothing)
    wrong = f"a side is wrong that is off by more than this part of the object (default {default.side_tolerance})"
    parser.add_argument("--side-tolerance", type=float, default=default.side_tolerance, metavar="PART", help=wrong)
    pictures = f"errors of each kind and class on the page, the worst (default {default.pictures})"
    parser.add_argument("--pictures", type=int, default=default.pictures, metavar="N", help=pictures)
    parser.add_argument("--max-images", type=int, metavar="N", help="the first images of the dataset alone")
    add_opts(parser)
    return parser.parse_args(argv)


def find(args: argparse.Namespace, command: str, progress: Progress) -> dict[str, Any]:
    """Find, explain and write everything; the summary."""
    settings = ErrorSettings(
        args.score_threshold, args.foreground, args.background, args.side_tolerance, args.pictures, args.max_images
    )
    cfg = read_config(args)
    # A method without targets for sides cannot say why a side is wrong.
    check_methods([cfg.ODAM.EXPLAIN.METHOD], GRADIENT_METHODS)
    predictor = ODAMPredictor(cfg)
    explainer = predictor.make_explainer()
    study = ErrorStudy(predictor, dataset_name(args.dataset), explainer, settings)
    args.output.mkdir(parents=True, exist_ok=True)
    for _ in progress.track(study.run(), total=len(study), description="images"):
        pass
    facts = {"command": command, "config": args.config_file, "dataset": args.dataset, **explainer.settings.describe()}
    return study.write(args.output, facts)


def kinds_table(summary: dict[str, Any]) -> Table:
    """How many errors of each kind."""
    rows = []
    for kind in KINDS:
        classes = ", ".join(f"{label} {count}" for label, count in list(summary["classes"][kind].items())[:4])
        rows.append([kind, str(summary["kinds"][kind]), classes])
    counts = summary["counts"]
    title = (
        f"Errors on {counts['objects']} objects in {counts['images']} images; {summary['kinds'][CORRECT]} are correct"
    )
    table = make_table(title, ["kind", "errors", " most often"], rows)
    table.columns[2].justify = "left"
    return table


def run(argv: Sequence[str] | None) -> int:
    """Find, write and print. Errors of the detector are findings, and so is their absence."""
    args = parse_arguments(argv)
    command = shlex.join(["odam", "errors", *(sys.argv[1:] if argv is None else argv)])
    prepare_for_network()
    with progress_bar() as progress:
        summary = find(args, command, progress)
    if not summary["counts"]["images"]:
        print(f"the dataset {args.dataset} has no images")
        return FAILED
    print_table(kinds_table(summary))
    for sentence in say_energy(summary["energy"]):
        print(sentence)
    if not sum(summary["kinds"][kind] for kind in KINDS):
        print("the detector made no error here")
    if summary["counts"]["objects"] and not summary["counts"]["with_mask"]:
        print("the dataset has no masks: boxes tell where the energy of a map lies")
    print(f"open {args.output / 'index.html'}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 1 where nothing could be looked at."""
    return run_command(lambda: run(argv))
