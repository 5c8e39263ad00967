"""A student's training step, and what it leaves behind: losses, an observation, and which places are positives.

Shapes: N images, L places, K classes, A anchors a cell, G objects of an image.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.modeling.meta_arch.fcos import FCOS
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
from torch import Tensor, nn

from odam_d2.distill import Responses
from odam_d2.modeling.dense.detector import ExplainableDense
from odam_d2.modeling.dense.observation import DenseObservation
from odam_d2.modeling.features import ImageFeatures, output_strides
from odam_d2.modeling.ignore import split_ignored
from odam_d2.modeling.positives import Positives, sampled_positives
from odam_d2.modeling.rcnn.observation import RegionObservation
from odam_d2.modeling.rcnn.rcnn import ODAMRCNN


class TrainingPass(ABC):
    """The student's own training step, watched.

    Args:
        student: in training mode.
        batched_inputs: with ``instances``.

    Attributes:
        losses: its own, as Detectron2's trainers take them.
        instances: the ground truth of every image, on the student's device.
    """

    def __init__(self, student: nn.Module, batched_inputs: Sequence[dict[str, Any]]):
        self.student, self.batched_inputs = student, batched_inputs
        self.instances = [one["instances"].to(student.device) for one in batched_inputs]
        with _watched(student.backbone, self._last_part) as calls:
            self.losses: dict[str, Tensor] = student(batched_inputs)
        ((tensor, *_), self.outputs), (_, self._last) = calls
        sizes = [tuple(one["image"].shape[-2:]) for one in batched_inputs]
        self._images = ImageList(tensor, sizes)
        self._features = ImageFeatures.of_batch(self.outputs, output_strides(student.backbone))

    @property
    @abstractmethod
    def _last_part(self) -> nn.Module:
        """The module behind the backbone whose output says what was predicted, or for what."""

    @property
    def image_sizes(self) -> list[tuple[int, int]]:
        """(h,w) of each image before padding."""
        return self._images.image_sizes

    @property
    def boxes(self) -> list[Tensor]:
        """The objects of each image, without regions that are to be ignored, (G,4)."""
        return [split_ignored(own)[0].gt_boxes.tensor for own in self.instances]

    @abstractmethod
    def observe(self) -> tuple[Any, list[Positives]]:
        """The student's observation of the batch, with graph, and the positives among its places."""

    @abstractmethod
    def anchors(self, levels: Sequence[str]) -> list[Tensor]:
        """Anchors of some levels, (Hl * Wl * A,4) each."""


class DensePass(TrainingPass):
    """Of a dense detector."""

    student: ExplainableDense

    @property
    def _last_part(self) -> nn.Module:
        return self.student.head

    def observe(self) -> tuple[DenseObservation, list[Positives]]:
        """Implements :meth:`TrainingPass.observe`."""
        observation = DenseObservation(
            self.student, ("fpn",), self._images, self._features, self._last, evaluation=False
        )
        return observation, match_places(observation, self.instances)

    def anchors(self, levels: Sequence[str]) -> list[Tensor]:
        """Implements :meth:`TrainingPass.anchors`: of all levels that its head reads."""
        maps = [self.outputs[name] for name in self.student.head_in_features]
        return [own.tensor for own in self.student.anchor_generator(maps)]


class RegionPass(TrainingPass):
    """Of a two-stage detector; its places are the sampled regions that show an object."""

    student: ODAMRCNN

    @property
    def _last_part(self) -> nn.Module:
        return self.student.roi_heads

    def observe(self) -> tuple[RegionObservation, list[Positives]]:
        """Implements :meth:`TrainingPass.observe`."""
        sampled, _ = self._last
        heads = self.student.roi_heads
        regions, positives = sampled_positives(sampled, heads.num_classes)
        # Heads run over them as in evaluation: a cascade in training drops boxes that became empty.
        observation = RegionObservation(heads, ("fpn",), self._images, self._features, regions)
        return observation, positives

    def anchors(self, levels: Sequence[str]) -> list[Tensor]:
        """Implements :meth:`TrainingPass.anchors`: those of the first stage.

        Raises:
            ValueError: it has none on a level.
        """
        first = self.student.proposal_generator
        names = list(getattr(first, "in_features", ()))
        missing = [level for level in levels if level not in names]
        if missing:
            raise ValueError(
                f"the first stage has anchors on {', '.join(names) or 'no level'} and none on {missing[0]}; set "
                "MODEL.RPN.IN_FEATURES, or choose a distiller without anchors"
            )
        found = dict(zip(names, first.anchor_generator([self.outputs[name] for name in names])))
        return [found[level].tensor for level in levels]


def run_training_pass(student: nn.Module, batched_inputs: Sequence[dict[str, Any]]) -> TrainingPass:
    """Run a student's training step.

    Args:
        student: an explainable detector of odam_d2, in training mode.
        batched_inputs: with ``instances``.
    """
    return (DensePass if isinstance(student, DenseDetector) else RegionPass)(student, batched_inputs)


def match_places(observation: Any, instances: Sequence[Instances]) -> list[Positives]:
    """The places of an observation that its detector would assign to some objects, image by image.

    Args:
        observation: of a dense or two-stage detector. The regions of the latter are matched as they are: none is drawn,
            and no object is added to them.
        instances: the objects of each image, ``gt_boxes`` in network-input pixels and ``gt_classes``.
    """
    detector = observation.detector
    if isinstance(observation, DenseObservation):
        labelled = zip(*detector.label_anchors(observation.anchors, list(instances)))
        return [Positives.of_labels(labels, boxes, detector.num_classes) for labels, boxes in labelled]
    matcher = getattr(detector, "proposal_matcher", None) or detector.proposal_matchers[0]
    found = []
    for image, own in enumerate(instances):
        regions = observation.regions(image)[:, 0]
        rows, labels = matcher(pairwise_iou(own.gt_boxes, Boxes(regions)))
        places = (labels == 1).nonzero()[:, 0] if len(own) else rows.new_zeros(0)
        objects = rows[places]
        found.append(Positives(places, own.gt_classes[objects], own.gt_boxes.tensor[objects]))
    return found


def responses_of(observation: DenseObservation) -> Responses:
    """What a dense detector predicts at all places of a batch, (N,L,K) and (N,L,4) twice; boxes without graph.

    FCOS's deltas are distances, which end at 0 as its decoder's do.
    """
    logits, deltas = (
        torch.stack([torch.cat(observation.outputs(image)[number]) for image in range(len(observation))])
        for number in (0, 1)
    )
    if isinstance(observation.detector, FCOS):
        deltas = deltas.relu()
    anchors = torch.cat([own.tensor for own in observation.anchors])
    decode = observation.detector.box2box_transform.apply_deltas
    with torch.no_grad():
        boxes = torch.stack([decode(own, anchors) for own in deltas.detach()])
    return Responses(logits, boxes, deltas)


@contextmanager
def _watched(*modules: nn.Module) -> Iterator[list[tuple[tuple[Any, ...], Any]]]:
    """Remember, inside the ``with`` block, the last (arguments, output) of each module."""
    calls: list[tuple[tuple[Any, ...], Any]] = [((), None)] * len(modules)

    def remember(number: int) -> Any:
        return lambda module, arguments, output: calls.__setitem__(number, (arguments, output))

    hooks = [module.register_forward_hook(remember(number)) for number, module in enumerate(modules)]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
