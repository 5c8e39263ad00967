"""Explain the detections in photographs: raw maps, a line of results for each image, and a page to browse them."""

import argparse
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import detectron2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.samplers import InferenceSampler
from detectron2.utils import comm
from rich.progress import Progress

import odam_d2
from odam_d2.cli.arguments import add_config_file, add_images, add_layer, add_names, add_opts, add_output, make_parser
from odam_d2.cli.attention_points import check_attends, check_count, place_maps
from odam_d2.cli.common import (
    INTERRUPTED,
    prepare_for_network,
    print_left_out,
    progress_bar,
    run_command,
    task_within,
)
from odam_d2.cli.explain_report import report
from odam_d2.cli.overlap import AHEAD, overlap, worth_overlapping
from odam_d2.cli.processes import run_processes
from odam_d2.cli.settings import read_config, surest
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
from odam_d2.explanation import Explanation
from odam_d2.files import name_images
from odam_d2.modeling.checkpoint import weights_sha256
from odam_d2.predictor import ODAMPredictor
from odam_d2.show.page import PlaceMaps
from odam_d2.show.records import begin_run
from odam_d2.show.results import ExplainedImage, ResultsFolder
from odam_d2.show.words import meanings_of

DEFAULT_TARGETS = ("class_score", "x1", "y1", "x2", "y2", "combined")
# Of what describes a run, what may be different where it goes on.
INCIDENTAL = ("python", "torch", "detectron2", "device", "config", "options", "weights")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = make_parser("explain", __doc__)
    add_config_file(parser)
    add_images(parser)
    add_output(parser)
    targets = f"of {', '.join(TARGETS)}, and class_score[dog] for any class; default {','.join(DEFAULT_TARGETS)}"
    add_names(parser, "--targets", targets)
    parser.add_argument("--method", help=f"{', '.join(METHODS)}; default: ODAM.EXPLAIN.METHOD")
    add_layer(parser)
    parser.add_argument("--text", help="what to look for, for detectors of phrases: 'a bottle. a banana.'")
    parser.add_argument("--confidence-threshold", type=float, help="default: ODAM.EXPLAIN.CONFIDENCE_THRESHOLD")
    parser.add_argument("--max-instances", type=int, help="an image; default: ODAM.EXPLAIN.MAX_INSTANCES")
    parser.add_argument("--sheets", action="store_true", help="also a contact sheet of each image, all maps on a JPEG")
    points = (
        "what so many places along an image's longer side attend to, for clicks on the page: DETR, Conditional DETR"
    )
    parser.add_argument("--attention-points", type=int, default=0, metavar="N", help=points)
    parser.add_argument("--resume", action="store_true", help="go on where a run into --output stopped")
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N", help="processes that share the images")
    parser.add_argument("--num-machines", type=int, default=1, metavar="N", help="with --output on a disk of them all")
    parser.add_argument("--machine-rank", type=int, default=0, metavar="N", help="which of them this is, from 0")
    parser.add_argument(
        "--dist-url", default="auto", metavar="URL", help="where several machines meet: tcp://host:port"
    )
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
        **({"attention_points": args.attention_points} if args.attention_points else {}),
    }


def describe_settings(facts: Mapping[str, Any], cfg: CfgNode) -> dict[str, Any]:
    """All that decides about the results, name -> value: a run that goes on has to have the same."""
    settings = {name: value for name, value in facts.items() if name not in INCIDENTAL}
    # The weights are told by their hash.
    return settings | {key: value for key, value in flat(cfg).items() if key not in ("MODEL.DEVICE", "MODEL.WEIGHTS")}


def flat(node: CfgNode, prefix: str = "") -> dict[str, Any]:
    """A config's values by their dotted keys."""
    values = {}
    for key, value in node.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else {f"{prefix}{key}": value}
    return values


@dataclass(frozen=True, eq=False)
class Explained:
    """An explained image, before anything is drawn."""

    path: Path
    explanation: Explanation
    seconds: tuple[float, float]
    places: PlaceMaps | None = None

    def as_results(self) -> ExplainedImage:
        """In plain values."""
        return replace(self.explanation.as_results(self.path, *self.seconds), places=self.places)


def explain_image(
    predictor: ODAMPredictor,
    explainer: Explainer,
    targets: Sequence[Target],
    path: Path,
    image: np.ndarray,
    attention_points: int = 0,
) -> Explained:
    """Detect in one image and explain what was found; see :mod:`odam_d2.cli.attention_points`."""
    start = time.perf_counter()
    # Detections come in descending score.
    instances, trace = predictor.trace(
        image,
        (explainer.layer,),
        surest(predictor.cfg),
    )
    detected = time.perf_counter()
    explanation = predictor.explanation(image, instances, trace, targets, explainer)
    explained = time.perf_counter()
    places = place_maps(trace, attention_points) if attention_points else None
    return Explained(path, explanation, (detected - start, explained - detected), places)


