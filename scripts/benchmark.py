#!/usr/bin/env python3
"""Speed, memory and exactness, printed as tables and saved as JSON: python scripts/benchmark.py paths

paths       maps of hundreds of candidates: the batched paths against one backward pass for each
nms         the NMS family: functions on made candidates, ODAM-NMS inside detectors of full size, and how many of the
            candidates that it keeps depend on the path by which their maps are made
odam_train  time and memory that ODAM-Train adds to a training step
odam_kd_step
            time and memory that FGD and ODAM-KD add to a training step
drise       masks a second of D-RISE beside images a second of the plain detector, and beside xaitk-saliency's masks
folder      seconds that a folder takes beside those of its detections and maps
memory      largest size of a process that explains a 12-megapixel photograph
crowds      every NMS on synthetic crowds: AP, JI, MR, recall and time of two detectors trained on them
crowdhuman  AP, MR and JI of a validation set of CrowdHuman's size, on one core
metrics     the measures of explanations, of a thousand maps
resume      a run over thousands of photographs that is killed and goes on: nothing lost, nothing twice

photographs Tables 1 to 3 of every bundled detector, on COCO's photographs; runs for hours, and goes on where it was
            stopped
odam_train_search
            settings of ODAM-Train, on crowds that no figure is made on; trains for hours
odam_train_tables
            Tables 9, 11 and 12 on synthetic crowds; trains for hours, and goes on where it was stopped
odam_kd_search
            weights of distillers, on images that no figure is made on; trains for an hour
odam_kd_tables
            Tables 7 and 8 in miniature, on BCCD and on synthetic crowds; likewise

all         all but the last five, one after the other, whatever becomes of each; with --device cuda those that use a
            GPU, up to crowds
"""

import argparse
import importlib
import json
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.measure import Options, describe_machine
from odam_d2.cli.memory import keep_memory

BENCHMARKS = (
    "paths",
    "nms",
    "odam_train",
    "odam_kd_step",
    "drise",
    "folder",
    "memory",
    "crowds",
    "crowdhuman",
    "metrics",
    "resume",
)
# Not part of all.
LONG = ("photographs", "odam_train_search", "odam_train_tables", "odam_kd_search", "odam_kd_tables")
# The others are NumPy's, or about files.
ON_DEVICE = BENCHMARKS[:8]


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("benchmark", choices=(*BENCHMARKS, *LONG, "all"))
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: a GPU where there is one")
    parser.add_argument("--repeats", type=int, help="measurements, of which the median counts (default 5; quick: 1)")
    parser.add_argument("--quick", action="store_true", help="small sizes: whether everything runs, not how fast")
    parser.add_argument("--output", default="output/benchmark", help="folder for the JSON (default output/benchmark)")
    args = parser.parse_args(argv)
    if args.device is None:
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    if args.repeats is None:
        args.repeats = 1 if args.quick else 5
    if args.repeats < 1:
        parser.error(f"--repeats is {args.repeats}; at least 1 is needed")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device is cuda, and PyTorch finds no GPU on this machine; use --device cpu")
    return args


def measure(name: str, options: Options, folder: Path, console: Console) -> None:
    """Run one benchmark; its tables are printed and saved."""
    path, results, start = folder / f"{name}.json", {}, time.perf_counter()
    machine = describe_machine(options.device)
    for table in importlib.import_module(f"benchmarks.{name}").run(options):
        if options.quick:
            table.title += " (quick: small sizes)"
        table.show(console)
        results[table.title] = table.rows
        # Written after every table: an interrupted run keeps what it has.
        saved = {"machine": machine, "repeats": options.repeats, "quick": options.quick, "tables": results}
        path.write_text(json.dumps(saved, indent=2) + "\n")
    console.print(f"saved {path} after {time.perf_counter() - start:.0f} s", highlight=False)


def try_to_measure(name: str, options: Options, folder: Path, console: Console) -> str:
    """The same; in one line why it could not be done, or nothing."""
    try:
        measure(name, options, folder, console)
    except FileNotFoundError as error:
        return str(error)
    except Exception as error:
        # The others shall not be lost, whatever it was.
        traceback.print_exc()
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one benchmark or all; the exit code is 1 where one could not be run."""
    args = parse_arguments(argv)
    keep_memory()  # as the commands do
    options = Options(args.device, args.repeats, args.quick)
    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    console = Console(width=120)
    console.print(", ".join(f"{key} {value}" for key, value in describe_machine(args.device).items()), highlight=False)
    every = ON_DEVICE if args.device == "cuda" else BENCHMARKS
    failed = {}
    for name in every if args.benchmark == "all" else (args.benchmark,):
        if reason := try_to_measure(name, options, folder, console):
            failed[name] = reason
    for name, reason in failed.items():
        print(f"error: {name} could not be run: {reason}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    # Whoever stops the benchmark stops the training that it waits for: run_process ends a child on its way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
