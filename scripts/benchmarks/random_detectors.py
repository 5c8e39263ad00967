"""Detectors of full size with random weights that keep all candidates, and traces of some of these."""

import torch
from detectron2.modeling import build_model
from torch import nn

from benchmarks.measure import Options
from odam_d2.structures import Size, Trace


def random_detector(kind: str, options: Options) -> nn.Module:
    """A model-zoo architecture for one class with random weights, norms too, that keeps all candidates."""
    torch.manual_seed(0)
    file, classes = {
        "fcos": ("fcos_R_50_FPN_1x", "MODEL.FCOS.NUM_CLASSES"),
        "retinanet": ("retinanet_R_50_FPN_1x", "MODEL.RETINANET.NUM_CLASSES"),
        "rcnn": ("faster_rcnn_R_50_FPN_1x", "MODEL.ROI_HEADS.NUM_CLASSES"),
    }[kind]
    cfg = options.load_config(f"configs/explain/{file}.yaml", ["MODEL.WEIGHTS", "", classes, "1"])
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


def crowd_trace(model: nn.Module, size: Size, counts: dict[str, int]) -> Trace:
    """Trace of randomly chosen candidates, so many a level."""
    torch.manual_seed(1)
    observation = model.observe([{"image": torch.rand(3, *size) * 255}])
    candidates = observation.candidates(0)
    levels = candidates.trace().levels
    chosen = []
    for name in model.head_in_features:
        rows = torch.tensor([row for row, level in enumerate(levels) if level == name], dtype=torch.int64)
        chosen.append(rows[torch.randperm(len(rows))[: counts.get(name, 0)]])
    rows = torch.cat(chosen).to(candidates.places.device)
    return observation.trace(0, candidates.places[rows], candidates.classes[rows])


def region_trace(model: nn.Module, size: Size, count: int) -> Trace:
    """Trace of the best detections of a random Faster R-CNN."""
    observation = model.observe([{"image": torch.rand(3, *size) * 255}], ("roi_pool",))
    return observation.trace_detections(0, observation.detections()[0][:count])
