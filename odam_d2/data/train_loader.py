"""Training batches that are a function of a seed and an iteration, so that a run which was stopped goes on exactly.

Detectron2's loader draws everything anew when a run is resumed: the order of the images and what augmentation does to
them. Here sample number i of a run is the same whoever loads it, whenever, in whatever process.
"""

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, build_batch_data_loader
from detectron2.data.build import _train_loader_from_config
from detectron2.utils import comm
from torch.utils.data import IterableDataset, get_worker_info

Mapper = Callable[[dict[str, Any]], dict[str, Any]]


class TrainLoader:
    """Detectron2's loader of training batches, for a run that begins at any iteration.

    Reads ``SOLVER.IMS_PER_BATCH`` and ``DATALOADER``; the sampler is Detectron2's own.

    Args:
        cfg: the experiment.
        dicts: Detectron2's dataset dicts.
        mapper: from a dict to a training sample; whatever it draws at random, it draws from the generators of
            ``random``, NumPy and PyTorch.

    Attributes:
        seed: of everything that is drawn; to be set before iterating.
        iteration: of the first batch; likewise.
    """

    def __init__(self, cfg: CfgNode, dicts: Sequence[dict[str, Any]], mapper: Mapper):
        self.cfg, self.dicts, self.mapper = cfg, dicts, mapper
        self.seed, self.iteration = 0, 0

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        options, total = self.cfg.DATALOADER, self.cfg.SOLVER.IMS_PER_BATCH
        grouping, batch = options.ASPECT_RATIO_GROUPING, total // comm.get_world_size()
        with seeded(self.seed):
            sampler = _train_loader_from_config(self.cfg, mapper=self.mapper, dataset=list(self.dicts))["sampler"]
        wide = [one["width"] > one["height"] for one in self.dicts] if grouping else None
        waiting, skipped = consumed(iter(sampler), self.iteration, batch, wide)
        # Grouped samples are loaded one by one, others by the batch: a worker then has whole batches.
        chunk = 1 if grouping else batch
        samples = _Samples(self.dicts, sampler, self.mapper, self.seed, waiting, skipped, chunk)
        options = {"aspect_ratio_grouping": grouping, "num_workers": options.NUM_WORKERS}
        # With a seed of its own the loader draws nothing from the generators of the training step.
        return iter(build_batch_data_loader(samples, None, total, seed=self.seed, **options))


def consumed(
    indices: Iterator[int], batches: int, size: int, wide: Sequence[bool] | None = None
) -> tuple[list[tuple[int, int]], int]:
    """What a loader has taken from a sampler when it has handed out some batches.

    Args:
        indices: of images, as this process's sampler gives them.
        batches: how many were handed out.
        size: images a batch.
        wide: whether each image is wider than high: batches are of one kind; None: batches are of any images.

    Returns:
        the samples that wait for others of their kind, (place in ``indices``, index) in order; and how many indices
        were taken.
    """
    if wide is None:
        return [], batches * size
    waiting: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
    taken = done = 0
    while done < batches:
        index = next(indices)
        group = waiting[bool(wide[index])]
        group.append((taken, index))
        taken += 1
        if len(group) == size:
            group.clear()
            done += 1
    return sorted(waiting[True] + waiting[False]), taken


class _Samples(IterableDataset):
    """Mapped samples without end; several workers take them by turns, ``chunk`` at a time."""

    def __init__(
        self,
        dicts: Sequence[dict[str, Any]],
        sampler: Any,
        mapper: Mapper,
        seed: int,
        waiting: Sequence[tuple[int, int]],
        skipped: int,
        chunk: int,
    ):
        # Serialised, as Detectron2 does it: processes share one copy.
        self.dicts = DatasetFromList(list(dicts), copy=False)
        self.sampler, self.mapper, self.seed = sampler, mapper, seed
        self.waiting, self.skipped, self.chunk = waiting, skipped, chunk
        # Asked now: a worker is in no process group.
        self.rank, self.world_size = comm.get_rank(), comm.get_world_size()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        mine, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        for place, (number, index) in enumerate(self._order()):
            if place // self.chunk % workers != mine:
                continue
            # A sample is the same whichever process of the run draws it.
            with seeded(self.seed, number * self.world_size + self.rank):
                sample = self.mapper(copy.deepcopy(self.dicts[index]))
            yield sample

    def _order(self) -> Iterator[tuple[int, int]]:
        yield from self.waiting
        yield from zip(count(self.skipped), islice(iter(self.sampler), self.skipped, None))


@contextmanager
def seeded(*seeds: int) -> Iterator[None]:
    """Inside the ``with`` block, random numbers of ``random``, NumPy and PyTorch (on the CPU) follow from seeds alone.

    Args:
        *seeds: non-negative, as many as there are reasons for numbers to differ.
    """
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    seed_generators(*seeds)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])


def seed_generators(*seeds: int) -> int:
    """Seed the generators of ``random``, NumPy and PyTorch (on the CPU).

    Args:
        *seeds: non-negative, as many as there are reasons for numbers to differ.

    Returns:
        a number that follows from them, for other generators.
    """
    first, second, third, fourth = (int(word) for word in np.random.SeedSequence(seeds).generate_state(4))
    random.seed(first)
    np.random.seed(second)
    torch.default_generator.manual_seed(third)
    return fourth
