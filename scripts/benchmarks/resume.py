"""A run over thousands of photographs that is killed in the middle and goes on: nothing lost, nothing twice."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmarks.folder import find_photographs
from benchmarks.measure import Options, Table, own_environment, run_process

# Copies of some photographs, at a size that lets the writing count.
COPIES, FEW_COPIES, PHOTOGRAPHS, SMALL = 5000, 100, 20, 200
PROCESSES = {1: "one process", 2: "two processes"}


def run(options: Options) -> Iterator[Table]:
    photographs, copies = find_photographs(PHOTOGRAPHS), options.size(COPIES, FEW_COPIES)
    # Detectron2 gives every process a GPU of its own.
    processes = min(2, torch.cuda.device_count()) if options.device == "cuda" else 2
    title = f"{copies} copies of {len(photographs)} photographs in {PROCESSES[processes]}, killed in the middle"
    yield Table(title, [killed(photographs, copies, processes, options.device)], "a row for all")


def killed(photographs: list[Path], copies: int, processes: int, device: str) -> dict:
    """A run that gets a SIGKILL in the middle, and the same again with ``--resume``."""
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name) / "copies", Path(name) / "out"
        folder.mkdir()
        for i in range(copies):
            shutil.copyfile(photographs[i % len(photographs)], folder / f"{i:05d}.jpg")
        words = ["-m", "odam_d2.cli", "explain", "--config-file", "configs/demo/fcos_nanodet_g.yaml", "--input", folder]
        words += ["--output", out, "--num-gpus", processes, "--resume"]
        words += ["--opts", "INPUT.MIN_SIZE_TEST", SMALL, "MODEL.DEVICE", device]
        start = time.perf_counter()
        kill_in_the_middle(words, out, copies // 2, device)
        before = count_lines(out)
        run_process(*words, device=device)
        return {
            "photographs": copies,
            "done when killed": before,
            **results(out, copies),
            "s": time.perf_counter() - start,
        }


def kill_in_the_middle(words: Sequence[object], out: Path, middle: int, device: str) -> None:
    with tempfile.TemporaryFile() as said:
        first = subprocess.Popen(
            [sys.executable, *map(str, words)],
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,
            env=own_environment(device),
        )
        try:
            while count_lines(out) < middle:
                if first.poll() is not None:
                    said.seek(0)
                    raise RuntimeError(f"the run ended before its middle: {said.read().decode()[-2000:]}")
                time.sleep(0.1)
        finally:
            # Its processes are a session; after an end of its own there is none.
            if first.poll() is None:
                os.killpg(first.pid, signal.SIGKILL)
            first.wait()


def results(out: Path, copies: int) -> dict:
    """What there is in the end, and what is missing or there twice, on the lines and on the pages."""
    entries = [json.loads(text) for text in (out / "results.jsonl").read_text().splitlines()]
    pages = [page.read_text() for page in (out / "pages").glob("*.html")]
    shown = [json.loads(text)["name"] for page in pages for text in re.findall(r'id="summary-\d+">(.*?)</', page)]
    files = {Path(entry["file"]).name for entry in entries}
    return {
        "lines": len(entries),
        "lost": copies - len(files & set(shown)),
        "twice": len(entries) - len(files) + len(shown) - len(set(shown)),
        "raw maps": len(list((out / "maps").iterdir())),
        "parts": len(pages),
        "largest part, MB": max(len(page) for page in pages) / 1e6,
        "index, MB": (out / "index.html").stat().st_size / 1e6,
    }


def count_lines(out: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in out.glob("results*.jsonl"))
