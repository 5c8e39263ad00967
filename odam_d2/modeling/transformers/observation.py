"""One forward pass of a transformer detector, and every question to it.

A place is a query, in the order of the library's outputs.

Shapes: N images, Q queries, D predictions, K classes, (H,W) padded image, (h,w) image before padding.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import ImageList, Instances
from torch import Tensor

from odam_d2.modeling.explainable import Observation, check_predictions
from odam_d2.modeling.transformers.recording import Recording
from odam_d2.nms.candidates import Candidates
from odam_d2.structures import Attention, Predictions, Trace, full_precision

if TYPE_CHECKING:
    from odam_d2.modeling.transformers.detector import ODAMDETR


class QueryObservation(Observation):
    """What one forward pass of a transformer detector leaves behind.

    Args:
        detector: whose it is.
        layers: at which predictions can be explained.
        images: the padded batch.
        logits: of all queries, (N,Q,C) as the library gives them, with graph where there are layers.
        boxes: of all queries, (N,Q,4), centre and size in parts of the image.
        recordings: what else each image's pass left behind; one for the whole batch where there are no layers.
        inputs: as in :class:`Observation`.
    """

    def __init__(
        self,
        detector: "ODAMDETR",
        layers: Sequence[str],
        images: ImageList,
        logits: Tensor,
        boxes: Tensor,
        recordings: Sequence[Recording],
        inputs: Sequence[dict[str, Any]] = (),
    ):
        super().__init__(detector, layers, images.image_sizes, images.tensor.shape[-2:], inputs)
        self._logits, self._boxes, self._recordings = logits, boxes, recordings

    def selected(self, image: int) -> Tensor | None:
        """The locations of an image that became its queries, (1,Q); None for a detector whose queries are learned."""
        if len(self._recordings) == len(self):
            return self._recordings[image].selected
        (every,) = self._recordings
        return None if every.selected is None else every.selected[image : image + 1]

    def _outputs(self, image: int) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (Q,K), class probabilities (Q,K) and boxes (Q,4) in network-input pixels, of all queries."""
        # At least in full precision, whatever the network ran in: pixels need more digits than half of it has.
        logits, boxes = full_precision(self._logits[image]), full_precision(self._boxes[image])
        detector = self.detector
        centre, size = boxes.split(2, dim=-1)
        height, width = self.image_sizes[image] if detector.family.masks else self.padded_size
        corners = torch.cat([centre - 0.5 * size, centre + 0.5 * size], dim=-1)
        corners = corners * corners.new_tensor([width, height, width, height])
        return *detector.read_classes(logits), corners

    def _candidates(self, image: int) -> Candidates:
        """The queries, or pairs of a query and a class, that the library's own post-processing looks at."""
        detector = self.detector
        _, probabilities, boxes = self._outputs(image)
        if not torch.isfinite(probabilities).all() or not torch.isfinite(boxes).all():
            raise ValueError("the detector's outputs are not finite; check the weights and the image")
        if detector.family.best_class_alone:
            scores, classes = probabilities.max(dim=1)
            places = torch.arange(len(scores), device=scores.device)
        else:
            most = len(probabilities) if detector.family.as_many_as_queries else detector.max_detections_per_image
            scores, index = probabilities.flatten().topk(min(most, probabilities.numel()))
            places = index.div(probabilities.shape[1], rounding_mode="floor")
            classes = index % probabilities.shape[1]
        kept = (scores > detector.test_score_thresh).nonzero()[:, 0]
        places, classes = places[kept], classes[kept]
        return Candidates(
            boxes=boxes[places],
            scores=scores[kept],
            classes=classes,
            places=places,
            image_size=self.image_sizes[image],
            trace=lambda: self.trace(image, places, classes),
        )

    def _predictions(self, image: int) -> Predictions:
        _, probabilities, boxes = self._outputs(image)
        return Predictions(boxes[:, None], probabilities, probabilities, None, self.image_sizes[image])

    def _nms_limits(self) -> tuple[float, int]:
        return self.detector.test_nms_thresh, self.detector.max_detections_per_image

    def _postprocess(self, found: list[Instances]) -> list[Instances]:
        return [detector_postprocess(own, *self.output_size(image)) for image, own in enumerate(found)]

    def _trace(self, image: int, places: Tensor, classes: Tensor) -> Trace:
        logits, probabilities, boxes = self._outputs(image)
        check_predictions(places, classes, len(logits), self.detector.num_classes)
        own = self._recordings[image]
        strides = self.detector.strides
        # What "fpn" means here: the map that all others are made from, after the backbone's last stage.
        last = self.detector.last_stage
        features = {name: one for name, one in zip(strides, own.maps()) if name in (*self.layers, last)}
        return Trace(
            places=places,
            classes=classes,
            boxes=boxes[places],
            logits=logits[places],
            class_vectors=probabilities[places],
            features=features,
            strides={name: strides[name] for name in features},
            levels=[last] * len(places),
            layers=self.layers,
            image_size=self.image_sizes[image],
            padded_size=self.padded_size,
            output_size=self.output_size(image),
            pixels=self.pixels(image),
            attends=True,
            attention=self._attention(own),
            tokens=self._logits[image][places] if self.detector.family.tokens else None,
        )

    def _attention(self, own: Recording) -> Attention | None:
        if not own.cross_attention:
            return None
        height, width = own.encoded[0].shape[-2:]
        return Attention(
            encoder=own.encoder_attention,
            decoder=own.self_attention,
            cross=own.cross_attention,
            cells=(int(height), int(width)),
            stride=list(self.detector.strides.values())[-1],
        )
