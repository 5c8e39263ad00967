"""A detector asked about the same places again after its weights changed, and weights that lose what they learned.

Shapes: D detections.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.structures import Instances
from torch import nn

from odam_d2.modeling.explainable import Tracing

PREDICTORS, TOWER, PYRAMID = "predictors", "head tower", "FPN"


@contextmanager
def same_detections(model: Tracing) -> Iterator[None]:
    """The first trace inside the block detects; the later ones, of the same image, explain the same detections.

    Locations, regions, boxes, classes and scores stay those of the first trace, whatever the weights are by then;
    outputs, features and gradients are the model's own.
    """
    detect = model._detect
    found: list[Instances] = []

    def replay(*arguments: Any) -> list[Instances]:
        if not found:
            found.extend(detect(*arguments))
        # A trace takes fields away from what it gets.
        return [Instances(one.image_size, **one.get_fields()) for one in found]

    model._detect = replay
    try:
        yield
    finally:
        del model._detect


def layer_groups(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The layers behind an explained output, from the top down, in the order of a cascading randomisation.

    Args:
        model: ``ODAMFCOS``, ``ODAMRetinaNet`` or ``ODAMRCNN``.

    Returns:
        name -> parameters: the predictors, the head's towers, the FPN with its extra levels, the backbone's stages.
        Proposal generators, masks and embeddings do not act on the output of a given detection, and are left out.
    """
    groups: dict[str, list[nn.Parameter]] = {PREDICTORS: [], TOWER: [], PYRAMID: []}
    stages: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        part, _, rest = name.partition(".")
        if part == "backbone":
            inside = rest.removeprefix("bottom_up.").removeprefix("network.")
            below = rest.startswith("bottom_up.") or not hasattr(model.backbone, "bottom_up")
            (stages.setdefault(_stage(inside), []) if below else groups[PYRAMID]).append(parameter)
        elif part in ("head", "roi_heads") and not rest.startswith(("mask", "keypoint", "embedding")):
            tower = rest.startswith(("cls_subnet", "bbox_subnet", "box_head", "res5"))
            groups[TOWER if tower else PREDICTORS].append(parameter)
    groups |= dict(reversed(stages.items()))
    return {name: parameters for name, parameters in groups.items() if parameters}


def _stage(name: str) -> str:
    """``res4.0.conv1.weight`` -> ``res4``, ``blocks.3.1.conv.weight`` -> ``blocks.3``."""
    first, _, rest = name.partition(".")
    number = rest.partition(".")[0]
    return f"{first}.{number}" if number.isdigit() and first in ("blocks", "stages", "layers") else first


@contextmanager
def cascade(model: nn.Module, seed: int = 0) -> Iterator[Iterator[str]]:
    """Randomise the layers one group after the other, from the top down; in the end the weights are what they were.

    The values of every parameter are shuffled among themselves: what was learned goes, their distribution stays, so
    that activations keep a sensible size. Stored statistics of normalisations stay.

    Args:
        model: as in :func:`layer_groups`.
        seed: of the shuffling.

    Yields:
        an iterator; each step randomises one more group and gives its name.
    """
    groups = layer_groups(model)
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
