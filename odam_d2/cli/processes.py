"""A command in several processes, on one machine or several, as Detectron2 launches them."""

import sys
from collections.abc import Callable
from typing import Any

from detectron2.engine import launch
from torch.multiprocessing import ProcessExitedException

# What one process does with its arguments; its exit code. A function of a module: processes find it by name.
Process = Callable[..., int]


def run_processes(
    process: Process, arguments: tuple[Any, ...], num_gpus: int = 1, num_machines: int = 1, **options: Any
) -> int:
    """Run a command in as many processes as asked for.

    Args:
        process: what each of them does.
        arguments: of it.
        num_gpus: processes of this machine.
        num_machines: machines.
        **options: of Detectron2's ``launch``.

    Returns:
        the exit code of the only process; of several 0, or that of one that failed.
    """
    if num_gpus * num_machines <= 1:
        return process(*arguments)
    try:
        launch(_run_and_exit, num_gpus, num_machines, args=(process, *arguments), **options)
    except ProcessExitedException as error:
        return error.exit_code
    return 0


def _run_and_exit(process: Process, *arguments: Any) -> None:
    """One process of several: its exit code is all that it can hand back."""
    if code := process(*arguments):
        sys.exit(code)
