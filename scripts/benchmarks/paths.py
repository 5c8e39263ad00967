"""The batched paths against one backward pass for each candidate: exactness, speed, memory.

Crowds are spread over the levels as in COCO's images with ten people or more (35 of 441 images; anchor points within
1.5 strides of each person's centre at a short side of 800): 52, 28, 16, 4 and 0 % from p3 to p7.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from skimage import data
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from benchmarks.measure import Options, Table, peak_mib, seconds, synchronize, without_tf32
from benchmarks.random_detectors import crowd_trace, random_detector, region_trace
from odam_d2 import ODAMPredictor
from odam_d2.explain import GradientExplainer
from odam_d2.explain.gradients import row_gradients
from odam_d2.explain.reversed.head import plan_level, reversed_maps
from odam_d2.explain.reversed.modules import group_statistics
from odam_d2.explain.reversed.places import Places, padded_rows
from odam_d2.explain.targets import target_output
from odam_d2.structures import Size, Trace


@dataclass(frozen=True)
class Amounts:
    """How much there is of everything.

    Args:
        size: (h,w) of the image whose maps are timed.
        crowd: FCOS maps by level.
        regions: Faster R-CNN maps.
        photos: of scikit-image, whose detections' maps are compared.
        compared: maps of each level, and of regions, of random detectors that are compared.
        remembered: FCOS maps on p3 whose memory is measured.
    """

    size: Size
    crowd: dict[str, int]
    regions: int
    photos: tuple[str, ...]
    compared: tuple[int, int]
    remembered: tuple[int, ...]


FULL = Amounts(
    size=(800, 1216),
    crowd={"p3": 155, "p4": 83, "p5": 49, "p6": 12, "p7": 1},
    regions=1000,
    photos=("astronaut", "chelsea", "coffee", "rocket"),
    compared=(10, 30),
    remembered=(100, 300, 1000, 2500),
)
QUICK = Amounts(
    size=(160, 256),
    crowd={"p3": 8, "p4": 5, "p5": 3, "p6": 2, "p7": 1},
    regions=20,
    photos=("chelsea",),
    compared=(2, 3),
    remembered=(10, 20),
)


def run(options: Options) -> Iterator[Table]:
    amounts, repeats = options.size(FULL, QUICK), options.repeats
    height, width = amounts.size
    title = "Exactness against one-at-a-time autograd (target class_logit)"
    with without_tf32():
        rows = list(exactness(amounts, options))
    yield Table(title, rows)
    model = random_detector("fcos", options)
    trace = crowd_trace(model, amounts.size, amounts.crowd)
    title = f"{len(trace)} FCOS maps of a crowd, R-50-FPN, {height} x {width}"
    yield Table(title, list(fcos_speed(trace, amounts.crowd, repeats)))
    yield Table("The same, level by level", list(fcos_levels(model, amounts, options)))
    yield Table("Where the time of the reversed head goes", profile_shares(trace, options.device))
    yield Table("Peak memory of the reversed head, FCOS maps on p3", list(memory(model, amounts, options.device)))
    del model, trace
    trace = region_trace(random_detector("rcnn", options), amounts.size, amounts.regions)
    title = f"{len(trace)} Faster R-CNN maps, R-50-FPN, {height} x {width}"
    yield Table(title, list(rcnn_speed(trace, repeats)))


def one_map(trace: Trace, output: Tensor, row: int) -> Tensor:
    """One backward pass by autograd, the rival."""
    if trace.regions is not None:
        feature, part = trace.regions.features[-1], int(trace.regions.rows[row])
    else:
        feature, part = trace.features[trace.levels[row]], 0
    (gradient,) = torch.autograd.grad(output[row], feature, retain_graph=True)
    return (gradient[part] * feature[part].detach()).sum(dim=0).relu()


# ---- Exactness


def exactness(amounts: Amounts, options: Options) -> Iterator[dict]:
    for kind in ("fcos_nanodet_g", "faster_rcnn_nanodet_g"):
        layer = "roi_pool" if kind.startswith("faster") else "fpn"
        predictor = ODAMPredictor(options.load_config(f"configs/demo/{kind}.yaml"))
        traces = []
        for photo in amounts.photos:
            image = getattr(data, photo)()[:, :, ::-1].copy()
            # Every detection of some confidence.
            traces.append(predictor.trace(image, (layer,), lambda found: (found.scores > 0.1).nonzero()[:, 0])[1])
        yield from compare(f"{kind}, trained", traces, layer)
    level, regions = amounts.compared
    for kind in ("fcos", "retinanet"):
        trace = crowd_trace(random_detector(kind, options), amounts.size, dict.fromkeys(amounts.crowd, level))
        yield from compare(f"{kind} R-50, random", [trace], "fpn")
    trace = region_trace(random_detector("rcnn", options), amounts.size, regions)
    yield from compare("faster_rcnn R-50, random", [trace], "roi_pool")


def compare(name: str, traces: list[Trace], layer: str) -> Iterator[dict]:
    """A row for every plan by which a level is run, see :func:`plan_level`: images differ in it."""
    results: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for trace in traces:
        output = target_output(trace, "class_logit")
        exact = [one_map(trace, output, row) for row in range(len(trace))]
        for path in ("batched", "auto"):
            for grid in GradientExplainer(layer=layer, path=path)(trace, "class_logit").grids:
                # A grid holds all maps of a level, and how many these are decides about the plan.
                rows = grid.rows.tolist()
                level = layer if layer == "roi_pool" else trace.levels[rows[0]]
                plan = "exact" if layer == "roi_pool" else plan_level(trace, level, path, len(rows))
                pairs = [distance(found, exact[row]) for row, found in zip(rows, grid.whole().maps)]
                results.setdefault((level, path, plan), []).extend(pairs)
    for (level, path, plan), values in sorted(results.items()):
        cosine, error = torch.tensor(values).unbind(1)
        yield {
            "detector": name,
            "level": level,
            "path": path,
            "plan": plan,
            "maps": len(values),
            "cosine, median": float(cosine.median()),
            "least": float(cosine.min()),
            "relative L2, median": float(error.median()),
            "largest": float(error.max()),
        }


def distance(found: Tensor, exact: Tensor) -> tuple[float, float]:
    found, exact = found.double().flatten(), exact.double().flatten()
    if not exact.any():
        return (1.0, 0.0) if not found.any() else (0.0, float("inf"))
    return float(F.cosine_similarity(found, exact, dim=0)), float((found - exact).norm() / exact.norm())


# ---- Speed


def fcos_speed(trace: Trace, crowd: dict[str, int], repeats: int) -> Iterator[dict]:
    output = target_output(trace, "class_logit")
    one = sum(count * one_at_a_time(trace, output, level, repeats) for level, count in crowd.items())
    full = seconds(lambda: full_patch_maps(trace, output), repeats)
    times = {p: seconds(partial(reversed_maps, trace, output, p), repeats) for p in ("batched", "auto")}
    maps = GradientExplainer(path="auto")(trace, "class_logit")
    resample = seconds(lambda: maps.resample(50), repeats)
    coarse = maps.resample(50)
    small = coarse.flatten(1)
    correlate = seconds(lambda: F.normalize(small, dim=1) @ F.normalize(small, dim=1).t(), repeats)
    rows = {
        "one at a time": one,
        "full 11 x 11 patch through every layer": full,
        "reversed head, batched": times["batched"],
        "reversed head, auto": times["auto"],
        f"then: to a common grid of {coarse.shape[1]} x {coarse.shape[2]}": resample,
        "then: all correlations on it": correlate,
    }
    for name, value in rows.items():
        yield {
            "what": name,
            "ms": value * 1e3,
            "ms a map": value * 1e3 / len(trace),
            "one at a time / this": one / value,
        }


def one_at_a_time(trace: Trace, output: Tensor, level: str, repeats: int) -> float:
    row = list(trace.levels).index(level)
    return seconds(lambda: one_map(trace, output, row), min(repeats, 5))


def fcos_levels(model: nn.Module, amounts: Amounts, options: Options) -> Iterator[dict]:
    repeats = options.repeats
    plain = plain_convolution_flops(amounts.size, options)
    for level, count in amounts.crowd.items():
        trace = crowd_trace(model, amounts.size, {level: count})
        output = target_output(trace, "class_logit")
        plan = plan_level(trace, level, "auto", count)
        time = seconds(partial(reversed_maps, trace, output, "auto"), repeats)
        one = one_at_a_time(trace, output, level, repeats)
        needed = needed_flops(trace, level, plan)
        yield {
            "level": level,
            "plan": plan,
            "maps": count,
            "ms a map": time * 1e3 / count,
            "one at a time, ms": one * 1e3,
            "ratio": one * count / time,
            "GFLOP": needed / 1e9,
            "% of the limit": 100 * needed / time / plain,
        }


def plain_convolution_flops(size: Size, options: Options) -> float:
    """FLOP/s of a 3 x 3 convolution of 256 channels on p3, the machine's arithmetic limit."""
    weight = torch.randn(256, 256, 3, 3, device=options.device)
    level = torch.randn(1, 256, size[0] // 8, size[1] // 8, device=options.device)
    time = seconds(lambda: F.conv2d(level, weight, padding=1), options.repeats)
    return 2 * 256 * 256 * 9 * level[0, 0].numel() / time


def needed_flops(trace: Trace, level: str, plan: str) -> float:
    """Multiplications and additions that the class logit's maps cannot do without, on the level's plan."""
    subnet = trace.subnets[0]
    cells = trace.features[level][0, 0].numel()
    count, side, total = len(trace), subnet.predictors[0][0].kernel_size[0], 0
    convolutions = [module for module in subnet.tower if isinstance(module, nn.Conv2d)]
    for conv in reversed(convolutions):
        total += 2 * conv.weight.numel() * count * (cells if plan == "whole" else side * side)
        side += conv.kernel_size[0] - 1
    # What averages add is some convolutions more for the level. Corrected: one, by the weights next to the features.
    if plan == "corrected":
        total += 2 * convolutions[0].weight.numel() * cells
    if plan == "shared":
        total += 2 * convolutions[0].weight.numel() * cells * shared_fields(subnet.tower)
    return total


def shared_fields(tower: Iterable[nn.Module]) -> int:
    """Fields of all channels that pass through a convolution below: two a group of every GroupNorm.

    The convolution right below a norm and the first one of all cost next to nothing.
    """
    convolutions, fields = 0, 0
    for module in tower:
        if isinstance(module, nn.Conv2d):
            convolutions += 1
        elif isinstance(module, nn.GroupNorm):
            fields += 2 * module.num_groups * max(0, convolutions - 2)
    return fields


def full_patch_maps(trace: Trace, output: Tensor) -> list[Tensor]:
    """The simpler way: patches of the final side through every layer, by ordinary convolutions, GroupNorm constant."""
    predictor, values = trace.subnets[0].predictors[0]
    (seeds,) = row_gradients(output, [values])
    maps, first = [], 0
    with torch.no_grad():
        for level in trace.subnets[0].seen:
            rows = torch.tensor([row for row, name in enumerate(trace.levels) if name == level])
            # What the detections of a level share is prepared once, as in the reversed head.
            features = trace.features[level]
            inputs, steps = (features, *trace.subnets[0].seen[level]), []
            for number, module in reversed(list(enumerate(trace.subnets[0].tower))):
                if isinstance(module, nn.ReLU):
                    steps.append(("mask", padded_rows(inputs[number + 1] > 0, 5)))
                elif isinstance(module, nn.GroupNorm):
                    factor = (module.weight * group_statistics(module, inputs[number])[1])[:, None, None, None]
                else:
                    weight = (module.weight * factor).contiguous(memory_format=torch.channels_last)
                    steps.append(("convolution", weight))
            cells = padded_rows(features, 5)
            for part in rows.split(128):
                # Places are numbered over all levels; FCOS has one a cell.
                cell = trace.places[part.to(trace.places.device)] - first
                maps.append(_full_patches(features, cell, steps, cells, seeds[part], predictor))
            first += features[0, 0].numel()
    return maps


def _full_patches(features, cell, steps, cells, seeds, predictor) -> Tensor:
    width = features.shape[-1]
    places = Places(cell // width, cell % width, cell * 0, tuple(features.shape[-2:]), 5)
    gradient = F.pad(seeds[:, :, None, None] * predictor.weight, (4, 4, 4, 4)).permute(0, 2, 3, 1).contiguous()
    for kind, value in steps:
        if kind == "mask":
            gradient = gradient * places.gather(value, 11)
        else:
            gradient = F.conv_transpose2d(gradient.permute(0, 3, 1, 2), value, padding=1).permute(0, 2, 3, 1)
    return (gradient * places.gather(cells, 11)).sum(dim=-1).relu()


KINDS = {
    "convolutions": ("convolution", "conv_"),
    "matrix products (predictor, correction)": ("aten::mm", "addmm", "bmm"),
    "masks and products": ("aten::mul", "aten::gt", "aten::sub", "aten::add"),
    "gathering patches": ("index", "gather", "scatter"),
    "statistics of GroupNorm": ("group_norm",),
    "sums over channels": ("aten::sum", "aten::mean"),
    "copies, layouts, zeros": ("copy_", "fill_", "zero_", "aten::cat", "aten::empty", "constant_pad"),
}


def profile_shares(trace: Trace, device: str) -> list[dict]:
    output = target_output(trace, "class_logit")
    reversed_maps(trace, output, "auto")
    on_gpu = device == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiled:
        reversed_maps(trace, output, "auto")
        synchronize()
    # A GPU's kernels are listed beside the operations that they belong to: their time would count twice.
    events = [event for event in profiled.key_averages() if event.device_type == DeviceType.CPU]
    times = {e.key: e.self_device_time_total if on_gpu else e.self_cpu_time_total for e in events}
    total, shares = sum(times.values()), dict.fromkeys([*KINDS, "other"], 0.0)
    for key, time in times.items():
        shares[next((kind for kind, words in KINDS.items() if any(w in key for w in words)), "other")] += time
    return [{"part": part, "%": 100 * time / total} for part, time in shares.items()]


def memory(model: nn.Module, amounts: Amounts, device: str) -> Iterator[dict]:
    for count in amounts.remembered:
        trace = crowd_trace(model, amounts.size, {"p3": count})
        row: dict = {"maps": count}
        for budget in (2**30, 2**26):
            call = partial(reversed_maps, trace, target_output(trace, "class_logit"), "auto", memory=budget)
            row[f"peak MiB, budget {budget // 2**20} MiB"] = peak_mib(call, device)
        yield row


def rcnn_speed(trace: Trace, repeats: int) -> Iterator[dict]:
    output, count = target_output(trace, "class_logit"), len(trace)
    one = count * seconds(lambda: one_map(trace, output, 0), repeats)
    explainer = GradientExplainer(layer="roi_pool", path="batched")
    batched = seconds(lambda: explainer(trace, "class_logit"), repeats)
    maps = explainer(trace, "class_logit")
    put_back = seconds(lambda: maps.resample(50), repeats)
    height, width = maps.resample(50).shape[1:]
    times = {"one at a time": one, "batched": batched, f"then: to a common grid of {height} x {width}": put_back}
    for name, time in times.items():
        yield {"what": name, "maps": count, "ms": time * 1e3, "one at a time / this": one / time}
