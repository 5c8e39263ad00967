"""Figure 4: maps made at different layers."""

import argparse

from odam_d2.cli.arguments import add_names, add_opts
from odam_d2.cli.common import progress_bar
from odam_d2.cli.paper_figures.common import (
    Detector,
    PaperFigure,
    Row,
    add_image_options,
    check_images,
    draw_rows,
    load_detectors,
    pictures_of,
    save_figure,
)
from odam_d2.cli.paper_figures.objects import SharedObject, find_objects
from odam_d2.data.images import read_image
from odam_d2.explain import TARGETS, explain, target_name
from odam_d2.show.sheets import stack_sheets
from odam_d2.show.words import meanings_of, plural

DESCRIPTION = """Figure 4: maps made at different layers, for the class and the top side of a detection.

A row is an output of an object as one detector sees it, a column a layer: stages of the backbone, which show edges and
corners; the level of the pyramid that the detection comes from; and the pooled region, which two-stage detectors alone
have. Higher layers show larger and smoother parts.
"""
DEFAULT_LAYERS, DEFAULT_TARGETS = ("res3", "res4", "res5", "fpn", "roi_pool"), ("class_score", "y1")
MEANINGS = {"fpn": "the level it comes from", "roi_pool": "its pooled region"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of Figure 4."""
    add_image_options(parser, 4, instances=1, several=True)
    add_names(parser, "--layers", f"default {','.join(DEFAULT_LAYERS)}", default=DEFAULT_LAYERS)
    own = f"of {', '.join(TARGETS)}; default {','.join(DEFAULT_TARGETS)}"
    add_names(parser, "--targets", own, default=DEFAULT_TARGETS)
    add_opts(parser)


def own_layers(detector: Detector, layers: list[str]) -> list[str]:
    """Those of some layers that a detector has.

    Raises:
        ValueError: a layer other than ``roi_pool`` that it lacks; the valid ones are listed.
    """
    detector.predictor.check_layers([layer for layer in layers if layer != "roi_pool"])
    return [layer for layer in layers if layer in detector.predictor.model.layers]


def rows_of(detectors: list[Detector], shared: SharedObject, layers: list[str], targets: list[str]) -> list[Row]:
    """The rows of one object: each target of each detector."""
    rows = []
    for detector, seen in zip(detectors, shared.seen):
        if seen is None:
            rows.append(shared.missing_row(detector.name, layers))
            continue
        resolved = detector.predictor.resolve_targets(targets)
        names = [target_name(target) for target in resolved]
        pictures = {name: dict.fromkeys(layers) for name in names}
        for layer in own_layers(detector, layers):
            maps = explain(seen.trace, resolved, detector.predictor.make_explainer(layer=layer))
            for name in names:
                pictures[name][layer] = pictures_of(maps[name])[0]
        for name in names:
            none = {layer: "pools no regions" for layer, own in pictures[name].items() if own is None}
            label = f"{detector.name}: {meanings_of([name])[name] or name}"
            rows.append(Row(seen.box, label, pictures[name], none))
    return rows


def make(args: argparse.Namespace) -> int:
    """Write Figure 4."""
    paths = check_images(args)
    detectors = load_detectors(args)
    for detector in detectors:
        detector.predictor.make_explainer(layer="fpn").check(detector.predictor.resolve_targets(args.targets))
    layers, targets = list(args.layers), list(args.targets)
    observed = {detector.name: own_layers(detector, layers) for detector in detectors}
    parts = []
    with progress_bar() as progress:
        for path in progress.track(paths, description="explaining"):
            image = read_image(path)
            for shared in find_objects(detectors, image, path, observed):
                meanings = {layer: MEANINGS.get(layer, "a stage of the backbone") for layer in layers}
                sheet = draw_rows(image, rows_of(detectors, shared, layers, targets), meanings)
                parts.append((f"{path.name}: {shared.name}", sheet))
    save_figure(args.output, stack_sheets(parts))
    told = plural(len(layers), "layer"), plural(len(detectors), "detector")
    print(f"{plural(len(parts), 'object')} at {told[0]} of {told[1]}: see {args.output}")
    return 0


FIGURE = PaperFigure(DESCRIPTION, add_options, make)
