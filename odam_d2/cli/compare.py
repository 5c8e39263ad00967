"""Show what several detectors saw in the same photographs, side by side, from what odam explain --sheets wrote."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from odam_d2.cli.arguments import add_output, make_parser
from odam_d2.cli.common import run_command
from odam_d2.show.side_by_side import write_side_by_side
from odam_d2.show.words import plural


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = make_parser("compare", __doc__)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="an --output of odam explain --sheets")
    add_output(parser, help="the page, in an existing folder", metavar="HTML")
    parser.add_argument(
        "--names", nargs="+", metavar="NAME", help="of the detectors, one a folder; default: their architectures"
    )
    return parser.parse_args(argv)


def own_meanings(method: str) -> Mapping[str, str]:
    """What the maps of a method answer where that is not what ODAM's answer, by target."""
    if method == "odam":
        return {}
    # Imported here, because it brings PyTorch, for which a page of ODAM's maps need not wait.
    from odam_d2.explain import METHODS

    return METHODS[method].meanings if method in METHODS else {}


def run(argv: Sequence[str] | None) -> int:
    """Write the page, and say what is on it."""
    args = parse_arguments(argv)
    shared, others = write_side_by_side(args.output, args.folders, args.names, own_meanings)
    print(f"{plural(len(shared), 'photograph')} side by side, {len(others)} more that not all folders have")
    print(f"open {args.output}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 1 where the folders cannot be compared."""
    return run_command(lambda: run(argv))
