"""D-RISE beside the detector it asks: masks a second against images a second, at the same batch and size."""

import time
from collections.abc import Iterator
from statistics import median

import torch
from skimage import data
from torch import Tensor, nn

from benchmarks.measure import Table, synchronize
from odam_d2 import ODAMPredictor, load_config
from odam_d2.explain.masks.black_box import proposal_function
from odam_d2.explain.masks.drise import DRISE, find_class_vectors
from odam_d2.structures import Trace

DETECTORS = ("fcos_lite0", "faster_rcnn_lite0")
BATCHES = (1, 8)
# Enough that a measurement takes seconds.
IMAGES = 24


def run(repeats: int) -> Iterator[Table]:
    rows = [row for kind in DETECTORS for row in compare(kind, repeats)]
    yield Table(f"D-RISE against plain inference, {IMAGES} images or masks", rows, "the aim: 85 % or more")


def compare(kind: str, repeats: int) -> Iterator[dict]:
    predictor = ODAMPredictor(load_config(f"configs/demo/{kind}.yaml"))
    photo = data.astronaut()[:, :, ::-1].copy()
    _, trace = predictor.trace(photo, instances=lambda found: (found.scores > 0.1).nonzero()[:, 0])
    image = predictor.network_input(photo).to(predictor.model.device)
    detect = proposal_function(predictor.model)
    vectors = class_vectors(predictor.model, image, trace)
    for batch in BATCHES:
        drise = DRISE(masks=IMAGES, batch=batch)
        plain, masked = alternate(
            lambda batch=batch: infer(predictor.model, image, batch),
            lambda drise=drise: drise(detect, image, trace.clipped_boxes, vectors),
            repeats,
        )
        yield {
            "detector": kind,
            "size": " x ".join(str(side) for side in image.shape[1:]),
            "batch": batch,
            "detections": len(trace),
            "images/s, plain": IMAGES / plain,
            "masks/s, D-RISE": IMAGES / masked,
            "%": 100 * plain / masked,
            "5000 masks, s": 5000 * masked / IMAGES,
        }


def alternate(first, second, repeats: int) -> tuple[float, float]:
    """Median times of two functions by turns, so that a machine that slows down does not favour one."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(repeats + 1):
        for function, own in zip((first, second), times):
            start = time.perf_counter()
            function()
            synchronize()
            if number:  # the first is not counted
                own.append(time.perf_counter() - start)
    return median(times[0]), median(times[1])


def class_vectors(model: nn.Module, image: Tensor, trace: Trace) -> Tensor:
    (every,) = proposal_function(model, 10**4, 0.0, 1.0)(image[None])
    return find_class_vectors(every, trace.clipped_boxes, trace.classes)


@torch.no_grad()
def infer(model: nn.Module, image: Tensor, batch: int) -> None:
    for start in range(0, IMAGES, batch):
        model([{"image": image}] * min(batch, IMAGES - start))
