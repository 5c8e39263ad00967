"""A folder of photographs: what a user waits for beside detection and maps, and a run that is killed and goes on."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Table
from odam_d2 import ODAMPredictor, load_config, read_image
from odam_d2.cli.explain import DEFAULT_TARGETS, explain_image, main
from odam_d2.data.catalog import datasets_folder

DETECTORS = ("fcos_lite0", "faster_rcnn_lite0")
# Of the run that is killed: copies of some photographs, at a size that lets the writing count. For the figure in the
# documentation: 5000.
COPIES, PHOTOGRAPHS, SMALL = 100, 20, 200
FOLDER = Path("coco_mini") / "val2017"


def run(repeats: int) -> Iterator[Table]:
    photographs = sorted((datasets_folder(None) / FOLDER).glob("*.jpg"))
    if not photographs:
        raise SystemExit(f"there is no folder {FOLDER} in $DETECTRON2_DATASETS")
    rows = [waited(kind, photographs) for kind in DETECTORS]
    yield Table(f"odam explain on {len(photographs)} photographs", rows, "once each; the aim: 1.25 times or less")
    title = f"{COPIES} copies of {PHOTOGRAPHS} photographs in two processes, killed in the middle"
    yield Table(title, [killed(photographs[:PHOTOGRAPHS])], "a row for all")


def waited(kind: str, photographs: list[Path]) -> dict:
    """The command's own time from its first image to the last file, beside a loop that detects and explains alone."""
    config = f"configs/demo/{kind}.yaml"
    predictor = ODAMPredictor(load_config(config))
    explainer, targets = predictor.make_explainer(), predictor.resolve_targets(DEFAULT_TARGETS)
    alone = 0.0
    for i, path in enumerate([photographs[0], *photographs]):
        image = read_image(path)
        start = time.perf_counter()
        explain_image(predictor, explainer, targets, path, image)
        if i:  # the first is not counted
            alone += time.perf_counter() - start
    seconds, inside, size = command(config, photographs)
    return {
        "detector": kind,
        "detection + maps alone, s": alone,
        "folder, s": seconds,
        "times": seconds / alone,
        # At the very same moments: what a machine that others use as well does to the first does not count here.
        "detection + maps in it, s": inside,
        "times those": seconds / inside,
        "s an image": seconds / len(photographs),
        "MB": size / 1e6,
    }


def command(config: str, photographs: list[Path]) -> tuple[float, float, int]:
    """Seconds that the command says, those of its detections and maps, and the bytes that it writes."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()) as said:
        code = main(["--config-file", config, "--output", folder, "--input", *map(str, photographs)])
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        lines = (Path(folder) / "results.jsonl").read_text().splitlines()
    assert code == 0, said.getvalue()
    inside = sum(entry["seconds_detection"] + entry["seconds_maps"] for entry in map(json.loads, lines))
    return float(re.search(r"then ([\d.]+) s for", said.getvalue())[1]), inside, size


def killed(photographs: list[Path]) -> dict:
    """A run of two processes that gets a SIGKILL in the middle, and the same again with ``--resume``."""
    with tempfile.TemporaryDirectory() as name:
        copies, out = Path(name) / "copies", Path(name) / "out"
        copies.mkdir()
        for i in range(COPIES):
            shutil.copyfile(photographs[i % len(photographs)], copies / f"{i:05d}.jpg")
        words = ["--config-file", "configs/demo/fcos_lite0.yaml", "--input", copies, "--output", out, "--num-gpus", "2"]
        words += ["--resume", "--opts", "INPUT.MIN_SIZE_TEST", SMALL]
        line = [sys.executable, "-m", "odam_d2.cli", "explain", *map(str, words)]
        start = time.perf_counter()
        first = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        while first.poll() is None and count_lines(out) < COPIES // 2:
            time.sleep(0.1)
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
        before = count_lines(out)
        subprocess.run(line, check=True, capture_output=True)
        seconds = time.perf_counter() - start
        entries = [json.loads(text) for text in (out / "results.jsonl").read_text().splitlines()]
        pages = [page.read_text() for page in (out / "pages").glob("*.html")]
        shown = [json.loads(text)["name"] for page in pages for text in re.findall(r'id="summary-\d+">(.*?)</', page)]
        files = {Path(entry["file"]).name for entry in entries}
        return {
            "photographs": COPIES,
            "done when killed": before,
            "lines": len(entries),
            "lost": COPIES - len(files & set(shown)),
            "twice": len(entries) - len(files) + len(shown) - len(set(shown)),
            "raw maps": len(list((out / "maps").iterdir())),
            "parts": len(pages),
            "largest part, MB": max(len(page) for page in pages) / 1e6,
            "index, MB": (out / "index.html").stat().st_size / 1e6,
            "s": seconds,
        }


def count_lines(out: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in out.glob("results*.jsonl"))
