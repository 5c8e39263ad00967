"""Explain the detections in photographs: contact sheets, raw maps, a manifest and one browsable page."""

import argparse
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import detectron2
import torch
from detectron2.config import CfgNode
from rich.console import Console
from rich.table import Table

import odam_d2
from odam_d2.cli.arguments import add_config_file, add_layer, add_names, add_opts, add_output, make_parser
from odam_d2.cli.common import (
    FAILED,
    INTERRUPTED,
    print_interrupted,
    print_left_out,
    progress_bar,
    quiet_detectron2,
    run_command,
)
from odam_d2.cli.settings import read_config
from odam_d2.data.images import find_images, read_image
from odam_d2.explain import (
    METHODS,
    TARGETS,
    Explainer,
    ExplainSettings,
    Target,
    check_method_targets,
    check_targets,
    target_name,
)
from odam_d2.modeling.checkpoint import weights_sha256
from odam_d2.predictor import ODAMPredictor
from odam_d2.show.results import ExplainedImage, ResultsFolder
from odam_d2.show.words import meanings_of

DEFAULT_TARGETS = ("class_score", "x1", "y1", "x2", "y2", "combined")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = make_parser("explain", __doc__)
    add_config_file(parser)
    parser.add_argument("--input", required=True, nargs="+", metavar="PATH", help="images, folders, glob patterns")
    add_output(parser)
    targets = f"of {', '.join(TARGETS)}, and class_score[dog] for any class; default {','.join(DEFAULT_TARGETS)}"
    add_names(parser, "--targets", targets)
    parser.add_argument("--method", help=f"{', '.join(METHODS)}; default: ODAM.EXPLAIN.METHOD")
    add_layer(parser)
    parser.add_argument("--confidence-threshold", type=float, help="default: ODAM.EXPLAIN.CONFIDENCE_THRESHOLD")
    parser.add_argument("--max-instances", type=int, help="an image; default: ODAM.EXPLAIN.MAX_INSTANCES")
    add_opts(parser)
    return parser.parse_args(argv)


def describe_run(args: argparse.Namespace, cfg: CfgNode, targets: Sequence[str]) -> dict[str, Any]:
    """Everything needed to make the same maps again."""
    options = cfg.ODAM.EXPLAIN
    return {
        "odam_d2": odam_d2.__version__,
        "detectron2": detectron2.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": cfg.MODEL.DEVICE,
        "config": args.config_file,
        "options": args.opts,
        "meta_architecture": cfg.MODEL.META_ARCHITECTURE,
        "weights": cfg.MODEL.WEIGHTS,
        "weights_sha256": weights_sha256(cfg.MODEL.WEIGHTS),
        **ExplainSettings.from_options(cfg.ODAM.EXPLAIN).describe(),
        "targets": list(targets),
        "confidence_threshold": options.CONFIDENCE_THRESHOLD,
        "max_instances": options.MAX_INSTANCES,
    }


def explain_image(
    predictor: ODAMPredictor,
    explainer: Explainer,
    targets: Sequence[Target],
    path: Path,
) -> ExplainedImage:
    """Detect in one image and explain what was found."""
    options = predictor.cfg.ODAM.EXPLAIN
    image = read_image(path)
    start = time.perf_counter()
    # Detections come in descending score.
    instances, trace = predictor.trace(
        image,
        (explainer.layer,),
        lambda found: (found.scores >= options.CONFIDENCE_THRESHOLD).nonzero()[: options.MAX_INSTANCES, 0],
    )
    detected = time.perf_counter()
    explanation = predictor.explanation(image, instances, trace, targets, explainer)
    explained = time.perf_counter()
    return explanation.as_results(path, detected - start, explained - detected)


