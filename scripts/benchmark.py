#!/usr/bin/env python3
"""Speed, memory and exactness, printed as tables and saved as JSON: python scripts/benchmark.py paths

paths       maps of hundreds of candidates: the batched paths against one backward pass for each
nms         the NMS family: functions on made candidates, ODAM-NMS inside detectors of full size, and how many of the
            candidates that it keeps depend on the path by which their maps are made
crowds      every NMS on made crowds: AP, JI, MR, recall and time of two detectors trained on them
crowdhuman  AP, MR and JI of a validation set of CrowdHuman's size, on one core
metrics     the measures of explanations, of a thousand maps
folder      seconds that a folder takes beside those of its detections and maps; a run that is killed and goes on
drise       masks a second of D-RISE beside images a second of the plain detector
"""

import argparse
import importlib
import json
from pathlib import Path

from rich.console import Console

from benchmarks.measure import describe_machine
from odam_d2.cli.memory import keep_memory

BENCHMARKS = ("paths", "nms", "crowds", "crowdhuman", "metrics", "folder", "drise")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("benchmark", choices=BENCHMARKS)
    parser.add_argument("--repeats", type=int, default=5, help="measurements, of which the median counts (default 5)")
    parser.add_argument("--output", default="output/benchmark", help="folder for the JSON (default output/benchmark)")
    args = parser.parse_args()
    if args.repeats < 1:
        parser.error(f"--repeats is {args.repeats}; at least 1 is needed")
    keep_memory()  # as the commands do
    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    console = Console(width=120)
    machine = describe_machine()
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()), highlight=False)
    tables = importlib.import_module(f"benchmarks.{args.benchmark}").run(args.repeats)
    results = {}
    for table in tables:
        table.show(console)
        results[table.title] = table.rows
        # Written after every table: an interrupted run keeps what it has.
        path = folder / f"{args.benchmark}.json"
        path.write_text(json.dumps({"machine": machine, "repeats": args.repeats, "tables": results}, indent=2) + "\n")
    console.print(f"saved {path}")


if __name__ == "__main__":
    main()
