"""What distillation adds to a training step, in time and memory: alone, with FGD, and with ODAM-KD."""

from collections.abc import Iterator
from statistics import median

import torch
from detectron2.modeling import build_model
from torch import nn

from benchmarks.measure import Options, Table, peak_mib, timed
from benchmarks.odam_train import BATCH, OBJECTS, SIZE, SMALL, batch, step
from benchmarks.random_detectors import random_detector
from odam_d2.teaching import DistillingDetector, Teacher, check_fit, distiller_from_config

NAMES = {"retinanet": "RetinaNet", "fcos": "FCOS", "rcnn": "Faster R-CNN"}
FILES = {
    "retinanet": "explain/retinanet_R_101_FPN_3x.yaml",
    "fcos": "odam_kd/fcos_R_101_FPN_3x.yaml",
    "rcnn": "explain/faster_rcnn_R_101_FPN_3x.yaml",
}
CLASSES = [
    *("MODEL.FCOS.NUM_CLASSES", 1),
    *("MODEL.RETINANET.NUM_CLASSES", 1),
    *("MODEL.ROI_HEADS.NUM_CLASSES", 1),
]
WAYS = ("alone", "fgd", "odam_kd")


def run(options: Options) -> Iterator[Table]:
    size = options.size(SIZE, SMALL)
    count = options.size(OBJECTS["COCO's"], 2)
    kinds = options.size(tuple(NAMES), ("fcos",))
    rows = [row for kind in kinds for row in steps(kind, count, size, options)]
    note = (
        f"forward, backward and nothing else; random R-101-FPN teaches R-50-FPN, one class, {count} objects an image, "
        "each with key predictions; the aim: at most 1.5 times FGD's step"
    )
    yield Table(f"A training step of {BATCH} images of {size[0]} x {size[1]} with distillation", rows, note)


def steps(kind: str, count: int, size: tuple[int, int], options: Options) -> Iterator[dict]:
    """A row for each way; measured by turns, so that what else the machine does hits all of them."""
    models = dict(zip(WAYS, make_ways(kind, options)))
    inputs = batch(count, size)
    times: dict[str, list[float]] = {name: [] for name in models}
    memory: dict[str, float] = {}
    for number in range(options.repeats + 1):
        for name, model in models.items():
            if number == 0:
                # Gradients are part of what a step needs.
                for other in models.values():
                    other.zero_grad(set_to_none=True)
                memory[name] = peak_mib(step(model, inputs), options.device)
            else:
                times[name].append(timed(step(model, inputs))[0])
    for name in models:
        yield {
            "detector": NAMES[kind],
            "distiller": name,
            "s": median(times[name]),
            "times alone": median(times[name]) / median(times["alone"]),
            "times FGD": median(times[name]) / median(times["fgd"]),
            "MiB": memory[name],
            "more memory than FGD, %": 100 * (memory[name] / memory["fgd"] - 1),
        }


def make_ways(kind: str, options: Options) -> Iterator[nn.Module]:
    """The student alone, then the same student with each distiller."""
    student = with_keys(random_detector(kind, options)).train()
    yield student
    cfg = options.load_config(FILES[kind], ["MODEL.WEIGHTS", "", *CLASSES])
    detector = with_keys(build_model(cfg)).eval().requires_grad_(False)
    # As those of the random student, whose norms are not trained.
    detector.pixel_std *= 3000
    teacher = Teacher(detector, cfg)
    for name in WAYS[1:]:
        cfg = options.load_config(FILES[kind], ["MODEL.WEIGHTS", "", *CLASSES, "ODAM.KD.DISTILLER", name])
        own, theirs = check_fit(student, detector, ("focus",))
        distiller = distiller_from_config(cfg, student, own, theirs.channels).to(options.device)
        yield DistillingDetector(student, teacher, distiller, own).train()


def with_keys(model: nn.Module) -> nn.Module:
    """Sure of itself, so that whatever is assigned to an object and misses its box is a key prediction."""
    predictor = model.roi_heads.box_predictor if hasattr(model, "roi_heads") else model.head
    with torch.no_grad():
        predictor.cls_score.bias.zero_()
    return model
