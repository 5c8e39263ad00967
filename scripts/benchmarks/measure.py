"""What every benchmark needs: options, medians, peak memory, the machine, tables, processes of their own."""

import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TypeVar

import torch
from detectron2.config import CfgNode
from rich.console import Console
from rich.table import Table as RichTable
from torch.profiler import ProfilerActivity, profile

from odam_d2 import load_config

T = TypeVar("T")
SCRIPTS = Path(__file__).parent.parent


@dataclass(frozen=True)
class Options:
    """What to measure on.

    Args:
        device: ``cpu`` or ``cuda``.
        repeats: measurements, of which the median counts.
        quick: small sizes, to see that everything runs.
    """

    device: str
    repeats: int
    quick: bool

    def size(self, full: T, quick: T) -> T:
        return quick if self.quick else full

    def load_config(self, file: str, opts: Sequence[object] = ()) -> CfgNode:
        return load_config(file, [*opts, "MODEL.DEVICE", self.device])


@dataclass
class Table:
    """Rows of results, each column name -> value."""

    title: str
    rows: list[dict]
    note: str = ""

    def show(self, console: Console) -> None:
        shown = RichTable(title=self.title, caption=self.note or None, title_justify="left", caption_justify="left")
        for i, name in enumerate(self.rows[0]):
            shown.add_column(name, justify="left" if i == 0 else "right", overflow="fold")
        for row in self.rows:
            shown.add_row(*(format_value(value) for value in row.values()))
        console.print(shown)


def format_value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2e}" if 0 < abs(value) < 1e-3 else f"{value:.5f}" if 0.9 < value < 1 else f"{value:.4g}"
    return str(value)


def describe_machine(device: str) -> dict:
    cpuinfo = Path("/proc/cpuinfo")
    models = [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
    gpu = torch.cuda.get_device_name() if device == "cuda" else "not used"
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def synchronize() -> None:
    """Wait for the GPU, where this process has begun to use one."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


@contextmanager
def without_tf32() -> Iterator[None]:
    """Convolutions of a GPU in full float32: how exact maps are would drown in TF32's ten bits."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def timed(function: Callable[[], T]) -> tuple[float, T]:
    """Seconds that a call takes, and what it returns."""
    synchronize()
    start = time.perf_counter()
    result = function()
    synchronize()
    return time.perf_counter() - start, result


def seconds(function: Callable[[], object], repeats: int) -> float:
    """Median time of a call, after one that is not counted."""
    function()
    return statistics.median(timed(function)[0] for _ in range(repeats))


def peak_mib(function: Callable[[], object], device: str) -> float:
    """MiB of tensors that a call has alive at its peak, beyond those from before: what the allocator handed out."""
    if device == "cuda":
        synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        function()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    used = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(accumulate(used), default=0) / 2**20


def run_process(*words: object, device: str, name: str | None = None) -> str:
    """What a Python program prints, run in a process that no signal which ends this one leaves behind.

    Args:
        words: of the command line, without Python.
        device: that is measured; only then the program sees a GPU.
        name: of the process where it fails; by default the first words.

    Raises:
        RuntimeError: it failed; says why.
    """
    process, environment = None, own_environment(device)
    try:
        # subprocess forgets a child during whose start an exception is raised.
        with held_back(signal.SIGTERM):
            process = subprocess.Popen(
                [sys.executable, *map(str, words)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
            )
        output, errors = process.communicate()
    except BaseException:
        if process is not None:
            process.kill()
            process.wait()
        raise
    if process.returncode:
        name = name or " ".join(map(str, words[:3]))
        raise RuntimeError(f"{name} ended with {process.returncode}: {errors[-2000:]}")
    return output


def own_environment(device: str) -> dict[str, str]:
    paths = [str(SCRIPTS), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **hidden}


@contextmanager
def held_back(number: int) -> Iterator[None]:
    """Heed a signal that comes meanwhile at the end. For the main thread."""
    came: list[int] = []
    before = signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(number, before)
        if came:
            signal.raise_signal(number)


def run_module(name: str, *words: object, device: str) -> dict:
    """The JSON that a module of this folder prints last, run in a process of its own."""
    return json.loads(run_process("-m", f"benchmarks.{name}", *words, device=device).splitlines()[-1])
