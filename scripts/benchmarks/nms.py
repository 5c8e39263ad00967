"""The NMS family: speed of the functions on made candidates of a crowd and inside detectors, and what ODAM-NMS keeps.

Candidates stand around people as a detector's do before NMS: forty a person for the smaller set, their boxes 8 % of a
person's size apart, their maps on the person on a dense grid of 50 x 75 cells.
"""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms, box_iou

from benchmarks.kept_sets import kept_sets
from benchmarks.measure import Options, Table, seconds, timed, without_tf32
from benchmarks.random_detectors import random_detector
from odam_d2.explain import ExplainSettings
from odam_d2.modeling import ExplainableDetector
from odam_d2.nms import ODAMNMS, GreedyNMS
from odam_d2.nms.functions import feature_nms, odam_nms, soft_nms, unit_maps

GRID, CELL, PEOPLE = (50, 75), 16, 25
# Table 12's thresholds without ODAM-Train.
IOU, HIGH, LOW = 0.5, 0.9, 0.1
SIZE, SMALL = (800, 1400), (160, 256)


def run(options: Options) -> Iterator[Table]:
    for count in options.size((1000, 2000), (60, 120)):
        note = "per candidate: all kept ones at once; per pair: one after the other until a duplicate is found"
        yield Table(f"{count} candidates, {PEOPLE} people", list(functions(count, options)), note)
    height, width = options.size(SIZE, SMALL)
    note = f"random R-50-FPN detectors of one class, one image of {height} x {width}"
    yield Table("ODAM-NMS inside detectors", [row for kind in ("fcos", "rcnn") for row in inside(kind, options)], note)
    with without_tf32():
        table = kept_sets(options)
    yield table


