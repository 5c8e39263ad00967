"""A folder of photographs: what a user waits for, beside the detection and the maps of the same photographs.

Both begin cold, in a process of its own: the first images cost far more than later ones, and a user waits for them too.
All files have been read once before, so neither waits for the disk.
"""

import json
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Options, Table, run_module, run_process
from odam_d2.data.catalog import datasets_folder

DETECTORS = ("fcos_nanodet_g", "faster_rcnn_nanodet_g")
FOLDER = Path("coco_mini") / "val2017"


def find_photographs(most: int | None = None) -> list[Path]:
    """Those of coco_mini's validation set, or the first of them."""
    folder = datasets_folder() / FOLDER
    photographs = sorted(folder.glob("*.jpg"))
    if not photographs:
        raise FileNotFoundError(
            f"there are no photographs in {folder}; DETECTRON2_DATASETS names the folder of coco_mini"
        )
    return photographs[:most]


def run(options: Options) -> Iterator[Table]:
    photographs = find_photographs(options.size(None, 4))
    for photograph in photographs:
        photograph.read_bytes()
    count = len(photographs)
    rows, commands = zip(*(waited(kind, photographs, options.device) for kind in DETECTORS))
    note = "six targets; once each, from the first image to the last file; the aim: 1.25 times or less"
    yield Table(f"odam explain on {count} photographs", list(rows), note)
    yield Table(
        f"Wall time of odam explain on {count} photographs", list(commands), "start: Python, libraries, weights"
    )


def waited(kind: str, photographs: list[Path], device: str) -> tuple[dict, dict]:
    """The command's own time from its first image to the last file, beside a loop that detects and explains alone.

    Also the parts of the command's whole time.
    """
    config = f"configs/demo/{kind}.yaml"
    alone = sum(run_module("alone", config, device, *photographs, device=device)["seconds"])
    whole, folder, inside, size = command(config, photographs, device)
    row = {
        "detector": kind,
        "detection + maps alone, s": alone,
        "folder, s": folder,
        "times": folder / alone,
        # At the very same moments: what a machine that others use as well does to the first does not count here.
        "detection + maps in it, s": inside,
        "times those": folder / inside,
        "s an image": folder / len(photographs),
        "MB": size / 1e6,
    }
    return row, {"detector": kind, "start, s": whole - folder, "images, s": folder, "the whole command, s": whole}


def command(config: str, photographs: list[Path], device: str) -> tuple[float, float, float, int]:
    """Seconds of the whole command, those that it says, those of its detections and maps, and bytes that it writes."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["--config-file", config, "--output", folder, "--input", *photographs, "--opts", "MODEL.DEVICE", device]
        start = time.perf_counter()
        said = run_process("-m", "odam_d2.cli", "explain", *words, device=device)
        whole = time.perf_counter() - start
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        lines = (Path(folder) / "results.jsonl").read_text().splitlines()
    inside = sum(entry["seconds_detection"] + entry["seconds_maps"] for entry in map(json.loads, lines))
    return whole, float(re.search(r"then ([\d.]+) s for", said)[1]), inside, size