def choose_targets(args: argparse.Namespace, settings: ExplainSettings) -> list[str]:
    """The targets that the command line asks for, else all, or the first of a method that takes long for each."""
    own = METHODS[settings.method].targets
    targets = args.targets or (DEFAULT_TARGETS if own is None else own[:1])
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


def check_processes(args: argparse.Namespace) -> None:
    """Refuse numbers of processes and machines with which nobody could start."""
    if min(args.num_gpus, args.num_machines) < 1:
        raise ValueError(f"--num-gpus is {args.num_gpus} and --num-machines {args.num_machines}; at least 1 is needed")
    if not 0 <= args.machine_rank < args.num_machines:
        top = args.num_machines - 1
        raise ValueError(f"--machine-rank is {args.machine_rank}; it must lie between 0 and {top}, see --num-machines")
    if args.num_machines > 1 and args.dist_url == "auto":
        raise ValueError("several machines need to know where to meet; give --dist-url tcp://host-of-rank-0:port")


def explain_folder(args: argparse.Namespace, progress: Progress) -> int:
    """One process of the run: its share of the images; the exit code is 0 where the folder has at least one."""
    start = time.perf_counter()
    images = progress.add_task("explaining", total=None)
    tell_within = task_within(progress)

    def tell(done: int, total: int) -> None:
        tell_within(METHODS[explainer.settings.method].counts, done, total)

    # Mistakes that cost nothing to find come before the weights are read.
    cfg = read_config(args)
    check_thresholds(cfg)
    targets = choose_targets(args, ExplainSettings.from_options(cfg.ODAM.EXPLAIN))
    paths = find_images(args.input)
    predictor = ODAMPredictor(cfg)
    if args.attention_points:
        check_attends(predictor.model)
    # The layer once more, to be refused by methods that have none.
    explainer = predictor.make_explainer(layer=args.layer, progress=tell)
    resolved = predictor.resolve_targets(targets)
    # A class that was given by its number has its name from here on.
    names = [target_name(target) for target in resolved]
    facts = describe_run(args, cfg, names)
    if comm.is_main_process():
        begin_run(args.output, facts, describe_settings(facts, cfg), args.resume)
    comm.synchronize()
    title = f"Why {args.config_file} sees what it sees"
    meanings = meanings_of(names, METHODS[explainer.settings.method].meanings)
    results = ResultsFolder(args.output, title, meanings, args.sheets, comm.get_rank())
    done = {entry["file"]: entry.get("name") for entry in results.entries()}
    # Nobody writes before everybody has read.
    comm.synchronize()
    left = [path for path in paths if str(path) not in done]
    file_names = name_images(left, {file: name for file, name in done.items() if name})
    share = [left[place] for place in InferenceSampler(len(left))] if left else []
    loaded = time.perf_counter()
    code = 0
    try:
        explained = overlap(
            share,
            read_image,
            lambda path, image: explain_image(predictor, explainer, resolved, path, image, args.attention_points),
            lambda path, image: results.prepare(image.as_results(), file_names[path]),
            AHEAD if worth_overlapping(cfg.MODEL.DEVICE) else 0,
        )
        for path, outcome in progress.track(explained, total=len(share), task_id=images):
            if isinstance(outcome, Exception):
                print_left_out(progress.console, outcome)
                results.leave_out(path, str(outcome))
            else:
                results.add(outcome)
    except KeyboardInterrupt:
        code = INTERRUPTED
    comm.synchronize()
    if not comm.is_main_process():
        return code
    results.finish()
    return report(results, facts, paths, done, (loaded - start, time.perf_counter() - loaded), code)


def run_process(args: argparse.Namespace) -> int:
    """One process of the run, which ends as all commands end."""
    main_process = comm.is_main_process()

    def work() -> int:
        prepare_for_network()
        with progress_bar(shown=main_process) as progress:
            return explain_folder(args, progress)

    return run_command(work, shown=main_process)


def run(argv: Sequence[str] | None) -> int:
    """Explain all images in as many processes as asked for."""
    args = parse_arguments(argv)
    check_processes(args)
    check_count(args.attention_points)
    # One process may have the larger photographs: the others wait for it as long as it takes.
    options = {"machine_rank": args.machine_rank, "dist_url": args.dist_url, "timeout": timedelta(days=30)}
    return run_processes(run_process, (args,), args.num_gpus, args.num_machines, **options)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see :func:`run` and :func:`odam_d2.cli.common.run_command` for its exit code."""
    return run_command(lambda: run(argv))
