"""Work in a row whose ends wait for disks and files: they run in threads beside the middle."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import torch

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")
Worked = TypeVar("Worked")
Saved = TypeVar("Saved")

# At each end. NumPy, Pillow and zlib let go of Python's lock while they work.
THREADS = 2
# Items that wait on each side.
AHEAD = 4


def worth_overlapping(device: str) -> bool:
    """Whether threads beside a network find a processor that it leaves free: on a GPU, or with cores to spare.

    Where the network's own threads fill all cores, others in between cost it more than they do: on two cores a folder
    took 1.3 times as long with them.

    Args:
        device: the network's, ``cpu`` or another.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # not everywhere
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return device != "cpu" or cores > torch.get_num_threads()


def overlap(
    items: Iterable[Item],
    load: Callable[[Item], Loaded],
    work: Callable[[Item, Loaded], Worked],
    save: Callable[[Item, Worked], Saved],
    ahead: int = AHEAD,
) -> Iterator[tuple[Item, Saved | Exception]]:
    """Load, work and save item after item, the next ones loading and the last ones saving meanwhile.

    Args:
        items: taken one at a time.
        load: of an item, in a thread.
        work: of an item with what was loaded, in the caller's thread and in the order of the items.
        save: of an item with what came of the work, in a thread.
        ahead: at most so many items wait on each side: memory stays as it is, however slow one end may be. 0: no
            threads, everything in turn.

    Yields:
        Each item, in order, with what ``save`` returned, or the ``ValueError`` or ``OSError`` of one of the three.
    """
    if ahead == 0:
        yield from _in_turn(items, load, work, save)
        return
    rest = iter(items)
    loading: deque[tuple[Item, Future[Loaded]]] = deque()
    saving: deque[tuple[Item, Future[Saved]]] = deque()
    with ThreadPoolExecutor(THREADS) as loaders, ThreadPoolExecutor(THREADS) as savers:
        try:
            loading.extend((item, loaders.submit(load, item)) for item in islice(rest, ahead))
            while loading:
                item, loaded = loading.popleft()
                loading.extend((following, loaders.submit(load, following)) for following in islice(rest, 1))
                saving.append((item, _work_and_save(item, loaded, work, save, savers)))
                while len(saving) > ahead or (saving and saving[0][1].done()):
                    yield _outcome(*saving.popleft())
            while saving:
                yield _outcome(*saving.popleft())
        finally:
            # After an exception, such as Ctrl-C, nobody waits for what has not begun.
            for pool in (loaders, savers):
                pool.shutdown(wait=False, cancel_futures=True)


def _in_turn(
    items: Iterable[Item],
    load: Callable[[Item], Loaded],
    work: Callable[[Item, Loaded], Worked],
    save: Callable[[Item, Worked], Saved],
) -> Iterator[tuple[Item, Saved | Exception]]:
    for item in items:
        try:
            outcome = save(item, work(item, load(item)))
        except (ValueError, OSError) as error:
            outcome = error
        yield item, outcome


def _work_and_save(
    item: Item,
    loaded: "Future[Loaded]",
    work: Callable[[Item, Loaded], Worked],
    save: Callable[[Item, Worked], Saved],
    savers: ThreadPoolExecutor,
) -> "Future[Saved]":
    try:
        return savers.submit(save, item, work(item, loaded.result()))
    except (ValueError, OSError) as error:
        failed: Future[Saved] = Future()
        failed.set_exception(error)
        return failed


def _outcome(item: Item, saved: "Future[Saved]") -> tuple[Item, Saved | Exception]:
    try:
        return item, saved.result()
    except (ValueError, OSError) as error:
        return item, error
