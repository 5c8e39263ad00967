"""The README's lines, and how large their process was: python -m benchmarks.six_lines PHOTOGRAPH DETECTIONS DEVICE"""

import json
import re
import resource
import sys
import tempfile
import time
from pathlib import Path

import torch

from odam_d2 import ODAMPredictor, load_config, read_image

# Every candidate is a detection, so that there are a hundred in any photograph.
OPTS = ("MODEL.FCOS.SCORE_THRESH_TEST", 0.0, "TEST.DETECTIONS_PER_IMAGE", 100)


def largest_gb() -> float:
    """The largest resident size of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():
        # Linux's ru_maxrss begins with the size of the process that started this one.
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024 / 1e9
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest * (1 if sys.platform == "darwin" else 1024) / 1e9


def main(photograph: str, detections: str, device: str) -> None:
    """Print a row of the benchmark ``memory``."""
    sizes, start = {}, time.perf_counter()
    predictor = ODAMPredictor(load_config("demo/fcos_nanodet_g.yaml", [*OPTS, "MODEL.DEVICE", device]))
    image = read_image(photograph)
    sizes["after loading, GB"] = largest_gb()
    # Detections come in descending score.
    best = list(range(int(detections)))
    explanation = predictor.explain(image, ["class_score", "x2", "class_score[dog]"], best)
    sizes["after explain, GB"] = largest_gb()
    explanation.show()
    sizes["after show, GB"] = largest_gb()
    with tempfile.TemporaryDirectory() as folder:
        explanation.save(folder)
    sizes["after save, GB"] = largest_gb()
    row = {"detections": len(explanation), **sizes, "s": time.perf_counter() - start}
    if device == "cuda":
        row["GPU, GB"] = torch.cuda.max_memory_allocated() / 1e9
    print(json.dumps(row))


if __name__ == "__main__":
    main(*sys.argv[1:])
