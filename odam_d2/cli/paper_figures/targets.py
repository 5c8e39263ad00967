"""Figure 3: what explains each output of a detection, detector by detector."""

import argparse

from odam_d2.cli.arguments import add_names, add_opts
from odam_d2.cli.common import progress_bar
from odam_d2.cli.paper_figures.common import (
    PaperFigure,
    Row,
    add_image_options,
    check_images,
    draw_rows,
    load_detectors,
    pictures_of,
    save_figure,
)
from odam_d2.cli.paper_figures.objects import find_objects
from odam_d2.data.images import read_image
from odam_d2.explain import TARGETS, explain, target_name
from odam_d2.show.sheets import stack_sheets
from odam_d2.show.words import meanings_of, plural

DESCRIPTION = """Figure 3: what explains the class and each side of a detection, for one or several detectors.

A row is an object as one detector sees it, a column an output of it: its class, the sides of its box, and all of them
together, the maximum of these maps. The objects are those the first detector is surest of; another detector's
detection of the same object has the same class and a box that overlaps by more than half.
"""
DEFAULT_TARGETS = ("class_score", "x1", "y1", "x2", "y2", "combined")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of Figure 3."""
    add_image_options(parser, 3, instances=1, several=True)
    own = f"of {', '.join(TARGETS)}; default {','.join(DEFAULT_TARGETS)}"
    add_names(parser, "--targets", own, default=DEFAULT_TARGETS)
    add_opts(parser)


def make(args: argparse.Namespace) -> int:
    """Write Figure 3."""
    paths = check_images(args)
    detectors = load_detectors(args)
    targets = {detector.name: detector.predictor.resolve_targets(args.targets) for detector in detectors}
    explainers = {detector.name: detector.predictor.make_explainer() for detector in detectors}
    for name, explainer in explainers.items():
        explainer.check(targets[name])
    layers = {name: (explainer.layer,) for name, explainer in explainers.items()}
    columns = [target_name(target) for target in targets[detectors[0].name]]
    parts = []
    with progress_bar() as progress:
        for path in progress.track(paths, description="explaining"):
            image = read_image(path)
            for shared in find_objects(detectors, image, path, layers):
                rows = []
                for detector, seen in zip(detectors, shared.seen):
                    if seen is None:
                        rows.append(shared.missing_row(detector.name, columns))
                        continue
                    maps = explain(seen.trace, targets[detector.name], explainers[detector.name])
                    pictures = {name: pictures_of(own)[0] for name, own in maps.items()}
                    rows.append(Row(seen.box, f"{detector.name}: {seen.label}", pictures))
                parts.append((f"{path.name}: {shared.name}", draw_rows(image, rows, meanings_of(columns))))
    save_figure(args.output, stack_sheets(parts))
    print(f"{plural(len(parts), 'object')} by {plural(len(detectors), 'detector')}: see {args.output}")
    return 0


FIGURE = PaperFigure(DESCRIPTION, add_options, make)
