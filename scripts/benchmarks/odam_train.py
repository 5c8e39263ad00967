"""What ODAM-Train adds to a training step, in time and memory: maps to the first and to the second order."""

from collections.abc import Callable, Iterator
from statistics import median

import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from benchmarks.measure import Options, Table, peak_mib, timed
from benchmarks.random_detectors import random_detector
from odam_d2.explain import GradientExplainer
from odam_d2.modeling.odam_train import ODAMTrain

SIZE, SMALL = (800, 1216), (128, 160)
# Objects an image of COCO and of CrowdHuman has.
OBJECTS = {"COCO's": 7, "CrowdHuman's": 22}
BATCH = 2
ORDERS = {"without": None, "first order": False, "second order": True}


def run(options: Options) -> Iterator[Table]:
    size = options.size(SIZE, SMALL)
    counts = options.size(OBJECTS, {"few": 2})
    cases = [(kind, what, count) for kind in ("fcos", "rcnn") for what, count in counts.items()]
    rows = [row for case in cases for row in steps(*case, size, options)]
    note = "forward, backward and nothing else; random R-50-FPN, one class; the aim: 35 % more time or less"
    yield Table(f"A training step of {BATCH} images of {size[0]} x {size[1]} with ODAM-Train", rows, note)


def steps(kind: str, what: str, count: int, size: tuple[int, int], options: Options) -> Iterator[dict]:
    """A row for each order; measured by turns, so that what else the machine does hits all of them."""
    model = random_detector(kind, options).train()
    holder = getattr(model, "roi_heads", model)
    inputs = batch(count, size)
    ways = {name: way(second_order, holder) for name, second_order in ORDERS.items()}
    times: dict[str, list[float]] = {name: [] for name in ways}
    memory: dict[str, float] = {}
    for number in range(options.repeats + 1):
        for name, train in ways.items():
            holder.odam_train = train
            if number == 0:
                # Gradients are part of what a step needs.
                model.zero_grad(set_to_none=True)
                memory[name] = peak_mib(step(model, inputs), options.device)
            else:
                times[name].append(timed(step(model, inputs))[0])
    plain = median(times["without"])
    for name in ways:
        yield {
            "detector": {"fcos": "FCOS", "rcnn": "Faster R-CNN"}[kind],
            "objects": f"{count} ({what})",
            "ODAM-Train": name,
            "s": median(times[name]),
            "more time, %": 100 * (median(times[name]) / plain - 1),
            "MiB": memory[name],
            "more memory, %": 100 * (memory[name] / memory["without"] - 1),
        }


def way(second_order: bool | None, holder: nn.Module) -> ODAMTrain | None:
    if second_order is None:
        return None
    return ODAMTrain(GradientExplainer(layer=holder.batched_layer, path="batched"), second_order=second_order)


def step(model: nn.Module, inputs: list[dict]) -> Callable[[], None]:
    def run_step() -> None:
        torch.manual_seed(0)
        model.zero_grad(set_to_none=True)
        with EventStorage():
            sum(model(inputs).values()).backward()

    return run_step


def batch(count: int, size: tuple[int, int]) -> list[dict]:
    """Images of noise with people-shaped objects of several sizes, in places that follow from a seed."""
    generator = torch.Generator().manual_seed(2)
    inputs = []
    for number in range(BATCH):
        height = size[0] * (0.1 + 0.5 * torch.rand(count, generator=generator))
        width = 0.4 * height
        left = torch.rand(count, generator=generator) * (size[1] - width)
        top = torch.rand(count, generator=generator) * (size[0] - height)
        objects = Instances(size)
        objects.gt_boxes = Boxes(torch.stack([left, top, left + width, top + height], dim=1))
        objects.gt_classes = torch.zeros(count, dtype=torch.int64)
        image = torch.rand(3, *size, generator=generator) * 255
        inputs.append({"image": image, "instances": objects, "image_id": number, "height": size[0], "width": size[1]})
    return inputs
