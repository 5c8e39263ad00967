"""Make the synthetic crowds that stand in for CrowdHuman.

Splits that exist are left as they are. The same version makes the same bytes on every run.
"""

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

from odam_d2.cli.arguments import add_names, make_parser
from odam_d2.cli.common import progress_bar, run_command
from odam_d2.data.synthetic.dataset import SPLITS, crowd_statistics, write_dataset


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = make_parser("make-synthetic-crowd", __doc__)
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "synthetic_crowd"
    parser.add_argument("--root", type=Path, default=root, help=f"folder of the splits (default {root})")
    add_names(parser, "--splits", f"of {', '.join(SPLITS)}; default all", default=tuple(SPLITS))
    parser.add_argument(
        "--crowd-level",
        type=float,
        default=1.0,
        help="pairs with an IoU over 0.5: 0 none, 1 as in CrowdHuman (default)",
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default one a core)")
    return parser.parse_args(argv)


def make_split(folder: Path, split: str, crowd_level: float, workers: int) -> None:
    """Make one split where it is missing, and print what it holds."""
    seed, count = SPLITS[split]
    start = time.perf_counter()
    note = "existed"
    if not folder.exists():
        with progress_bar() as bar:
            task = bar.add_task(split, total=count)
            write_dataset(folder, seed, count, crowd_level, workers=workers, progress=lambda: bar.advance(task))
        note = f"made in {time.perf_counter() - start:.0f} s"
    found = crowd_statistics(folder)
    print(
        f"{split}: {found['images']} images, {found['objects']:.1f} objects, {found['pairs']:.2f} pairs with IoU > 0.5 "
        f"and {found['ignored']:.2f} ignore regions an image; {note}: {folder}"
    )


def run(argv: Sequence[str] | None) -> int:
    """Make all splits that are missing."""
    args = parse_arguments(argv)
    unknown = [split for split in args.splits if split not in SPLITS]
    if unknown:
        raise ValueError(f"unknown split {unknown[0]!r}; valid splits are {', '.join(SPLITS)}")
    for split in dict.fromkeys(args.splits):
        make_split(args.root.expanduser() / split, split, args.crowd_level, args.workers)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 1 where a split cannot be made."""
    return run_command(lambda: run(argv))
