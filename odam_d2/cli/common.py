"""What all commands share on the terminal: one progress bar, one form of errors, one end.

A command is imported only when it runs, and this module brings neither PyTorch nor Detectron2 along.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from odam_d2.cli.memory import keep_memory

# Exit code where the work could not be done. Wrong words on the command line are 2, as argparse has it.
FAILED = 1
# Exit code of a program stopped by Ctrl-C.
INTERRUPTED = 130
# Characters in a line of a table, at most.
WIDEST = 1000
Result = TypeVar("Result")


def run_command(work: Callable[[], int], interrupted: str = "", shown: bool = True) -> int:
    """Run a command, and end as all commands end where it cannot be done or is stopped.

    Args:
        work: parses the command line, does what it says, and returns the exit code.
        interrupted: what Ctrl-C leaves behind.
        shown: whether this process speaks; of several, one does.

    Returns:
        the exit code: that of ``work``, :data:`FAILED` after an error that its message explains, or
        :data:`INTERRUPTED`.
    """
    try:
        return work()
    except (ValueError, OSError, FloatingPointError) as error:
        if shown:
            print_error(error)
        return FAILED
    except KeyboardInterrupt:
        if shown:
            print_interrupted(interrupted)
        return INTERRUPTED


def print_error(error: Exception | str) -> None:
    """Print why nothing more can be done: one red line on stderr.

    Args:
        error: a message that names the value and the remedy, or an exception with one.
    """
    _print_line(Console(stderr=True), f"error: {error}", "red")


def print_interrupted(left: str = "") -> None:
    """Print that Ctrl-C was the end: one line on stderr.

    Args:
        left: what it leaves behind, or how to go on.
    """
    _print_line(Console(stderr=True), f"interrupted: {left}" if left else "interrupted")


def print_left_out(console: Console, error: Exception) -> None:
    """Print why something was left out while the rest goes on: one yellow line on stderr.

    Args:
        console: of the progress bar, so that the line does not tear it.
        error: an exception whose message names what was left out.
    """
    _print_line(console, f"left out: {error}", "yellow")


def _print_line(console: Console, text: str, style: str | None = None) -> None:
    # Messages hold file names, in which brackets are no markup.
    line = " ".join(text.splitlines())
    console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def progress_bar(shown: bool = True) -> Progress:
    """A bar on stderr with what is done, how much of how much, and how long the rest may take.

    Args:
        shown: False for processes that keep silent. Without a terminal there is never a bar.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not (shown and console.is_terminal))


def task_within(progress: Progress) -> Callable[[str, int, int], None]:
    """A second bar for what takes long within one step of the first: shown once something is told.

    Args:
        progress: of :func:`progress_bar`, whose other bars are there already.

    Returns:
        to be told what is counted, how many are done, and how many there are.
    """
    within = progress.add_task("", total=None, visible=False)

    def tell(what: str, done: int, total: int) -> None:
        progress.update(within, description=what, completed=done, total=total, visible=True)

    return tell


def each_image(
    paths: Iterable[Path], description: str, work: Callable[[Path], Result]
) -> Iterator[tuple[Path, Result]]:
    """Do something with every image under a progress bar; one that cannot be done is left out, and said.

    Args:
        paths: of the images.
        description: beside the bar.
        work: raises ``ValueError`` or ``OSError`` for an image that is to be left out.

    Yields:
        each image that could be done, with what ``work`` returned.
    """
    with progress_bar() as progress:
        for path in progress.track(list(paths), description=description):
            try:
                result = work(path)
            except (ValueError, OSError) as error:
                named = str(path) in str(error)
                print_left_out(progress.console, error if named else ValueError(f"{path}: {error}"))
                continue
            yield path, result


def prepare_for_network() -> None:
    """What every process of a command that runs a detector does first: no foreign talk, and memory that is kept."""
    quiet_detectron2()
    keep_memory()


def make_table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table of names and numbers in which no word is broken.

    Args:
        title: above it.
        headings: of the columns; line breaks keep them narrow. The first column holds names.
        rows: a cell a column.
    """
    # A column apart is enough, as numbers end where their heading ends: ten metrics fit into 80 columns.
    table = Table(title=title, box=SIMPLE_HEAD, padding=0, show_edge=False, title_justify="left")
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left", no_wrap=True, vertical="bottom")
    for cells in rows:
        table.add_row(*cells)
    return table


def print_table(table: Table) -> None:
    """Print a table on stdout as wide as it is: a terminal may wrap its lines, a file keeps them whole.

    Args:
        table: of :func:`make_table`.
    """
    console = Console()
    console.width = max(console.width, console.measure(table, options=console.options.update(width=WIDEST)).maximum)
    console.print(table, highlight=False)


def quiet_detectron2() -> None:
    """Let Detectron2 and fvcore print warnings alone: what they tell about every model hides what a command says."""
    # Imported here, because it brings PyTorch, for which commands without a detector need not wait.
    from detectron2.utils.logger import setup_logger

    for name in ("fvcore", "detectron2"):
        setup_logger(name=name).setLevel("WARNING")
