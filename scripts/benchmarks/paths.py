"""The batched paths against one backward pass for each candidate: exactness, speed, memory.

Crowds are spread over the levels as in COCO's images with ten people or more (35 of 441 images; anchor points within
1.5 strides of each person's centre at a short side of 800): 52, 28, 16, 4 and 0 % from p3 to p7.
"""

from collections.abc import Iterator
from functools import partial

import torch
from detectron2.modeling import build_model
from skimage import data
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from benchmarks.measure import Table, peak_mib, seconds
from odam_d2 import ODAMPredictor, load_config
from odam_d2.explain import GradientExplainer
from odam_d2.explain.gradients import row_gradients
from odam_d2.explain.reversed.head import plan_level, reversed_maps
from odam_d2.explain.reversed.modules import group_statistics
from odam_d2.explain.reversed.places import Places, padded_rows
from odam_d2.explain.targets import target_output
from odam_d2.structures import Trace

CROWD = {"p3": 155, "p4": 83, "p5": 49, "p6": 12, "p7": 1}
SIZE = (800, 1216)
PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")


def run(repeats: int) -> Iterator[Table]:
    yield Table("Exactness against one-at-a-time autograd (target class_logit)", list(exactness()))
    model = random_detector("fcos")
    trace = crowd_trace(model, CROWD)
    yield Table("300 FCOS maps of a crowd, R-50-FPN, 800 x 1216", list(fcos_speed(trace, repeats)))
    yield Table("The same, level by level", list(fcos_levels(model, repeats)))
    yield Table("Where the time of the reversed head goes", profile_shares(trace))
    yield Table("Peak memory of the reversed head, FCOS maps on p3", list(memory(model)))
    del model, trace
    yield Table("1000 Faster R-CNN maps, R-50-FPN, 800 x 1216", list(rcnn_speed(repeats)))


# ---- Detectors and candidates


