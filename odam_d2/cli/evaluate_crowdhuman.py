"""AP, MR^-2, JI and recall of a detection file: scripts/evaluate_crowdhuman.py detections.jsonl annotation_val.odgt."""

import argparse

from rich.console import Console
from rich.table import Table

from odam_d2.data.odgt import read_detections, read_odgt
from odam_d2.evaluation.detections.crowdhuman import CrowdResult, evaluate_crowd


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "detections", help="JSON lines {ID, height, width, dtboxes: [{box: [x, y, width, height], score}]}"
    )
    parser.add_argument("ground_truth", help="odgt file, such as CrowdHuman's annotation_val.odgt")
    return parser.parse_args()


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


def main() -> int:
    """Run; the exit code is 1 where a file cannot be used."""
    args = parse_arguments()
    try:
        result = evaluate_crowd(read_odgt(args.ground_truth), read_detections(args.detections))
    except (ValueError, OSError) as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 1
    Console().print(result_table(result), highlight=False)
    print(
        f"{result.images} images, {result.people} people, {result.detections} detections, "
        f"{result.ignored_detections} of them in regions to be ignored"
    )
    return 0
