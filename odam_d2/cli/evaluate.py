"""Measure how good the explanations of a detector are: Tables 1-3 and Figure 10 of the paper, over a dataset."""

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from typing import Any

from detectron2.data.samplers import InferenceSampler
from detectron2.utils import comm
from rich.progress import Progress
from rich.table import Table

from odam_d2.cli.arguments import (
    add_config_file,
    add_dataset,
    add_names,
    add_opts,
    add_output,
    make_parser,
)
from odam_d2.cli.common import (
    FAILED,
    make_table,
    prepare_for_network,
    print_table,
    progress_bar,
    run_command,
    task_within,
)
from odam_d2.cli.explained_objects import add_object_options, object_settings
from odam_d2.cli.processes import run_processes
from odam_d2.cli.settings import read_config
from odam_d2.data.own import dataset_name
from odam_d2.evaluation.study.run import ExplanationEvaluator
from odam_d2.evaluation.study.settings import (
    COUNTS,
    METRICS,
    PROTOCOLS,
    ExplanationSettings,
    choose_metrics,
)
from odam_d2.explain import METHODS, ExplainSettings
from odam_d2.predictor import ODAMPredictor

# What to say after Ctrl-C.
GOES_ON = "the same command goes on from here"


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    default = ExplanationSettings()
    parser = make_parser("evaluate", __doc__)
    add_config_file(parser)
    add_dataset(parser)
    add_output(parser, help="a run that was stopped goes on here")
    methods = f"of {', '.join(METHODS)}; default {','.join(default.methods)}, with --maps none"
    add_names(parser, "--methods", methods)
    parser.add_argument(
        "--maps",
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="measure <image id>_<annotation id>.npy of these folders, each a method named like the folder",
    )
    add_names(parser, "--metrics", f"of {', '.join(METRICS)}; cheap (the default); all", default=("cheap",))
    add_object_options(parser, default, "well-detected")
    parser.add_argument("--perturbation-steps", type=int, default=default.steps, metavar="N")
    parser.add_argument("--protocol", default=default.protocol, help=f"of Deletion, Insertion: {', '.join(PROTOCOLS)}")
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="images in one forward pass")
    parser.add_argument("--save-maps", action="store_true", help="keep all maps, in the form that --maps reads")
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N", help="processes that share the images")
    add_opts(parser)
    return parser.parse_args(argv)


def to_settings(args: argparse.Namespace, explain: ExplainSettings) -> ExplanationSettings:
    """The settings that the command line asks for."""
    methods = args.methods
    if methods is None:
        methods = () if args.maps else ExplanationSettings().methods
    return object_settings(
        args,
        explain,
        methods=tuple(methods),
        metrics=choose_metrics(args.metrics),
        protocol=args.protocol,
        steps=args.perturbation_steps,
    )


def measure(args: argparse.Namespace, command: str, progress: Progress) -> tuple[ExplanationSettings, dict[str, Any]]:
    """One process of the run: the settings, and on the main process the summary."""
    cfg = read_config(args)
    settings = to_settings(args, ExplainSettings.from_options(cfg.ODAM.EXPLAIN))
    predictor = ODAMPredictor(cfg)
    images, tell = progress.add_task("images", total=None), task_within(progress)
    facts = {"command": command, "config": args.config_file}
    evaluator = ExplanationEvaluator(
        predictor, dataset_name(args.dataset), args.output, settings, args.batch, args.save_maps, facts, tell
    )
    names = evaluator.image_ids
    for place in progress.track(InferenceSampler(len(names)), task_id=images) if names else ():
        evaluator.process([{"image_id": names[place]}])
    evaluator.evaluate()
    return settings, evaluator.summary


def summary_table(settings: ExplanationSettings, summary: dict[str, Any]) -> Table:
    """The means, a method a row."""
    counts = summary[COUNTS]
    shown = [(name, METRICS[name]) for name in settings.metrics]
    # "PG (box) ↑" in two lines: "PG" over "box ↑".
    headings = [metric.title.replace(" (", " ").replace(")", "").replace(" ", "\n", 1) for _, metric in shown]
    rows = []
    for method in settings.names:
        means = [(summary[method][name], metric.digits) for name, metric in shown]
        rows.append([method, *("–" if mean is None else f"{mean:.{digits}f}" for mean, digits in means)])
    title = f"{counts['objects']} objects in {counts['with_explained']} of {counts['images']} images"
    return make_table(title, ["method", *headings], rows)


def report(args: argparse.Namespace, settings: ExplanationSettings, summary: dict[str, Any], seconds: float) -> int:
    """Say what came out; return the exit code."""
    counts = summary[COUNTS]
    if not counts["objects"]:
        print(
            f"no object was detected well enough to be explained: in {counts['images']} images with "
            f"{counts['annotated']} objects none has a detection of its class with a score > {args.score_threshold} "
            f"and an IoU > {args.iou_threshold}"
        )
        return FAILED
    print_table(summary_table(settings, summary))
    for method in settings.names:
        if missing := counts[method]["missing"]:
            print(f"{method}: {missing} of {counts['objects']} maps are missing")
    print(f"{seconds:.0f} s; the report, with intervals, curves and examples: {args.output / 'index.html'}")
    return 0


def run_process(args: argparse.Namespace, command: str) -> int:
    """One process of the run; the exit code is 1 where nothing could be measured."""
    main_process = comm.is_main_process()

    def work() -> int:
        prepare_for_network()
        start = time.monotonic()
        with progress_bar(shown=main_process) as progress:
            settings, summary = measure(args, command, progress)
        return report(args, settings, summary, time.monotonic() - start) if main_process else 0

    return run_command(work, GOES_ON, shown=main_process)


def run(argv: Sequence[str] | None) -> int:
    """Run in as many processes as asked for."""
    args = parse_arguments(argv)
    command = shlex.join(["odam", "evaluate", *(sys.argv[1:] if argv is None else argv)])
    return run_processes(run_process, (args, command), args.num_gpus, dist_url="auto")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 1 where nothing could be measured."""
    return run_command(lambda: run(argv), GOES_ON)
