"""ODAM-Train, section 6.1, inside a detector's training step: maps of its positives, and the losses on them.

Shapes: P positives of one image, (h,w) network input before padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes
from detectron2.structures.boxes import matched_pairwise_iou
from torch import Tensor

from odam_d2.explain import ExplainSettings, GradientExplainer
from odam_d2.losses.odam_train import NEGATIVES, odam_train_losses
from odam_d2.modeling.explainable import Observation
from odam_d2.modeling.positives import Positives
from odam_d2.structures import Trace

# Pixels of the network input that a cell of the compared maps stands for.
MAP_STRIDE = 16


@dataclass(frozen=True)
class ODAMTrain:
    """What ``ODAM.TRAIN`` asks for: ``train.losses(observation, positives)`` in a training step.

    Args:
        explainer: how maps are made.
        weight: factor of both losses.
        negatives: ``all`` or ``overlapping``, see :func:`odam_d2.losses.odam_train_losses`.
        second_order: True: the losses reach whatever made the maps, through the gradients dY/dA too, as in the paper.
            False: gradients count as constants and the losses reach the features alone, as in its authors' code.
        max_samples: of more positives in an image those with the highest IoU are taken, every object's best among them.

    Raises:
        ValueError: a value out of its range.
    """

    explainer: GradientExplainer
    weight: float = 1.0
    negatives: str = "all"
    second_order: bool = True
    max_samples: int = 300

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(f"ODAM.TRAIN.WEIGHT is {self.weight}; it must be more than 0 (ODAM.TRAIN.ENABLED False)")
        if self.negatives not in NEGATIVES:
            raise ValueError(f"ODAM.TRAIN.NEGATIVES is {self.negatives!r}; valid values are {', '.join(NEGATIVES)}")
        if self.max_samples < 2:
            raise ValueError(f"ODAM.TRAIN.MAX_SAMPLES is {self.max_samples}; a pair needs at least 2")

    @classmethod
    def from_config(cls, cfg: CfgNode, layer: str) -> "ODAMTrain | None":
        """What a config asks for; None where that is nothing.

        Args:
            cfg: the experiment.
            layer: at which the detector explains many predictions together.

        Raises:
            ValueError: a value out of its range.
        """
        options = cfg.ODAM.TRAIN
        if not options.ENABLED:
            return None
        settings = ExplainSettings(layer=layer, path=options.PATH, memory=cfg.ODAM.EXPLAIN.MEMORY)
        return cls(
            explainer=GradientExplainer.from_settings(settings),
            weight=options.WEIGHT,
            negatives=options.NEGATIVES,
            second_order=options.SECOND_ORDER,
            max_samples=options.MAX_SAMPLES,
        )

    def losses(self, observation: Observation, positives: Sequence[Positives]) -> dict[str, Tensor]:
        """``loss_odam_con`` and ``loss_odam_sep``: means over the images of L_con / N and L_sep / N.

        An image without pairs counts as 0.

        Args:
            observation: of the training batch, with graph.
            positives: of each of its images.
        """
        found = [self._losses_of(observation, image, own) for image, own in enumerate(positives)]
        consistency, separation = (torch.stack(parts).mean() for parts in zip(*found))
        return {"loss_odam_con": self.weight * consistency, "loss_odam_sep": self.weight * separation}

    def _losses_of(self, observation: Observation, image: int, positives: Positives) -> tuple[Tensor, Tensor]:
        if not len(positives.places):
            # An image without objects has nothing to be told apart; other losses keep the graph.
            zero = positives.boxes.new_zeros(())
            return zero, zero
        trace = observation.trace(image, positives.places, positives.classes)
        if not torch.isfinite(trace.logits).all():
            # The detector has come apart, and so have its other losses: whoever looks at losses says so.
            lost = trace.logits.new_tensor(float("nan"))
            return lost, lost
        objects = positives.objects
        ious = matched_pairwise_iou(Boxes(trace.boxes.detach()), Boxes(positives.boxes))
        if len(ious) > self.max_samples:
            chosen = best_samples(objects, ious, self.max_samples)
            positives = Positives(*(values[chosen] for values in positives))
            objects, ious = objects[chosen], ious[chosen]
            trace = observation.trace(image, positives.places, positives.classes)
        maps = self._maps(trace)
        found = odam_train_losses(maps, objects, ious, positives.boxes, self.negatives)
        return found.consistency, found.separation

    def _maps(self, trace: Trace) -> Tensor:
        """The positives' maps of the class logit, all of one size, (P,h/16,w/16)."""
        graph = "all" if self.second_order else "activations"
        size = [max(1, round(side / MAP_STRIDE)) for side in trace.image_size]
        return self.explainer(trace, "class_logit", graph).to_image((size[0], size[1]))


def best_samples(objects: Tensor, ious: Tensor, count: int) -> Tensor:
    """The samples with the highest IoU, but the best of every object before all others.

    Args:
        objects: number of the object that each shows, (P,) int64, from 0 on.
        ious: (P,) in [0,1].
        count: how many.

    Returns:
        (count,) int64, ascending.
    """
    order = ious.sort(descending=True, stable=True).indices
    # The first of each object in that order.
    first = torch.full((int(objects.max()) + 1,), len(order), device=order.device)
    first = first.scatter_reduce(0, objects[order], torch.arange(len(order), device=order.device), "amin")
    rank = ious[order].clone()
    rank[first[first < len(order)]] += 2
    return order[rank.sort(descending=True, stable=True).indices[:count]].sort().values
