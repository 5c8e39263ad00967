"""What every benchmark needs: medians, peak memory, the machine, tables."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TypeVar

import torch
from rich.console import Console
from rich.table import Table as RichTable
from torch.profiler import ProfilerActivity, profile

T = TypeVar("T")


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


def describe_machine() -> dict:
    cpuinfo = Path("/proc/cpuinfo")
    models = [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


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


def peak_mib(function: Callable[[], object]) -> float:
    """MiB of tensors that a call has alive at its peak, beyond those from before: what the allocator handed out."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        function()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    used = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(accumulate(used), default=0) / 2**20
