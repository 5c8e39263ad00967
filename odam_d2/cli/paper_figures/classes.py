"""Figure 6: why a class, and why not another one.

Shapes: D detections, K classes.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from odam_d2.cli.arguments import add_layer, add_opts
from odam_d2.cli.common import progress_bar
from odam_d2.cli.paper_figures.common import (
    Detector,
    PaperFigure,
    Row,
    add_image_options,
    check_found,
    check_images,
    draw_rows,
    load_detectors,
    name_detections,
    pictures_of,
    save_figure,
)
from odam_d2.data.images import read_image
from odam_d2.explain.targets import closest_classes
from odam_d2.modeling.explainable import PLACE
from odam_d2.show.sheets import stack_sheets
from odam_d2.show.words import plural

DESCRIPTION = """Figure 6: why the detector sees this class, and what speaks for another one at the same place.

The objects are those whose second class comes closest to their first: where the detector is most likely to be wrong.
--instead names what an object really is: then the other class is that one, and the objects are those the detector
takes for something else.
"""
THIS, OTHER = "why this class", "why not the other"
MEANINGS = {THIS: "what speaks for what it was taken for", OTHER: "what speaks for the other class there"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of Figure 6."""
    add_image_options(parser, 6, instances=3)
    parser.add_argument(
        "--instead", metavar="CLASS", help="what the objects really are; default: each one's second class"
    )
    add_layer(parser)
    add_opts(parser)


def other_classes(scores: np.ndarray, labels: np.ndarray, instead: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The other class of each detection, and which detections are in doubt.

    Args:
        scores: of all classes at each detection's place, (D,K), K > 1.
        labels: the class of each, (D,).
        instead: the other class of all; default each one's second best.

    Returns:
        the other classes (D,), and the positions of the detections that can be mistaken, those whose other class comes
        closest to the first one first.
    """
    rows = np.arange(len(labels))
    rivals = scores.astype(np.float64).copy()
    rivals[rows, labels] = -1
    others = rivals.argmax(axis=1) if instead is None else np.full(len(labels), instead)
    ratio = scores[rows, others] / np.maximum(scores[rows, labels], 1e-12)
    order = np.argsort(-ratio, kind="stable")
    return others, order[labels[order] != others[order]]


def part_of(detector: Detector, image: np.ndarray, path: Path, args: argparse.Namespace) -> tuple[str, np.ndarray]:
    """The titled sheet of a photograph."""
    predictor = detector.predictor
    names, options = predictor.class_names, predictor.cfg.ODAM.EXPLAIN
    explainer = predictor.make_explainer(layer=args.layer)
    observation = predictor.observe([image], (explainer.layer,))
    (found,) = observation.detections()
    found = found[found.scores >= options.CONFIDENCE_THRESHOLD]
    check_found(len(found), path, detector)
    places, labels = found.get(PLACE), found.pred_classes
    scores = observation.predictions(0).class_scores[places].cpu().numpy()
    instead = None if args.instead is None else names.index(args.instead)
    others, order = other_classes(scores, labels.cpu().numpy(), instead)
    if not len(order):
        raise ValueError(
            f"all that {detector.name} detects in {path.name} is {args.instead} already; name another class"
        )
    chosen = torch.as_tensor(order[: options.MAX_INSTANCES].copy(), device=labels.device)
    rivals = torch.as_tensor(others, device=labels.device)[chosen]
    asked = (labels[chosen], rivals)
    maps = [pictures_of(explainer(observation.trace(0, places[chosen], own), "class_score")) for own in asked]
    boxes, titles = found.pred_boxes.tensor.detach().cpu().numpy(), name_detections(detector, found)
    rows = []
    for d, place in enumerate(chosen.tolist()):
        pictures = {THIS: maps[0][d], OTHER: maps[1][d]}
        captions = {
            THIS: titles[place],
            OTHER: f"{names[others[place]]} {scores[place, others[place]]:.2f}",
        }
        rows.append(Row(boxes[place], titles[place], pictures, captions))
    return f"{path.name}, by {detector.name}", draw_rows(image, rows, MEANINGS)


def make(args: argparse.Namespace) -> int:
    """Write Figure 6."""
    paths = check_images(args)
    (detector,) = load_detectors(args)
    names = list(detector.predictor.class_names)
    if len(names) < 2:
        raise ValueError(f"{detector.name} has one class, {names[0]}: it can take nothing for something else")
    if args.instead is not None and args.instead not in names:
        raise ValueError(
            f"--instead {args.instead} is no class of {detector.name}; {closest_classes(args.instead, names)}"
        )
    parts = []
    with progress_bar() as progress:
        for path in progress.track(paths, description="explaining"):
            parts.append(part_of(detector, read_image(path), path, args))
    save_figure(args.output, stack_sheets(parts))
    print(f"{plural(len(parts), 'image')}: see {args.output}")
    return 0


FIGURE = PaperFigure(DESCRIPTION, add_options, make)
