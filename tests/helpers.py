"""Tiny networks and traces whose maps can be worked out by hand."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.meta_arch.fcos import FCOSHead
from detectron2.structures import Instances
from torch import Tensor, nn

from odam_d2.config import add_odam_config
from odam_d2.explain.targets import OUTWARDS, SIDES
from odam_d2.modeling import ODAMFCOS
from odam_d2.modeling.explainable import without_place
from odam_d2.structures import Trace

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def make_trace(
    features: Tensor, outputs: dict[str, Tensor], boxes: Tensor, stride: int = 8, image_size: tuple | None = None
) -> Trace:
    """A trace of one class and one level called p3 over an image of exactly the level's extent (or a smaller one).

    Outputs are (D,) by target; a side's gradient is its output's, its place that of the box.
    """
    count = len(boxes)
    padded = (features.shape[2] * stride, features.shape[3] * stride)
    one, zero = torch.ones(count, device=boxes.device), torch.zeros(count, device=boxes.device)
    sides = [OUTWARDS[name] * outputs.get(name, zero) for name in SIDES]
    return Trace(
        places=zero.long(),
        classes=zero.long(),
        boxes=boxes + torch.stack([side - side.detach() for side in sides], dim=1),
        logits=outputs.get("class_logit", zero)[:, None],
        class_vectors=outputs.get("class_score", one)[:, None],
        features={"p3": features},
        strides={"p3": stride},
        levels=["p3"] * count,
        layers=("fpn",),
        image_size=image_size or padded,
        padded_size=padded,
        output_size=image_size or padded,
    )


def trace_of(
    model, batched_input: dict, layers: Sequence[str] = ("fpn",), keep: Callable[[Instances], Tensor] | None = None
) -> tuple[Instances, Trace]:
    """The detections in one image, or those that ``keep`` picks, and their trace."""
    (traced,) = traces_of(model, [batched_input], layers, keep)
    return traced


def traces_of(
    model,
    batched_inputs: Sequence[dict],
    layers: Sequence[str] = ("fpn",),
    keep: Callable[[Instances], Tensor] | None = None,
) -> list[tuple[Instances, Trace]]:
    """The same for several images in one forward pass."""
    observation = model.observe(batched_inputs, layers)
    traced = []
    for i, found in enumerate(observation.detections()):
        kept = found if keep is None else found[keep(found)]
        traced.append((without_place(kept), observation.trace_detections(i, kept)))
    return traced


def index_in_level(trace: Trace) -> Tensor:
    """Where each prediction of a dense detector is in its own level, ``(y * Wl + x) * A + a``, (D,)."""
    conv, values = trace.subnets[0].predictors[0]
    anchors = conv.out_channels // values.shape[1]
    names = list(trace.subnets[0].seen)
    counts = [trace.features[name][0, 0].numel() * anchors for name in names]
    return torch.stack([place - sum(counts[: names.index(level)]) for place, level in zip(trace.places, trace.levels)])


class TinyBottomUp(Backbone):
    """Three strided convolutions: stages res3, res4, res5 of 4 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 8, stride=8)
        self.down = nn.ModuleList([nn.Conv2d(4, 4, 3, stride=2, padding=1) for _ in range(2)])
        self._out_features = ["res3", "res4", "res5"]
        self._out_feature_channels = dict.fromkeys(self._out_features, 4)
        self._out_feature_strides = {"res3": 8, "res4": 16, "res5": 32}
        self.calls = 0

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        self.calls += 1
        stages = [self.stem(images).relu()]
        for conv in self.down:
            stages.append(conv(stages[-1]).relu())
        return dict(zip(self._out_features, stages))


class AveragePyramid(Backbone):
    """One level p3: the image's mean brightness over every 8 x 8 block. Cell (i,j) sees exactly its own pixels."""

    def __init__(self) -> None:
        super().__init__()
        self._out_features = ["p3"]
        self._out_feature_channels = {"p3": 1}
        self._out_feature_strides = {"p3": 8}

    @property
    def size_divisibility(self) -> int:
        return 32

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"p3": nn.functional.avg_pool2d(images.mean(dim=1, keepdim=True), 8)}


def tiny_fcos(seed: int = 0, norm: str = "", num_classes: int = 3, **options) -> ODAMFCOS:
    """A random FCOS on a random 4-channel pyramid; 8 detections whatever the image."""
    torch.manual_seed(seed)
    names = ["res3", "res4", "res5"]
    pyramid = FPN(TinyBottomUp(), names, 4, top_block=LastLevelP6P7(4, 4, in_feature="p5"))
    levels = ["p3", "p4", "p5", "p6", "p7"]
    head = FCOSHead(
        input_shape=[ShapeSpec(channels=4, stride=8)] * 5, num_classes=num_classes, conv_dims=[4, 4], norm=norm
    )
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.3)
    # FCOS cuts negative distances to 0, and a box without a size is no detection.
    nn.init.constant_(head.bbox_pred.bias, 2.0)
    arguments = {
        "backbone": pyramid,
        "head": head,
        "head_in_features": levels,
        "num_classes": num_classes,
        "test_score_thresh": 0.0,
        "test_topk_candidates": 4,
        "test_nms_thresh": 1.0,
        "max_detections_per_image": 8,
        "pixel_mean": [0.0, 0.0, 0.0],
        "pixel_std": [64.0, 64.0, 64.0],
    }
    return ODAMFCOS(**{**arguments, **options}).eval()


def random_input(height: int = 100, width: int = 150, seed: int = 0) -> dict:
    """A Detectron2 input of noise, not a multiple of any stride."""
    generator = torch.Generator().manual_seed(seed)
    return {"image": torch.rand(3, height, width, generator=generator) * 255, "height": height, "width": width}


def random_photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(h,w,3) uint8 noise."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def small_cfg(kind: str, opts: Sequence[str] = ()):
    """The shipped architectures as random networks that always detect something, for tests of the plumbing.

    On the CPU, where sums have one order, unless ``opts`` say otherwise: what is to hold on a GPU is asked of one by
    name, and tests of the commands run on what the machine has.
    """
    from detectron2.config import get_cfg

    cfg = get_cfg()
    add_odam_config(cfg)
    cfg.merge_from_file(f"configs/quick/{kind}.yaml")
    cfg.MODEL.DEVICE = "cpu"
    cfg.merge_from_list(list(opts))
    return cfg
