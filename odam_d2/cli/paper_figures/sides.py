"""Figure 5: one side of several predictions of the same object.

Shapes: D candidates. Boxes are XYXY in pixels of the image.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from odam_d2.boxes import box_iou
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
    pictures_of,
    save_figure,
)
from odam_d2.cli.settings import surest
from odam_d2.data.images import read_image
from odam_d2.explain.targets import OUTWARDS, SIDES
from odam_d2.modeling.explainable import PLACE, Observation
from odam_d2.show.sheets import stack_sheets
from odam_d2.show.words import SIDE_WORDS, TARGET_MEANINGS, plural

DESCRIPTION = """Figure 5: what put one side of a box where it is, for several predictions of the same object.

The first row of an object is its detection. The others are predictions of the same class that NMS removed, whose side
is elsewhere: those that differ most from each other, by at least a tenth of the object's extent. Their maps show what
misled them.
"""
# IoU with the detection; a prediction that overlaps it less may be about something else.
LEAST_OVERLAP = 0.3
# A side is elsewhere if it is further away than this part of the object's extent.
LEAST_DISTANCE = 0.1


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of Figure 5."""
    add_image_options(parser, 5, instances=1)
    parser.add_argument("--side", default="x2", help=f"one of {', '.join(SIDES)}; default x2, the right one")
    parser.add_argument("--predictions", type=int, default=4, metavar="N", help="of an object, at most (default 4)")
    least = "of a prediction; the detector's own threshold applies before (default 0.05)"
    parser.add_argument("--least-score", type=float, default=0.05, metavar="SCORE", help=least)
    add_layer(parser)
    add_opts(parser)


def differing(sides: np.ndarray, first: int, least: float, most: int) -> list[int]:
    """Predictions whose sides differ most: the first one, and again and again the one farthest from all chosen.

    Args:
        sides: where the side of each is, (D,).
        first: which prediction to begin with.
        least: how far at least it is from all chosen.
        most: how many at most, at least 1.

    Returns:
        their positions; after the first, from the lowest side to the highest.
    """
    chosen = [first]
    while len(chosen) < most:
        distance = np.abs(sides[:, None] - sides[chosen]).min(axis=1)
        farthest = int(distance.argmax())
        if distance[farthest] < max(least, 1e-9):
            break
        chosen.append(farthest)
    return [first, *sorted(chosen[1:], key=lambda d: sides[d])]


def say_distance(side: str, distance: float) -> str:
    """How far a side is from the detection's, in words; positive is further out."""
    return f"{SIDE_WORDS[side]} side {abs(distance):.0f} px further {'out' if distance > 0 else 'in'}"


class _Predictions(NamedTuple):
    """All that enters NMS in a photograph: boxes (D,4), scores (D,), classes (D,) and places (D,)."""

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    places: np.ndarray


def all_predictions(observation: Observation, size: tuple[int, int]) -> _Predictions:
    """What enters NMS in the first image of an observation, whose size is (h,w)."""
    candidates = observation.candidates(0)
    scale = [image / network for image, network in zip(size, candidates.image_size)]
    parts = (candidates.boxes, candidates.scores, candidates.classes, candidates.places)
    boxes, scores, classes, places = (part.detach().cpu().numpy() for part in parts)
    return _Predictions(boxes.astype(np.float64) * np.tile(scale[::-1], 2), scores, classes, places)


def of_one_object(said: _Predictions, place: int, label: int, side: str, args: argparse.Namespace) -> np.ndarray:
    """The detection made at a place, and predictions of its object whose side is elsewhere: positions, (P,)."""
    number = SIDES.index(side)
    own = int(np.flatnonzero((said.places == place) & (said.classes == label))[0])
    near = box_iou(said.boxes, said.boxes[[own]])[:, 0] >= LEAST_OVERLAP
    near &= (said.classes == label) & (said.scores >= args.least_score)
    near[own] = True
    rows = np.flatnonzero(near)
    extent = said.boxes[own, 2 + number % 2] - said.boxes[own, number % 2]
    first = int(np.flatnonzero(rows == own)[0])
    return rows[differing(said.boxes[rows, number], first, LEAST_DISTANCE * extent, args.predictions)]


def parts_of(
    detector: Detector, image: np.ndarray, path: Path, args: argparse.Namespace
) -> list[tuple[str, np.ndarray]]:
    """A titled sheet for each object of a photograph."""
    predictor, side = detector.predictor, args.side
    explainer = predictor.make_explainer(layer=args.layer)
    observation = predictor.observe([image], (explainer.layer,))
    (found,) = observation.detections()
    rows = surest(predictor.cfg)(found).tolist()
    check_found(len(rows), path, detector)
    said, number = all_predictions(observation, image.shape[:2]), SIDES.index(side)
    parts = []
    for row in rows:
        label = int(found.pred_classes[row])
        chosen = of_one_object(said, int(found.get(PLACE)[row]), label, side, args)
        places = torch.as_tensor(said.places[chosen], device=found.scores.device)
        maps = pictures_of(explainer(observation.trace(0, places, torch.full_like(places, label)), side))
        moved = OUTWARDS[side] * (said.boxes[chosen, number] - said.boxes[chosen[0], number])
        said_of = ["the detection", *(say_distance(side, distance) for distance in moved[1:])]
        drawn = [
            Row(said.boxes[one], f"{said.scores[one]:.2f}: {what}", {side: picture})
            for one, what, picture in zip(chosen, said_of, maps)
        ]
        title = f"{path.name}: predictions of one {predictor.class_names[label]}, by {detector.name}"
        parts.append((title, draw_rows(image, drawn, {side: TARGET_MEANINGS[side]})))
    return parts


def make(args: argparse.Namespace) -> int:
    """Write Figure 5."""
    paths = check_images(args)
    if args.side not in SIDES:
        raise ValueError(f"unknown side {args.side!r}; valid sides are {', '.join(SIDES)}")
    if args.predictions < 1:
        raise ValueError(f"--predictions is {args.predictions}; at least 1 is needed")
    if not 0 <= args.least_score <= 1:
        raise ValueError(f"--least-score is {args.least_score}; it must lie between 0 and 1")
    (detector,) = load_detectors(args)
    parts = []
    with progress_bar() as progress:
        for path in progress.track(paths, description="explaining"):
            parts += parts_of(detector, read_image(path), path, args)
    save_figure(args.output, stack_sheets(parts))
    print(f"{plural(len(parts), 'object')}: see {args.output}")
    return 0


FIGURE = PaperFigure(DESCRIPTION, add_options, make)