def random_detector(kind: str) -> nn.Module:
    """A model-zoo architecture for one class with random weights, norms too, that keeps all candidates."""
    torch.manual_seed(0)
    file, classes = {
        "fcos": ("fcos_R_50_FPN_1x", "MODEL.FCOS.NUM_CLASSES"),
        "retinanet": ("retinanet_R_50_FPN_1x", "MODEL.RETINANET.NUM_CLASSES"),
        "rcnn": ("faster_rcnn_R_50_FPN_1x", "MODEL.ROI_HEADS.NUM_CLASSES"),
    }[kind]
    cfg = load_config(f"configs/explain/{file}.yaml", ["MODEL.WEIGHTS", "", classes, "1"])
    model = build_model(cfg).eval()
    # Without trained norms the features of a random ResNet are three thousand times its input.
    model.pixel_std *= 3000
    for module in model.modules():
        if isinstance(module, nn.GroupNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    if kind == "rcnn":
        predictor = model.roi_heads.box_predictor
        predictor.test_score_thresh, predictor.test_nms_thresh, predictor.test_topk_per_image = 0.0, 1.0, 1000
        nn.init.normal_(predictor.cls_score.weight, std=0.01)
    else:
        model.test_score_thresh, model.test_nms_thresh = 0.0, 1.0
        model.test_topk_candidates = model.max_detections_per_image = 10**5
        # Distances of one stride: no candidate is dropped for having no area.
        nn.init.ones_(model.head.bbox_pred.bias)
    return model


def crowd_trace(model: nn.Module, counts: dict[str, int]) -> Trace:
    """Trace of randomly chosen candidates, so many a level."""
    torch.manual_seed(1)
    observation = model.observe([{"image": torch.rand(3, *SIZE) * 255}])
    candidates = observation.candidates(0)
    levels = candidates.trace().levels
    chosen = []
    for name in model.head_in_features:
        rows = torch.tensor([row for row, level in enumerate(levels) if level == name], dtype=torch.int64)
        chosen.append(rows[torch.randperm(len(rows))[: counts.get(name, 0)]])
    rows = torch.cat(chosen).to(candidates.places.device)
    return observation.trace(0, candidates.places[rows], candidates.classes[rows])


def region_trace(count: int) -> Trace:
    """Trace of the best detections of a random Faster R-CNN."""
    observation = random_detector("rcnn").observe([{"image": torch.rand(3, *SIZE) * 255}], ("roi_pool",))
    return observation.trace_detections(0, observation.detections()[0][:count])


def one_map(trace: Trace, output: Tensor, row: int) -> Tensor:
    """One backward pass by autograd, the rival."""
    if trace.regions is not None:
        feature, part = trace.regions.features[-1], int(trace.regions.rows[row])
    else:
        feature, part = trace.features[trace.levels[row]], 0
    (gradient,) = torch.autograd.grad(output[row], feature, retain_graph=True)
    return (gradient[part] * feature[part].detach()).sum(dim=0).relu()


# ---- Exactness


def exactness() -> Iterator[dict]:
    for kind in ("fcos_lite0", "faster_rcnn_lite0"):
        layer = "roi_pool" if kind.startswith("faster") else "fpn"
        predictor = ODAMPredictor(load_config(f"configs/demo/{kind}.yaml"))
        traces = []
        for photo in PHOTOS:
            image = getattr(data, photo)()[:, :, ::-1].copy()
            # Every detection of some confidence.
            traces.append(predictor.trace(image, (layer,), lambda found: (found.scores > 0.1).nonzero()[:, 0])[1])
        yield from compare(f"{kind}, trained", traces, layer)
    for kind in ("fcos", "retinanet"):
        trace = crowd_trace(random_detector(kind), dict.fromkeys(CROWD, 10))
        yield from compare(f"{kind} R-50, random", [trace], "fpn")
    yield from compare("faster_rcnn R-50, random", [region_trace(30)], "roi_pool")


def compare(name: str, traces: list[Trace], layer: str) -> Iterator[dict]:
    results: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for trace in traces:
        output = target_output(trace, "class_logit")
        exact = [one_map(trace, output, row) for row in range(len(trace))]
        for path in ("batched", "auto"):
            for grid in GradientExplainer(layer=layer, path=path)(trace, "class_logit").grids:
                for row, found in zip(grid.rows.tolist(), grid.whole().maps):
                    level = layer if layer == "roi_pool" else trace.levels[row]
                    plan = "exact" if layer == "roi_pool" else plan_level(trace, level, path)
                    results.setdefault((level, path, plan), []).append(distance(found, exact[row]))
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


def fcos_speed(trace: Trace, repeats: int) -> Iterator[dict]:
    output = target_output(trace, "class_logit")
    one = sum(CROWD[level] * one_at_a_time(trace, output, level, repeats) for level in CROWD)
    full = seconds(lambda: full_patch_maps(trace, output), repeats)
    times = {p: seconds(partial(reversed_maps, trace, output, p), repeats) for p in ("batched", "auto")}
    maps = GradientExplainer(path="auto")(trace, "class_logit")
    resample = seconds(lambda: maps.resample(50), repeats)
    small = maps.resample(50).flatten(1)
    correlate = seconds(lambda: F.normalize(small, dim=1) @ F.normalize(small, dim=1).t(), repeats)
    rows = {
        "one at a time": one,
        "full 11 x 11 patch through every layer": full,
        "reversed head, batched": times["batched"],
        "reversed head, auto": times["auto"],
        "then: to a common grid of 50 x 76": resample,
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


def fcos_levels(model: nn.Module, repeats: int) -> Iterator[dict]:
    plain = plain_convolution_flops(repeats)
    for level, count in CROWD.items():
        trace = crowd_trace(model, {level: count})
        output = target_output(trace, "class_logit")
        time = seconds(partial(reversed_maps, trace, output, "auto"), repeats)
        one = one_at_a_time(trace, output, level, repeats)
        needed = needed_flops(trace, level)
        yield {
            "level": level,
            "plan": plan_level(trace, level, "auto"),
            "maps": count,
            "ms a map": time * 1e3 / count,
            "one at a time, ms": one * 1e3,
            "ratio": one * count / time,
            "GFLOP": needed / 1e9,
            "% of the limit": 100 * needed / time / plain,
        }


def plain_convolution_flops(repeats: int) -> float:
    """FLOP/s of a 3 x 3 convolution of 256 channels on p3, the machine's arithmetic limit."""
    weight = torch.randn(256, 256, 3, 3)
    level = torch.randn(1, 256, SIZE[0] // 8, SIZE[1] // 8)
    if torch.cuda.is_available():
        weight, level = weight.cuda(), level.cuda()
    return 2 * 256 * 256 * 9 * level[0, 0].numel() / seconds(lambda: F.conv2d(level, weight, padding=1), repeats)


def needed_flops(trace: Trace, level: str) -> float:
    """Multiplications and additions that the class logit's maps cannot do without, on the level's plan."""
    plan, subnet = plan_level(trace, level, "auto"), trace.subnets[0]
    cells = trace.features[level][0, 0].numel()
    count, side, total = len(trace), subnet.predictors[0][0].kernel_size[0], 0
    convolutions = [module for module in subnet.tower if isinstance(module, nn.Conv2d)]
    for conv in reversed(convolutions):
        total += 2 * conv.weight.numel() * count * (cells if plan == "whole" else side * side)
        side += conv.kernel_size[0] - 1
    # The correction is one convolution more for the level, by the weights next to the features.
    return total + (2 * convolutions[0].weight.numel() * cells if plan == "corrected" else 0)


def full_patch_maps(trace: Trace, output: Tensor) -> list[Tensor]:
    """The simpler way: patches of the final side through every layer, by ordinary convolutions, GroupNorm constant."""
    predictor, values = trace.subnets[0].predictors[0]
    (seeds,) = row_gradients(output, [values])
    maps, first = [], 0
    with torch.no_grad():
        for level in CROWD:
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


def profile_shares(trace: Trace) -> list[dict]:
    output = target_output(trace, "class_logit")
    reversed_maps(trace, output, "auto")
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with profile(activities=activities) as profiled:
        reversed_maps(trace, output, "auto")
    times = {e.key: e.self_device_time_total or e.self_cpu_time_total for e in profiled.key_averages()}
    total, shares = sum(times.values()), dict.fromkeys([*KINDS, "other"], 0.0)
    for key, time in times.items():
        shares[next((kind for kind, words in KINDS.items() if any(w in key for w in words)), "other")] += time
    return [{"part": part, "%": 100 * time / total} for part, time in shares.items()]


def memory(model: nn.Module) -> Iterator[dict]:
    for count in (100, 300, 1000, 2500):
        trace = crowd_trace(model, {"p3": count})
        row: dict = {"maps": count}
        for budget in (2**30, 2**26):
            call = partial(reversed_maps, trace, target_output(trace, "class_logit"), "auto", memory=budget)
            row[f"peak MiB, budget {budget // 2**20} MiB"] = peak_mib(call)
        yield row


def rcnn_speed(repeats: int) -> Iterator[dict]:
    trace = region_trace(1000)
    output, count = target_output(trace, "class_logit"), len(trace)
    one = count * seconds(lambda: one_map(trace, output, 0), repeats)
    explainer = GradientExplainer(layer="roi_pool", path="batched")
    batched = seconds(lambda: explainer(trace, "class_logit"), repeats)
    maps = explainer(trace, "class_logit")
    put_back = seconds(lambda: maps.resample(50), repeats)
    times = {"one at a time": one, "batched": batched, "then: to a common grid of 50 x 76": put_back}
    for name, time in times.items():
        yield {"what": name, "maps": count, "ms": time * 1e3, "one at a time / this": one / time}
