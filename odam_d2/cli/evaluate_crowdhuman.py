"""AP, MR^-2, JI and recall of a file of detections: odam evaluate-crowdhuman detections.jsonl annotation_val.odgt."""

import argparse
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from odam_d2.cli.arguments import make_parser
from odam_d2.cli.common import run_command
from odam_d2.data.odgt import read_detections, read_odgt
from odam_d2.evaluation.detections.crowdhuman import CrowdResult, evaluate_crowd


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = make_parser("evaluate-crowdhuman", __doc__)
    parser.add_argument(
        "detections", help="JSON lines {ID, height, width, dtboxes: [{box: [x, y, width, height], score}]}"
    )
    parser.add_argument("ground_truth", help="odgt file, such as CrowdHuman's annotation_val.odgt")
    return parser.parse_args(argv)


def result_table(result: CrowdResult) -> Table:
    """The measures in one row."""
    table = Table()
    values = {
        "AP": result.ap,
        "MR-2 (smaller is better)": result.mr,
        f"JI (scores > {result.ji_threshold:.1f})": result.ji,
        "Recall": result.recall,
    }
    for name in values:
        table.add_column(name, justify="right")
    table.add_row(*(f"{value:.2f}" for value in values.values()))
    return table


def run(argv: Sequence[str] | None) -> int:
    """Measure and print."""
    args = parse_arguments(argv)
    result = evaluate_crowd(read_odgt(args.ground_truth), read_detections(args.detections))
    Console().print(result_table(result), highlight=False)
    print(
        f"{result.images} images, {result.people} people, {result.detections} detections, "
        f"{result.ignored_detections} of them in regions to be ignored"
    )
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 1 where a file cannot be used."""
    return run_command(lambda: run(argv))
