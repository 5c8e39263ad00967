"""Make a figure of the paper from detectors and an image of your own."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from PIL import Image
from torch import Tensor

from odam_d2.cli.arguments import add_config_file, add_opts, add_output, make_parser
from odam_d2.cli.common import prepare_for_network, progress_bar, run_command
from odam_d2.cli.paper_figures import queries
from odam_d2.cli.settings import read_config
from odam_d2.data.images import IMAGE_SUFFIXES, read_image
from odam_d2.data.same_classes import describe_classes
from odam_d2.evaluation.detections.common_pairs import Found, common_pairs
from odam_d2.nms import Suppression, greedy_nms
from odam_d2.nms.functions import iou, pair_correlations
from odam_d2.predictor import ODAMPredictor
from odam_d2.show.trained_maps import DetectorMaps, compare_maps
from odam_d2.structures import normalize_maps

FIGURE_18 = """Figure 18: what ODAM-Train does to heat maps, from a detector without it and one with it.

Left, the average map over all predictions that score enough, before NMS. Right, pairs of predictions on different
objects, with the IoU of their boxes and the correlation of their maps as ODAM-NMS sees them. The same objects are
shown for both detectors: of those that both found (boxes with an IoU above 0.5), the ones that overlap most. Classical
NMS says which predictions are different objects, so that maps have no part in it. Pairs that overlap more than its
threshold are to be had with a higher one, such as --opts MODEL.FCOS.NMS_THRESH_TEST 0.6.
"""


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line: the figure's number, and the options of that figure."""
    parser = make_parser("figures", __doc__)
    figures = parser.add_subparsers(dest="figure", required=True, metavar="NUMBER")
    for number, figure in FIGURES.items():
        own = figures.add_parser(
            number,
            help=figure.description.splitlines()[0],
            description=figure.description,
            formatter_class=parser.formatter_class,
            allow_abbrev=False,
        )
        figure.add_options(own)
    return parser.parse_args(argv)


def add_figure_18(parser: argparse.ArgumentParser) -> None:
    """The options of Figure 18."""
    add_config_file(parser, help="detector without ODAM-Train")
    parser.add_argument("--other-config-file", required=True, metavar="YAML", help="detector with ODAM-Train")
    both = "default: MODEL.WEIGHTS of their configs"
    parser.add_argument("--weights", nargs=2, metavar=("PATH", "OTHER"), help=f"weights of the two; {both}")
    names = ("without ODAM-Train", "with ODAM-Train")
    parser.add_argument("--names", nargs=2, default=names, metavar=("NAME", "OTHER"), help="captions of the two")
    parser.add_argument("--input", required=True, metavar="IMAGE")
    add_output(parser, metavar="IMAGE", default=Path("figure18.png"), help="default figure18.png")
    parser.add_argument("--pairs", type=int, default=4, metavar="N", help="at most so many (default 4)")
    average = "predictions in the average map have more than this (default 0.1)"
    parser.add_argument("--score-threshold", type=float, default=0.1, metavar="SCORE", help=average)
    pair = "predictions in a pair have more than this (default 0.3)"
    parser.add_argument("--pair-score-threshold", type=float, default=0.3, metavar="SCORE", help=pair)
    add_opts(parser)


def make_figure_18(args: argparse.Namespace) -> int:
    """Write Figure 18."""
    if args.pairs < 1:
        raise ValueError(f"--pairs {args.pairs} must be at least 1")
    if args.output.suffix.lower() not in IMAGE_SUFFIXES:
        raise ValueError(f"--output {args.output} is no image file; valid endings are {', '.join(IMAGE_SUFFIXES)}")
    files = args.config_file, args.other_config_file
    configs = [read_nms_config(file, args.opts, own) for file, own in zip(files, args.weights or (None, None))]
    image = read_image(args.input)
    predictors = [ODAMPredictor(cfg) for cfg in configs]
    check_comparable(predictors)
    with progress_bar() as progress:
        looked = progress.track(predictors, description="explaining")
        done = [predictor.explain_nms(image)[1] for predictor in looked]
    kept = [kept_by_boxes(one, args.pair_score_threshold) for one in done]
    found = [
        Found(*(part[rows].cpu().numpy() for part in (one.boxes, one.scores, one.classes)))
        for one, rows in zip(done, kept)
    ]
    pairs = common_pairs(found, args.pairs)
    detectors = [
        detector_maps(name, one, rows.cpu().numpy()[own]) for name, one, rows, own in zip(args.names, done, kept, pairs)
    ]
    figure = compare_maps(np.ascontiguousarray(image[:, :, ::-1]), detectors, args.score_threshold)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(figure).save(args.output)
    print(f"{pairs.shape[1]} of {args.pairs} pairs: see {args.output}")
    return 0


def read_nms_config(config_file: str, opts: Sequence[str], weights: str | None) -> CfgNode:
    """A config with ODAM-NMS, whichever NMS it names: ODAM-NMS's maps are what is compared.

    Args:
        config_file: name or path.
        opts: ``KEY VALUE ...``.
        weights: other than the config's.
    """
    own = [*opts, "ODAM.NMS.NAME", "odam", *(["MODEL.WEIGHTS", weights] if weights else [])]
    return read_config(argparse.Namespace(config_file=config_file, opts=own))


def check_comparable(predictors: Sequence[ODAMPredictor]) -> None:
    """Refuse detectors of different classes: a pair's objects are of one class for all of them.

    Raises:
        ValueError: names the classes of both.
    """
    first, *others = (predictor.class_names for predictor in predictors)
    for other in others:
        if other != first:
            raise ValueError(
                f"the first detector has {describe_classes(first)} and the other {describe_classes(other)}; choose "
                "detectors of the same classes, or name one dataset for both with --opts DATASETS.TEST"
            )


def kept_by_boxes(done: Suppression, score_threshold: float) -> Tensor:
    """Positions of the candidates that score enough and that classical NMS takes for different objects, (K,) int64."""
    keep = greedy_nms(done.boxes, done.scores, done.classes, done.iou_threshold)
    return keep[done.scores[keep] > score_threshold]


def detector_maps(name: str, done: Suppression, pairs: np.ndarray) -> DetectorMaps:
    """What the figure shows of a detector.

    Args:
        name: its caption.
        done: what its NMS saw.
        pairs: positions of candidates, (P,2) int64.
    """
    first, second = torch.from_numpy(pairs).to(done.boxes.device).unbind(dim=1)
    return DetectorMaps(
        name=name,
        boxes=done.boxes.cpu().numpy(),
        scores=done.scores.cpu().numpy(),
        maps=normalize_maps(done.maps).cpu().numpy(),
        pairs=pairs,
        iou=iou(done.boxes[first], done.boxes[second]).diagonal().cpu().numpy(),
        correlation=pair_correlations(done.maps, first, second, done.correlation).cpu().numpy(),
    )


class PaperFigure(NamedTuple):
    """A figure that the command can make.

    Attributes:
        description: for the help; its first line stands alone.
        add_options: adds its options to its parser.
        make: makes it; returns the exit code.
    """

    description: str
    add_options: Callable[[argparse.ArgumentParser], None]
    make: Callable[[argparse.Namespace], int]


# By their numbers in the paper.
FIGURES = {"7": PaperFigure(*queries.FIGURE), "18": PaperFigure(FIGURE_18, add_figure_18, make_figure_18)}


def run(argv: Sequence[str] | None) -> int:
    """Make the figure."""
    args = parse_arguments(argv)
    prepare_for_network()
    return FIGURES[args.figure].make(args)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 1 where it cannot be done."""
    return run_command(lambda: run(argv))
