"""Figure 18: what ODAM-Train does to heat maps."""

import argparse
from collections.abc import Sequence

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor

from odam_d2.cli.arguments import add_config_file, add_opts
from odam_d2.cli.common import progress_bar
from odam_d2.cli.paper_figures.common import PaperFigure, add_figure_output, check_output, save_figure
from odam_d2.cli.settings import read_config
from odam_d2.data.images import read_image
from odam_d2.data.same_classes import describe_classes
from odam_d2.evaluation.detections.common_pairs import Found, common_pairs
from odam_d2.nms import Suppression, greedy_nms
from odam_d2.nms.functions import iou, pair_correlations
from odam_d2.predictor import ODAMPredictor
from odam_d2.show.trained_maps import DetectorMaps, compare_maps
from odam_d2.structures import normalize_maps

DESCRIPTION = """Figure 18: what ODAM-Train does to heat maps, from a detector without it and one with it.

Left, the average map over all predictions that score enough, before NMS. Right, pairs of predictions on different
objects, with the IoU of their boxes and the correlation of their maps as ODAM-NMS sees them. The same objects are
shown for both detectors: of those that both found (boxes with an IoU above 0.5), the ones that overlap most. Classical
NMS says which predictions are different objects, so that maps have no part in it. Pairs that overlap more than its
threshold are to be had with a higher one, such as --opts MODEL.FCOS.NMS_THRESH_TEST 0.6.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of Figure 18."""
    add_config_file(parser, help="detector without ODAM-Train")
    parser.add_argument("--other-config-file", required=True, metavar="YAML", help="detector with ODAM-Train")
    both = "default: MODEL.WEIGHTS of their configs"
    parser.add_argument("--weights", nargs=2, metavar=("PATH", "OTHER"), help=f"weights of the two; {both}")
    names = ("without ODAM-Train", "with ODAM-Train")
    parser.add_argument("--names", nargs=2, default=names, metavar=("NAME", "OTHER"), help="captions of the two")
    parser.add_argument("--input", required=True, metavar="IMAGE")
    add_figure_output(parser, 18)
    parser.add_argument("--pairs", type=int, default=4, metavar="N", help="at most so many (default 4)")
    average = "predictions in the average map have more than this (default 0.1)"
    parser.add_argument("--score-threshold", type=float, default=0.1, metavar="SCORE", help=average)
    pair = "predictions in a pair have more than this (default 0.3)"
    parser.add_argument("--pair-score-threshold", type=float, default=0.3, metavar="SCORE", help=pair)
    add_opts(parser)


def make(args: argparse.Namespace) -> int:
    """Write Figure 18."""
    if args.pairs < 1:
        raise ValueError(f"--pairs {args.pairs} must be at least 1")
    check_output(args.output)
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
    save_figure(args.output, figure)
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


FIGURE = PaperFigure(DESCRIPTION, add_options, make)
