"""The teacher: a frozen detector that sees what its student sees.

Shapes: N images, C channels, (Hl,Wl) level.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor

from odam_d2.config import load_config
from odam_d2.modeling.checkpoint import load_weights
from odam_d2.modeling.config_check import building
from odam_d2.modeling.explainable import ExplainableDetector, Observation, check_explainable


@dataclass(frozen=True, eq=False)
class Teacher:
    """A detector whose weights nobody changes.

    It is no module, so that a module that holds it does not list its weights, move it or put it into training mode.

    Args:
        detector: in evaluation mode, without weights that require gradients.
        cfg: its own config.
        other_format: whether it takes the colours of an image in the opposite order to its student.
    """

    detector: ExplainableDetector
    cfg: CfgNode
    other_format: bool = False

    def images(self, batched_inputs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The student's images as the teacher takes them; pixels it normalises itself."""
        if not self.other_format:
            return list(batched_inputs)
        return [{**one, "image": one["image"].flip(0)} for one in batched_inputs]

    def observe(
        self,
        batched_inputs: Sequence[dict[str, Any]],
        layers: Sequence[str] = ("fpn",),
        places_of: Observation | None = None,
    ) -> Observation:
        """What it says about the student's images.

        Args:
            batched_inputs: of the student.
            layers: at which it will be explained; () for none.
            places_of: the student's observation, at whose places to look.

        Raises:
            ValueError: places that it does not have.
        """
        return self.detector.observe(self.images(batched_inputs), layers, places_of)

    @torch.no_grad()
    def feature_maps(self, batched_inputs: Sequence[dict[str, Any]], names: Sequence[str]) -> list[Tensor]:
        """Its backbone's maps alone, each (N,C,Hl,Wl), without graph: no head runs for them."""
        images = self.detector.preprocess_image(self.images(batched_inputs))
        outputs = self.detector.backbone(images.tensor)
        return [outputs[name] for name in names]


def build_teacher(cfg: CfgNode) -> Teacher:
    """The teacher that a student's config names, on the student's device.

    Args:
        cfg: of the student; reads ``ODAM.KD.TEACHER``, ``MODEL.DEVICE`` and ``INPUT.FORMAT``.

    Raises:
        FileNotFoundError: no such config, or no such weights.
        ValueError: nothing is named; a config from which nothing that can be explained can be built; or weights that
            leave a part of the teacher random, or are left over themselves. The message names keys and shapes.
    """
    options = cfg.ODAM.KD.TEACHER
    if not options.CONFIG_FILE:
        raise ValueError(
            f"ODAM.KD.DISTILLER is {cfg.ODAM.KD.DISTILLER!r} and ODAM.KD.TEACHER.CONFIG_FILE is empty; name the "
            "teacher's config"
        )
    own = load_config(options.CONFIG_FILE, options.OPTS)
    own.MODEL.DEVICE = cfg.MODEL.DEVICE
    own.MODEL.WEIGHTS = options.WEIGHTS or own.MODEL.WEIGHTS
    if not own.MODEL.WEIGHTS:
        raise ValueError(
            f"ODAM.KD.TEACHER.WEIGHTS is empty, and so is MODEL.WEIGHTS of {options.CONFIG_FILE}; a random teacher "
            "teaches nothing: name its checkpoint"
        )
    with building(own):
        detector = build_model(own)
    check_explainable(detector)
    try:
        load_weights(detector, own.MODEL.WEIGHTS, exact=True)
    except ValueError as error:
        raise ValueError(f"the teacher {options.CONFIG_FILE} was not loaded: {error}") from error
    if own.MODEL.DEVICE == "cpu":
        detector = detector.to(memory_format=torch.channels_last)
    return Teacher(detector.eval().requires_grad_(False), own, own.INPUT.FORMAT != cfg.INPUT.FORMAT)