def crowd(count: int, device: str, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes (D,4), scores, classes and maps (D,50,75) of candidates around people."""
    generator = torch.Generator().manual_seed(seed)
    height, width = GRID
    centre = torch.rand(PEOPLE, 2, generator=generator) * torch.tensor([width - 10.0, height - 10.0]) + 5
    size = torch.rand(PEOPLE, generator=generator) * 10 + 6
    person = torch.randint(PEOPLE, (count,), generator=generator)
    x, y = (centre[person] + torch.randn(count, 2, generator=generator) * size[person, None] * 0.08).unbind(1)
    tall = size[person] * (1 + 0.1 * torch.randn(count, generator=generator))
    wide = 0.45 * tall
    boxes = torch.stack([x - wide / 2, y - tall / 2, x + wide / 2, y + tall / 2], dim=1) * CELL
    scores = torch.rand(count, generator=generator)
    rows = torch.arange(height)[None, :, None] + 0.5 - y[:, None, None]
    columns = torch.arange(width)[None, None, :] + 0.5 - x[:, None, None]
    distance = (columns / (0.4 * wide[:, None, None])) ** 2 + (rows / (0.4 * tall[:, None, None])) ** 2
    maps = torch.exp(-distance) * (distance < 9) * (0.5 + torch.rand(count, *GRID, generator=generator))
    classes = torch.zeros(count, dtype=torch.int64)
    return boxes.to(device), scores.to(device), classes.to(device), maps.to(device)


def functions(count: int, options: Options) -> Iterator[dict]:
    boxes, scores, classes, maps = crowd(count, options.device)
    parts = boxes, scores, classes
    embeddings = torch.randn(count, 32, device=boxes.device)
    odam = partial(odam_nms, *parts, maps, IOU, HIGH, LOW)
    rivals = {
        "Algorithm 1 per candidate": partial(algorithm_1, boxes, scores, maps, kept_at_once),
        "Algorithm 1 per pair": partial(algorithm_1, boxes, scores, maps, pair_by_pair),
    }
    kept = odam().tolist()
    for name, rival in rivals.items():
        if rival() != kept:
            raise RuntimeError(f"{name} keeps other candidates than odam_nms")
    calls: dict[str, Callable[[], object]] = {
        "torchvision's NMS": partial(batched_nms, *parts, IOU),
        "ODAM-NMS": odam,
        "Soft-NMS": partial(soft_nms, *parts),
        "FeatureNMS": partial(feature_nms, *parts, embeddings),
        **rivals,
    }
    times = {name: seconds(call, 1 if name in rivals else options.repeats) for name, call in calls.items()}
    for name, time in times.items():
        yield {"what": name, "ms": 1e3 * time, "this / ODAM-NMS": time / times["ODAM-NMS"], "ODAM-NMS keeps": len(kept)}


Compare = Callable[[Tensor, Tensor, int, list[int]], bool]


def algorithm_1(boxes: Tensor, scores: Tensor, maps: Tensor, is_duplicate: Compare) -> list[int]:
    """The paper's pseudo-code."""
    flat, kept = unit_maps(maps), []
    for candidate in scores.argsort(descending=True).tolist():
        if not kept or not is_duplicate(boxes, flat, candidate, kept):
            kept.append(candidate)
    return kept


def kept_at_once(boxes: Tensor, flat: Tensor, candidate: int, kept: list[int]) -> bool:
    iou, corr = box_iou(boxes[[candidate]], boxes[kept])[0], flat[kept] @ flat[candidate]
    return bool((((iou >= IOU) & (corr > LOW)) | ((iou < IOU) & (corr > HIGH))).any())


def pair_by_pair(boxes: Tensor, flat: Tensor, candidate: int, kept: list[int]) -> bool:
    for other in kept:
        iou, corr = box_iou(boxes[[candidate]], boxes[[other]]).item(), torch.dot(flat[candidate], flat[other]).item()
        if (iou >= IOU and corr > LOW) or (iou < IOU and corr > HIGH):
            return True
    return False


def inside(kind: str, options: Options) -> Iterator[dict]:
    model = random_detector(kind, options)
    holder = getattr(model, "roi_heads", model)
    if kind == "rcnn":
        holder.box_predictor.test_nms_thresh, holder.box_predictor.test_topk_per_image = IOU, 300
        paths = {"Faster R-CNN": "auto"}
    else:
        # 677 candidates, a crowd's number; all levels take part.
        model.test_nms_thresh, model.test_topk_candidates, model.max_detections_per_image = IOU, 150, 500
        paths = {"FCOS, batched": "batched", "FCOS, auto": "auto"}
    torch.manual_seed(1)
    height, width = options.size(SIZE, SMALL)
    inputs = [{"image": torch.rand(3, height, width) * 255, "height": height, "width": width}]
    settings = {name: ExplainSettings(layer=model.batched_layer, path=path) for name, path in paths.items()}
    odam = {name: ODAMNMS(explain, corr_high=HIGH, corr_low=LOW) for name, explain in settings.items()}
    whole, parts = defaultdict(list), defaultdict(list)
    for _ in range(options.repeats + 1):
        # By turns: what else the machine does then hits all of them.
        for name, holder.nms in {"greedy": GreedyNMS(), **odam}.items():
            whole[name].append(timed(partial(detect, model, inputs))[0])
            if name in odam:
                parts[name].append(time_parts(model, inputs))
    plain = median(whole["greedy"])
    for name in odam:
        candidates, making, suppressing = zip(*parts[name])
        yield {
            "detector": name,
            "candidates": candidates[0],
            "with NMS, ms": 1e3 * plain,
            "with ODAM-NMS, ms": 1e3 * median(whole[name]),
            "overhead, %": 100 * (median(whole[name]) / plain - 1),
            "of it maps, ms": 1e3 * median(making),
            "of it NMS, ms": 1e3 * median(suppressing),
        }


def median(times: Sequence[float]) -> float:
    """The first one warms up and does not count."""
    return statistics.median(times[1:])


def time_parts(model: ExplainableDetector, inputs: list[dict]) -> tuple[int, float, float]:
    """Number of candidates, and seconds for their maps and for choosing among them by these."""
    candidates = model.observe(inputs, model.nms.layers).candidates(0)
    making, maps = timed(partial(model.nms.maps, candidates))
    parts = candidates.boxes, candidates.scores, candidates.classes
    suppressing, _ = timed(partial(odam_nms, *parts, maps, IOU, HIGH, LOW))
    return len(candidates), making, suppressing


@torch.no_grad()
def detect(model: nn.Module, inputs: list[dict]) -> list[dict]:
    return model(inputs)
