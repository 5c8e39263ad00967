"""D-RISE beside the detector it asks, and beside xaitk-saliency's: masks a second at the same batch and size."""

import importlib.util
import time
from collections.abc import Callable, Iterator
from statistics import median

import torch
from skimage import data
from torch import Tensor, nn

from benchmarks.drise_rival import RIVAL, Rival, explain
from benchmarks.measure import Options, Table, run_module, synchronize
from odam_d2 import ODAMPredictor
from odam_d2.explain.masks.black_box import proposal_function
from odam_d2.explain.masks.drise import DRISE, find_class_vectors
from odam_d2.structures import Trace

DETECTORS = ("fcos_nanodet_g", "faster_rcnn_nanodet_g")
BATCHES = (1, 8)
# Enough that a measurement takes seconds; and of whole explanations, whose beginning and end count as well.
IMAGES, MASKS = 24, 64


def run(options: Options) -> Iterator[Table]:
    images, masks = options.size(IMAGES, 2), options.size(MASKS, 4)
    rows = [row for kind in DETECTORS for row in compare(kind, images, options)]
    yield Table(f"D-RISE against plain inference, {images} images or masks", rows, "the aim: 85 % or more")
    if importlib.util.find_spec(RIVAL) is None:
        print(f"no table beside xaitk-saliency, which is not installed: pip install {RIVAL.replace('_', '-')}")
        return
    rows = [row for kind in DETECTORS for row in beside_rival(kind, masks, options)]
    note = (
        "whole explanations; xaitk: DRISEStack, in a process that treats memory as Python does by itself; memory kept: "
        "in this one, by turns with D-RISE; the aim: 1.4 times xaitk or more"
    )
    yield Table(f"D-RISE beside xaitk-saliency's, {masks} masks", rows, note)


def compare(kind: str, images: int, options: Options) -> Iterator[dict]:
    predictor = ODAMPredictor(options.load_config(f"configs/demo/{kind}.yaml"))
    photo = data.astronaut()[:, :, ::-1].copy()
    _, trace = predictor.trace(photo, instances=lambda found: (found.scores > 0.1).nonzero()[:, 0])
    image = predictor.network_input(photo).to(predictor.model.device)
    detect, detect_amp = (proposal_function(predictor.model, amp=amp) for amp in (False, True))
    vectors = class_vectors(predictor.model, image, trace)
    for batch in BATCHES:
        drise = DRISE(masks=images, batch=batch)
        plain, masked, mixed = alternate(
            options.repeats,
            lambda batch=batch: infer(predictor.model, image, images, batch),
            lambda drise=drise: drise(detect, image, trace.clipped_boxes, vectors),
            lambda drise=drise: drise(detect_amp, image, trace.clipped_boxes, vectors),
        )
        yield {
            "detector": kind,
            "size": " x ".join(str(side) for side in image.shape[1:]),
            "batch": batch,
            "detections": len(trace),
            "images/s, plain": images / plain,
            "masks/s, D-RISE": images / masked,
            "%": 100 * plain / masked,
            "5000 masks, s": 5000 * masked / images,
            "masks/s, AMP": images / mixed,
        }


def beside_rival(kind: str, masks: int, options: Options) -> Iterator[dict]:
    repeats = min(options.repeats, 3)  # a measurement takes some ten seconds on a CPU
    for batch in BATCHES:
        alone = run_module("drise_rival", kind, batch, masks, repeats, options.device, device=options.device)
        rival = Rival(kind, batch, masks, options.device)
        ours, kept = alternate(repeats, lambda rival=rival: explain(rival), rival)
        yield {
            "detector": kind,
            "batch": batch,
            "detections": len(rival.boxes),
            "masks/s, D-RISE": masks / ours,
            "masks/s, xaitk": masks / alone["seconds"],
            "times": alone["seconds"] / ours,
            "masks/s, xaitk, memory kept": masks / kept,
            "times that": kept / ours,
        }


def alternate(repeats: int, *functions: Callable[[], object]) -> list[float]:
    """Median times of functions by turns, so that a machine that slows down does not favour one."""
    times: list[list[float]] = [[] for _ in functions]
    for number in range(repeats + 1):
        for function, own in zip(functions, times):
            synchronize()
            start = time.perf_counter()
            function()
            synchronize()
            if number:  # the first is not counted
                own.append(time.perf_counter() - start)
    return [median(own) for own in times]


def class_vectors(model: nn.Module, image: Tensor, trace: Trace) -> Tensor:
    (every,) = proposal_function(model, 10**4, 0.0, 1.0)(image[None])
    return find_class_vectors(every, trace.clipped_boxes, trace.classes)


@torch.no_grad()
def infer(model: nn.Module, image: Tensor, images: int, batch: int) -> None:
    for start in range(0, images, batch):
        model([{"image": image}] * min(batch, images - start))
