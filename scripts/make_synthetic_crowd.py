#!/usr/bin/env python
"""Make the synthetic crowds that stand in for CrowdHuman: python scripts/make_synthetic_crowd.py

Splits that exist are left as they are. The same version makes the same bytes on every run.
"""

import argparse
import os
import time
from pathlib import Path

import cv2
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from odam_d2.data.synthetic.dataset import SPLITS, crowd_statistics, write_dataset


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "synthetic_crowd"
    parser.add_argument("--root", type=Path, default=root, help=f"folder of the splits (default {root})")
    parser.add_argument("--splits", nargs="+", choices=list(SPLITS), default=list(SPLITS), help="default all")
    parser.add_argument(
        "--crowd-level",
        type=float,
        default=1.0,
        help="pairs with an IoU over 0.5: 0 none, 1 as in CrowdHuman (default)",
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default one a core)")
    args = parser.parse_args()
    # The processes share the cores already.
    cv2.setNumThreads(1)
    console = Console()
    try:
        for split in dict.fromkeys(args.splits):
            make_split(console, args.root.expanduser() / split, split, args.crowd_level, args.workers)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error


def make_split(console: Console, folder: Path, split: str, crowd_level: float, workers: int) -> None:
    """Make one split where it is missing, and print what it holds."""
    seed, count = SPLITS[split]
    start = time.perf_counter()
    note = "existed"
    if not folder.exists():
        columns = TextColumn(split), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(split, total=count)
            write_dataset(folder, seed, count, crowd_level, workers=workers, progress=lambda: bar.advance(task))
        note = f"made in {time.perf_counter() - start:.0f} s"
    found = crowd_statistics(folder)
    console.print(
        f"{split}: {found['images']} images, {found['objects']:.1f} objects, {found['pairs']:.2f} pairs with IoU > 0.5 "
        f"and {found['ignored']:.2f} ignore regions an image; {note}: {folder}",
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    main()