def print_table(console: Console, results: ResultsFolder) -> None:
    """One screen: an image a row while they fit, and the sums."""
    layer = f" at {results.run['layer']}" if "layer" in results.run else ""
    table = Table(title=f"Explained by {results.run['method']}{layer}")
    for column in ("image", "detections", "s / image", "ms / map"):
        table.add_column(column, justify="left" if column == "image" else "right")
    rows = results.images
    shown = max(3, console.height - 12)
    for row in rows[:shown]:
        per_map = f"{1000 * row['seconds_maps'] / row['number_of_maps']:.1f}" if row["number_of_maps"] else "-"
        seconds = row["seconds_detection"] + row["seconds_maps"]
        table.add_row(row["name"], str(len(row["boxes"])), f"{seconds:.3f}", per_map)
    if len(rows) > shown:
        table.add_row(f"... {len(rows) - shown} more in manifest.json", "", "", "")
    maps = sum(row["number_of_maps"] for row in rows)
    seconds_maps = sum(row["seconds_maps"] for row in rows)
    seconds = seconds_maps + sum(row["seconds_detection"] for row in rows)
    table.add_section()
    table.add_row(
        f"{len(rows)} images",
        str(sum(len(row["boxes"]) for row in rows)),
        f"{seconds / max(1, len(rows)):.3f}",
        f"{1000 * seconds_maps / maps:.1f}" if maps else "-",
    )
    console.print(table)


def choose_targets(args: argparse.Namespace, settings: ExplainSettings) -> list[str]:
    """The targets that the command line asks for, else those that the method has."""
    own = METHODS[settings.method].targets
    targets = args.targets or [target for target in DEFAULT_TARGETS if own is None or target in own]
    check_targets(targets)
    check_method_targets(settings.method, targets)
    return targets


def check_thresholds(cfg: CfgNode) -> None:
    """Refuse thresholds that let nothing through."""
    options = cfg.ODAM.EXPLAIN
    if options.MAX_INSTANCES < 1:
        raise ValueError(f"--max-instances is {options.MAX_INSTANCES}; at least 1 is needed")
    if not 0 <= options.CONFIDENCE_THRESHOLD <= 1:
        raise ValueError(f"--confidence-threshold is {options.CONFIDENCE_THRESHOLD}; it must lie between 0 and 1")


def run(argv: Sequence[str] | None) -> int:
    """Explain all images; the exit code is 0 where at least one was explained."""
    args = parse_arguments(argv)
    quiet_detectron2()
    progress = progress_bar()
    images = progress.add_task("explaining", total=None)
    masks = progress.add_task("masks of D-RISE", total=None, visible=False)

    def tell(done: int, total: int) -> None:
        progress.update(masks, completed=done, total=total, visible=True)

    # Mistakes that cost nothing to find come before the weights are read.
    cfg = read_config(args)
    check_thresholds(cfg)
    targets = choose_targets(args, ExplainSettings.from_options(cfg.ODAM.EXPLAIN))
    paths = find_images(args.input)
    predictor = ODAMPredictor(cfg)
    # The layer once more, to be refused by methods that have none.
    explainer = predictor.make_explainer(layer=args.layer, progress=tell)
    resolved = predictor.resolve_targets(targets)
    # A class that was given by its number has its name from here on.
    names = [target_name(target) for target in resolved]
    meanings = meanings_of(names, METHODS[explainer.settings.method].meanings)
    title = f"Why {args.config_file} sees what it sees"
    results = ResultsFolder(args.output, describe_run(args, cfg, names), title, meanings)
    code = 0
    try:
        with progress:
            for path in progress.track(paths, task_id=images):
                try:
                    results.add(explain_image(predictor, explainer, resolved, path))
                except (ValueError, OSError) as error:
                    print_left_out(progress.console, error)
                    results.leave_out(path, str(error))
    except KeyboardInterrupt:
        print_interrupted(f"the results of {len(results.images)} of {len(paths)} images are kept")
        code = INTERRUPTED
    results.finish()
    print_table(Console(), results)
    print(f"open {results.folder / 'index.html'}")
    return code or (0 if results.images else FAILED)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see :func:`run` and :func:`odam_d2.cli.common.run_command` for its exit code."""
    return run_command(lambda: run(argv))
