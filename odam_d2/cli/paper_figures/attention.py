"""Figure 13: where people looked, beside maps of several methods."""

import argparse
from pathlib import Path

from odam_d2.cli.arguments import add_opts
from odam_d2.cli.common import progress_bar
from odam_d2.cli.paper_figures.common import (
    PaperFigure,
    add_image_options,
    check_found,
    check_images,
    draw_rows,
    load_detectors,
    save_figure,
)
from odam_d2.cli.paper_figures.methods import MethodMaps, add_method_options
from odam_d2.cli.settings import surest
from odam_d2.data.images import read_image
from odam_d2.evaluation.people.attention import PIXELS_PER_DEGREE, attention_map
from odam_d2.evaluation.people.fixations import Recording, check_inside, read_fixations
from odam_d2.evaluation.study.examples import shrink_map
from odam_d2.show.sheets import stack_sheets
from odam_d2.show.words import plural

DESCRIPTION = """Figure 13: where people looked in photographs, beside the maps of several methods.

A row is a detected object, the first column where people looked in the whole photograph, the others maps of the
object. Fixations are those of people who did what their file says, such as looking freely at OSIE's photographs; the
paper's people explained a detection. odam attention measures how alike the maps are.
"""
PEOPLE = "human attention"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of Figure 13."""
    add_image_options(parser, 13, instances=2)
    file = "CSV of image,x,y,duration[,observer], or OSIE's .mat; an image is named by its file's name"
    parser.add_argument("--fixations", required=True, type=Path, metavar="FILE", help=file)
    degree = f"standard deviation of the Gaussian around a fixation (default {PIXELS_PER_DEGREE:g})"
    parser.add_argument("--pixels-per-degree", type=float, default=PIXELS_PER_DEGREE, metavar="N", help=degree)
    add_method_options(parser)
    add_opts(parser)


def check_recorded(recording: Recording, paths: list[Path], file: Path) -> None:
    """Refuse photographs at which nobody looked.

    Raises:
        ValueError: names the first, and some that there are.
    """
    for path in paths:
        if not len(recording.images.get(path.name, ())):
            some = ", ".join([name for name, own in recording.images.items() if len(own)][:3])
            raise ValueError(f"{file.name} has no fixations on {path.name}; it has them on images such as {some}")


def make(args: argparse.Namespace) -> int:
    """Write Figure 13."""
    paths = check_images(args)
    recording = read_fixations(args.fixations)
    check_recorded(recording, paths, args.fixations)
    (detector,) = load_detectors(args)
    parts = []
    with progress_bar() as progress:
        methods = MethodMaps(detector, args.methods, args.target, progress)
        for path in progress.track(paths, description="explaining"):
            image = read_image(path)
            size = image.shape[:2]
            fixations = check_inside(recording.images[path.name], size, path.name)
            looked = shrink_map(attention_map(fixations, size, args.pixels_per_degree), size) / 255
            rows = methods.explain(image, surest(detector.predictor.cfg))
            check_found(len(rows), path, detector)
            rows = [row._replace(maps={PEOPLE: looked, **row.maps}) for row in rows]
            # What people were told to do decides where they look.
            people = "; ".join(filter(None, (f"{len(fixations)} fixations", recording.task.partition(";")[0])))
            sheet = draw_rows(image, rows, {PEOPLE: people, **methods.columns})
            parts.append((f"{path.name}: {methods.meaning}, by {detector.name}", sheet))
    save_figure(args.output, stack_sheets(parts))
    print(f"{plural(len(parts), 'image')}: see {args.output}")
    if recording.task:
        print(f"note: {recording.task}")
    return 0


FIGURE = PaperFigure(DESCRIPTION, add_options, make)
