"""Largest size of a process that explains a photograph as the README does: ``explain``, ``save`` and ``show``."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from skimage import data

from benchmarks.measure import Options, Table, run_module

# Width and height: twelve megapixels.
SIZE, SMALL = (4000, 3000), (400, 300)
DETECTIONS, FEW_DETECTIONS = 100, 2


def run(options: Options) -> Iterator[Table]:
    width, height = options.size(SIZE, SMALL)
    with tempfile.TemporaryDirectory() as folder:
        photograph = Path(folder) / "photograph.jpg"
        Image.fromarray(data.astronaut()).resize((width, height)).save(photograph)
        count = options.size(DETECTIONS, FEW_DETECTIONS)
        rows = [run_module("six_lines", photograph, count, options.device, device=options.device)]
    note = "three targets; the largest resident size so far, in GB of 10^9 bytes; the aim: less than 2 GB"
    yield Table(f"Memory of the README's lines, a photograph of {width} x {height}", rows, note)
