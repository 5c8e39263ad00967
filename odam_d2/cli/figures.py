"""Make a figure of the paper from detectors and images of your own."""

import argparse
from collections.abc import Sequence

from odam_d2.cli.arguments import make_parser
from odam_d2.cli.common import prepare_for_network, run_command
from odam_d2.cli.paper_figures import (
    attention,
    classes,
    curves,
    distilled,
    layers,
    methods,
    phrases,
    queries,
    sides,
    targets,
    trained,
)

# By their numbers in the paper.
FIGURES = {
    "1": methods.FIGURE,
    "3": targets.FIGURE,
    "4": layers.FIGURE,
    "5": sides.FIGURE,
    "6": classes.FIGURE,
    "7": queries.FIGURE,
    "8": phrases.FIGURE,
    "10": curves.FIGURE,
    "13": attention.FIGURE,
    "16": distilled.FIGURE,
    "18": trained.FIGURE,
}


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


def run(argv: Sequence[str] | None) -> int:
    """Make the figure."""
    args = parse_arguments(argv)
    prepare_for_network()
    return FIGURES[args.figure].make(args)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 1 where it cannot be done."""
    return run_command(lambda: run(argv))
