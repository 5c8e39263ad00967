"""Weights that lose what they learned, layer after layer, and get it back."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from odam_d2.modeling.explainable import ExplainableDetector


@contextmanager
def cascade(detector: ExplainableDetector, seed: int = 0) -> Iterator[Iterator[str]]:
    """Randomise the layers one group after the other, from the top down; in the end the weights are what they were.

    The values of every parameter are shuffled among themselves: what was learned goes, their distribution stays, so
    that activations keep a sensible size. Stored statistics of normalisations stay.

    Args:
        detector: its :meth:`layer_groups` say what is randomised together.
        seed: of the shuffling.

    Yields:
        an iterator; each step randomises one more group and gives its name.
    """
    groups = detector.layer_groups()
    learned = {name: [p.detach().clone() for p in parameters] for name, parameters in groups.items()}

    def steps() -> Iterator[str]:
        generator = torch.Generator().manual_seed(seed)
        for name, parameters in groups.items():
            for parameter in parameters:
                _shuffle(parameter, generator)
            yield name

    try:
        yield steps()
    finally:
        for name, parameters in groups.items():
            _fill(parameters, learned[name])


@torch.no_grad()
def _shuffle(parameter: nn.Parameter, generator: torch.Generator) -> None:
    order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
    # On contiguous values, whatever the memory format, so that a seed means the same everywhere.
    parameter.copy_(parameter.flatten()[order].view(parameter.shape))


@torch.no_grad()
def _fill(parameters: Sequence[nn.Parameter], values: Sequence[torch.Tensor]) -> None:
    for parameter, value in zip(parameters, values):
        parameter.copy_(value)
