"""Figure 1: methods side by side."""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from detectron2.structures import Instances
from rich.progress import Progress

from odam_d2.cli.arguments import add_layer, add_names, add_opts
from odam_d2.cli.common import progress_bar, task_within
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
from odam_d2.cli.settings import surest
from odam_d2.data.images import read_image
from odam_d2.explain import METHODS, TARGETS, Explainer, check_method_targets, explain, target_name
from odam_d2.show.sheets import stack_sheets
from odam_d2.show.words import meanings_of, plural

DESCRIPTION = """Figure 1: maps of several methods for the same detections, side by side.

A row is a detected object, a column a method: Grad-CAM and Grad-CAM++ light up on other objects of the class too,
D-RISE is speckled, ODAM lies on the object. D-RISE runs the detector on thousands of masked images and takes minutes;
--drise-masks 500 is faster and coarser.
"""
# In the paper's order.
DEFAULT_METHODS = ("gradcam", "gradcam++", "drise", "odam")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of Figure 1."""
    add_image_options(parser, 1, instances=3)
    add_method_options(parser)
    add_opts(parser)


def add_method_options(parser: argparse.ArgumentParser, default: Sequence[str] = DEFAULT_METHODS) -> None:
    """Add what says which methods explain what."""
    add_names(parser, "--methods", f"of {', '.join(METHODS)}; default {','.join(default)}", default=default)
    parser.add_argument("--target", default="class_score", help=f"{', '.join(TARGETS)}; default class_score")
    add_layer(parser)
    parser.add_argument("--drise-masks", type=int, metavar="N", help="default: ODAM.EXPLAIN.DRISE_MASKS")


class MethodMaps:
    """Several methods of one detector and one target.

    Args:
        detector: whose detections are explained.
        methods: names of :data:`odam_d2.explain.METHODS`.
        target: what is explained.
        progress: shows how far methods are that take long.

    Raises:
        ValueError: an unknown method, target or layer, or a method that cannot explain the target or the detector.
    """

    def __init__(self, detector: Detector, methods: Sequence[str], target: str, progress: Progress):
        self.detector, predictor = detector, detector.predictor
        (self._target,) = predictor.resolve_targets(target)
        within = task_within(progress)

        def tell(method: str, done: int, total: int) -> None:
            within(METHODS[method].counts, done, total)

        self._explainers: dict[str, Explainer] = {}
        for method in methods:
            self._explainers[method] = predictor.make_explainer(method, progress=partial(tell, method))
            check_method_targets(method, [self._target])

    @property
    def columns(self) -> dict[str, str]:
        """Column of each method -> where it was published."""
        return {METHODS[method].title: METHODS[method].source for method in self._explainers}

    @property
    def meaning(self) -> str:
        """What all maps answer."""
        name = target_name(self._target)
        return meanings_of([name])[name] or name

    def explain(self, image: np.ndarray, chosen: Callable[[Instances], object]) -> list[Row]:
        """Detect, and explain some detections by every method.

        Args:
            image: (h,w,3) uint8 BGR.
            chosen: which detections.

        Returns:
            a row for each.
        """
        layers = tuple(dict.fromkeys(explainer.layer for explainer in self._explainers.values()))
        found, trace = self.detector.predictor.trace(image, layers, chosen)
        name = target_name(self._target)
        maps = {
            METHODS[method].title: pictures_of(explain(trace, [self._target], explainer)[name])
            for method, explainer in self._explainers.items()
        }
        boxes, labels = found.pred_boxes.tensor.cpu().numpy(), name_detections(self.detector, found)
        return [Row(boxes[d], labels[d], {column: own[d] for column, own in maps.items()}) for d in range(len(found))]


def write_by_methods(
    args: argparse.Namespace,
    paths: Sequence[Path],
    detector: Detector,
    chosen: Callable[[Instances], object],
    check: Callable[[int, Path], None],
) -> None:
    """Write a figure with a row for each chosen detection and a column for each method.

    Args:
        args: of a figure with :func:`add_method_options`.
        paths: of its photographs.
        detector: whose detections are explained.
        chosen: which of a photograph's detections.
        check: refuses a photograph by how many were chosen.
    """
    parts = []
    with progress_bar() as progress:
        methods = MethodMaps(detector, args.methods, args.target, progress)
        for path in progress.track(paths, description="explaining"):
            image = read_image(path)
            rows = methods.explain(image, chosen)
            check(len(rows), path)
            title = f"{path.name}: {methods.meaning}, by {detector.name}"
            parts.append((title, draw_rows(image, rows, methods.columns)))
    save_figure(args.output, stack_sheets(parts))


def make(args: argparse.Namespace) -> int:
    """Write Figure 1."""
    paths = check_images(args)
    (detector,) = load_detectors(args)
    write_by_methods(args, paths, detector, surest(detector.predictor.cfg), partial(check_found, detector=detector))
    print(f"{plural(len(args.methods), 'method')} in {plural(len(paths), 'image')}: see {args.output}")
    return 0


FIGURE = PaperFigure(DESCRIPTION, add_options, make)
