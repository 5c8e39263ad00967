"""Dense detectors that can be asked, and that hold an NMS of choice.

Shapes: N images, K classes, V values an output has at an anchor, (Hl,Wl) level.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import ImageList, Instances
from detectron2.utils import comm
from torch import Tensor, nn

from odam_d2.modeling.dense.observation import DenseObservation, Outputs, flat_modules, whole_outputs
from odam_d2.modeling.explainable import Observation, check_layers, evaluating, with_nms_layers, without_place
from odam_d2.modeling.features import (
    ImageFeatures,
    Seen,
    join,
    observe_features,
    output_strides,
    record_outputs,
    stage_names,
)
from odam_d2.modeling.layer_groups import layer_groups
from odam_d2.modeling.odam_train import ODAMTrain
from odam_d2.modeling.positives import Positives
from odam_d2.nms.family import NMS, GreedyNMS
from odam_d2.structures import by_probability


class ExplainableDense(DenseDetector):
    """Mixin for :class:`DenseDetector` subclasses: an :class:`ExplainableDetector`.

    Subclasses say what the head's outputs mean (:meth:`read_outputs`, :meth:`output_sizes`). Not observed and with
    greedy NMS, every method is Detectron2's own, but that its head's outputs are read in full precision.

    Args:
        nms: the last step of inference; default greedy, Detectron2's own.
        odam_train: losses on the maps of a training batch's positives; None: training is Detectron2's own.
        **kwargs: the detector's own.
    """

    batched_layer = "fpn"
    # What it ranks predictions by.
    rank_by = staticmethod(by_probability)

    def __init__(self, *, nms: NMS | None = None, odam_train: ODAMTrain | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.nms = nms or GreedyNMS()
        self.odam_train = odam_train

    @property
    def layers(self) -> list[str]:
        """Layers this detector can be explained at."""
        return [*stage_names(self.backbone), "fpn"]

    def output_sizes(self) -> list[int]:
        """Values per anchor of each of the head's outputs; class logits first, box deltas second."""
        return [self.num_classes, 4]

    def read_outputs(self, logits: Tensor, others: Sequence[Tensor]) -> Outputs:
        """What the head's outputs mean.

        Args:
            logits: of the classes, (...,K).
            others: the head's outputs after the box deltas, at the same anchors, each (...,V).
        """
        return Outputs(logits.sigmoid())

    def subnets(self) -> list[tuple[nn.Sequential, dict[int, nn.Conv2d]]]:
        """The head's subnets: a tower, and by number of the head's output the convolution on it that makes it.

        Empty for a head of another make, which can be explained, but not in reverse.
        """
        if not isinstance(getattr(self.head, "cls_subnet", None), nn.Sequential):
            return []
        return [(self.head.cls_subnet, {0: self.head.cls_score}), (self.head.bbox_subnet, {1: self.head.bbox_pred})]

    @contextmanager
    def recording_towers(self) -> Iterator[Seen]:
        """Remember, inside the ``with`` block, what the modules of the subnets' towers return."""
        with record_outputs([m for tower, _ in self.subnets() for m in flat_modules(tower)]) as seen:
            yield seen

    def observe(
        self,
        batched_inputs: Sequence[dict[str, Any]],
        layers: Sequence[str] = ("fpn",),
        places_of: Observation | Sequence[Tensor] | None = None,
    ) -> DenseObservation:
        """Implements :class:`odam_d2.modeling.explainable.ExplainableDetector`."""
        check_layers(layers, self.layers)
        layers = with_nms_layers(layers, self.nms)
        with evaluating(self, gradients=bool(layers)):
            images = self.preprocess_image(batched_inputs)
            features = observe_features(self.backbone, images.tensor, layers)
            with self.recording_towers() if layers else nullcontext() as seen:
                predictions = self.head([join(features, name) for name in self.head_in_features])
            return DenseObservation(
                self, layers, images, features, predictions, seen, batched_inputs, places_of=places_of
            )

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Overrides Detectron2's where inference ends with another NMS than its own, and where maps are trained."""
        if self.training and self.odam_train is not None and torch.is_grad_enabled():
            return self._train_maps(batched_inputs)
        if self.training or isinstance(self.nms, GreedyNMS):
            return super().forward(batched_inputs)
        found = self.observe(batched_inputs, self.nms.layers).detections()
        return [{"instances": without_place(detections)} for detections in found]

    def forward_training(
        self,
        images: ImageList,
        features: list[Tensor],
        predictions: list[list[Tensor]],
        gt_instances: list[Instances],
    ) -> dict[str, Tensor]:
        """Overrides Detectron2's where precision is mixed: losses are of :func:`whole_outputs`."""
        return super().forward_training(images, features, whole_outputs(predictions), gt_instances)

    def forward_inference(
        self, images: ImageList, features: list[Tensor], predictions: list[list[Tensor]]
    ) -> list[Instances]:
        """Overrides Detectron2's where precision is mixed: detections are of :func:`whole_outputs`."""
        return super().forward_inference(images, features, whole_outputs(predictions))

    def _ema_update(self, name: str, value: float, initial_value: float, momentum: float = 0.9) -> float:
        """Overrides Detectron2's where maps are trained by several processes: they divide by what one process would.

        Gradients are averaged over the processes, so each divides by its share.
        """
        processes = comm.get_world_size()
        if self.odam_train is not None and processes > 1:
            total = torch.tensor(float(value), device=self.device)
            torch.distributed.all_reduce(total)
            value, initial_value = total.item() / processes, initial_value / processes
        return super()._ema_update(name, value, initial_value, momentum)

    def _train_maps(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """The detector's losses, and those on the maps of its positives, from one forward pass."""
        images = self.preprocess_image(batched_inputs)
        outputs = self.backbone(images.tensor)
        features = [outputs[name] for name in self.head_in_features]
        with self.recording_towers() as seen:
            predictions = self.head(features)
        objects = [one["instances"].to(self.device) for one in batched_inputs]
        losses = self.forward_training(images, features, predictions, objects)
        own = ImageFeatures.of_batch(outputs, output_strides(self.backbone))
        observation = DenseObservation(self, ("fpn",), images, own, predictions, seen, evaluation=False)
        labelled = zip(*self.label_anchors(self.anchor_generator(features), objects))
        positives = [Positives.of_labels(labels, boxes, self.num_classes) for labels, boxes in labelled]
        return losses | self.odam_train.losses(observation, positives)

    def layer_groups(self) -> dict[str, list[nn.Parameter]]:
        """Implements :class:`odam_d2.modeling.explainable.ExplainableDetector`."""
        return layer_groups(self)
