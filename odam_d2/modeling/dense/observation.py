"""Tracing of dense detectors: which level and which location each detection comes from, and its outputs with graph.

Shapes: D detections, A anchors per location, K classes, R = sum of Hl*Wl*A over the levels.
"""

from collections.abc import Iterator, Sequence

import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Instances
from torch import Tensor

from odam_d2.modeling.dense.detector import SOURCE_FIELDS, DenseNMS
from odam_d2.modeling.explainable import (
    Keep,
    Tracing,
    check_layers,
    inference_with_graph,
    join,
    leaf_features,
    stage_names,
    take_fields,
)
from odam_d2.structures import Subnet, Trace

# Fields that ride on Detectron2's Instances through NMS and post-processing while a detector is traced.
_TRACED_FIELDS = (*SOURCE_FIELDS, "network_boxes")


class DenseTracing(Tracing, DenseNMS):
    """Mixin for :class:`DenseDetector` subclasses whose detections can be explained.

    Subclasses say how the head's outputs become a score (:meth:`class_scores`) and how many values each output has
    at an anchor (:meth:`output_sizes`). Untraced and with greedy NMS, every method is Detectron2's own.
    """

    def class_scores(self, logits: Tensor, others: Sequence[Tensor]) -> Tensor:
        """What the detector ranks by.

        Args:
            logits: class logit of each detection, (D,).
            others: the head's outputs after the box deltas, at the same locations, each (D,values).

        Returns:
            (D,).
        """
        return logits.sigmoid()

    @property
    def layers(self) -> list[str]:
        """Layers this detector can be explained at."""
        return [*stage_names(self.backbone), "fpn"]

    def trace_batch(
        self, batched_inputs: Sequence[dict], layers: Sequence[str] = ("fpn",), keep: Keep | None = None
    ) -> list[tuple[Instances, Trace]]:
        """Implements :meth:`odam_d2.modeling.explainable.Tracing.trace_batch`."""
        check_layers(layers, self.layers)
        with inference_with_graph(self), self.watching_towers():
            images = self.preprocess_image(batched_inputs)
            features, strides = leaf_features(self.backbone, images.tensor, layers)
            pyramid = [join(features, name) for name in self.head_in_features]
            predictions = self.head(pyramid)
            traced = []
            for i, instances in enumerate(self._detect(batched_inputs, images, pyramid, predictions)):
                if keep is not None:
                    instances = instances[keep(instances)]
                sources = take_fields(instances, _TRACED_FIELDS)
                rows = self._rows([[level[i : i + 1] for level in output] for output in predictions], pyramid, sources)
                trace = Trace(
                    boxes=sources["network_boxes"],
                    scores=instances.scores,
                    classes=instances.pred_classes,
                    outputs=self._outputs(rows, instances.pred_classes),
                    features={**{f: features[i].outputs[f] for f in self.head_in_features}, **features[i].stages},
                    strides=strides,
                    levels=[self.head_in_features[level] for level in sources["source_level"].tolist()],
                    index=sources["source_index"],
                    image_size=images.image_sizes[i],
                    padded_size=tuple(images.tensor.shape[-2:]),
                    output_size=instances.image_size,
                    subnets=tuple(self._subnets(i, rows)),
                    pixels=batched_inputs[i]["image"],
                )
                traced.append((instances, trace))
        return traced

    @torch.no_grad()
    def _detect(self, batched_inputs, images, pyramid, predictions) -> list[Instances]:
        """Detectron2's inference on a copy of the outputs, which it overwrites, with bookkeeping fields."""
        copies = [[x.detach().clone() for x in output] for output in predictions]
        self._recording = True
        try:
            results = self.forward_inference(images, pyramid, copies)
        finally:
            self._recording = False
        found = []
        for result, batched_input, (height, width) in zip(results, batched_inputs, images.image_sizes):
            boxes = result.pred_boxes.clone()
            # Dense detectors clip only when they scale to the output size.
            boxes.clip((height, width))
            result.network_boxes = boxes.tensor
            size = batched_input.get("height", height), batched_input.get("width", width)
            found.append(detector_postprocess(result, *size))
        return found

    def _rows(self, predictions, pyramid, sources: dict) -> tuple[Tensor, ...]:
        """The detections' anchors (D,4), then every output of the head at them, (D,values) with graph."""
        outputs = self._transpose_dense_predictions(predictions, self.output_sizes())
        anchors = [a.tensor for a in self.anchor_generator(pyramid)]
        levels, index = sources["source_level"], sources["source_index"]
        # Gathered level by level: the graph of a detection must not touch the levels it does not come from.
        rows = [(levels == level).nonzero()[:, 0] for level in range(len(pyramid))]
        order = torch.cat(rows).argsort()

        def gather(per_level: Sequence[Tensor]) -> Tensor:
            return torch.cat([values[index[r]] for values, r in zip(per_level, rows)])[order]

        return gather(anchors), *(gather([level[0] for level in output]) for output in outputs)

    def _subnets(self, i: int, rows: tuple[Tensor, ...]) -> Iterator[Subnet]:
        """What the subnets saw of image i."""
        start = 0
        for tower, predictors in self.subnets():
            values = tuple((conv, rows[1 + output]) for output, conv in predictors.items())
            subnet = self.subnet_of_image(start, tower, values, i)
            start += len(subnet.tower)
            yield subnet

    def _outputs(self, rows: tuple[Tensor, ...], classes: Tensor) -> dict[str, Tensor]:
        """Differentiable outputs of the detections, each (D,)."""
        anchors, logits, deltas, *others = rows
        logit = logits.gather(1, classes[:, None])[:, 0]
        sides = self.box2box_transform.apply_deltas(deltas, anchors)
        return name_outputs(self.class_scores(logit, others), logit, sides)


def name_outputs(score: Tensor, logit: Tensor, boxes: Tensor) -> dict[str, Tensor]:
    """The outputs a target can name, sides signed outwards.

    Args:
        score: (D,).
        logit: (D,).
        boxes: decoded and unclipped, (D,4).
    """
    x1, y1, x2, y2 = boxes.unbind(1)
    return {"class_score": score, "class_logit": logit, "x1": -x1, "y1": -y1, "x2": x2, "y2": y2}
