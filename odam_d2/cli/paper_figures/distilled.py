"""Figure 16: where a student learns from its teacher."""

import argparse

from odam_d2.cli.common import progress_bar
from odam_d2.cli.paper_figures.common import PaperFigure, add_figure_output, check_output, save_figure
from odam_d2.cli.show_attention import add_options, add_student, load_pair, sheet_of
from odam_d2.data.images import find_images
from odam_d2.show.sheets import stack_sheets
from odam_d2.show.words import plural

DESCRIPTION = """Figure 16: bottom-up attention, top-down attention and their product, where a student learns.

A row is a level of the pyramid. Objects are those of --dataset, or what the student detects. Both detectors need
weights: the student's are MODEL.WEIGHTS, the teacher's ODAM.KD.TEACHER.WEIGHTS. odam show-attention writes the same
for many images, a sheet each.
"""


def add_figure_options(parser: argparse.ArgumentParser) -> None:
    """The options of Figure 16."""
    add_student(parser)
    add_figure_output(parser, 16)
    add_options(parser)


def make(args: argparse.Namespace) -> int:
    """Write Figure 16."""
    check_output(args.output)
    paths = find_images(args.input)
    pair, annotated = load_pair(args)
    with progress_bar() as progress:
        parts = [(path.name, sheet_of(pair, path, annotated)) for path in progress.track(paths, description="looking")]
    save_figure(args.output, stack_sheets(parts))
    print(f"{plural(len(parts), 'image')}: see {args.output}")
    return 0


FIGURE = PaperFigure(DESCRIPTION, add_figure_options, make)
