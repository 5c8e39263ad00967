"""One forward pass of a two-stage detector, and every question to it.

A place is a region that the first stage proposed, in its order.

Shapes: D predictions, R regions, S stages, K classes, B boxes a region (1, or K where each class has its own).
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor

from odam_d2.modeling.explainable import Observation, check_predictions
from odam_d2.modeling.features import ImageFeatures, join, paste_regions
from odam_d2.modeling.rcnn.stages import RegionOutputs, run_stages
from odam_d2.nms.candidates import Candidates
from odam_d2.structures import Predictions, Regions, Trace

if TYPE_CHECKING:
    from odam_d2.modeling.rcnn.roi_heads import ExplainableROIHeads

# (detections in network-input pixels, inputs, their sizes) -> detections in image pixels.
Postprocess = Callable[[list[Instances], Sequence[dict[str, Any]], Sequence[tuple[int, int]]], list[dict[str, Any]]]


class RegionObservation(Observation):
    """What one forward pass of a two-stage detector leaves behind.

    The box head has run over all regions without graph; on those that are traced it runs again, with graph: a graph
    over all of them would cost more. Only an NMS that compares maps of pooled regions has it recorded on all, from the
    pooled regions on.

    Args:
        heads: the detector's ROI heads.
        layers: at which predictions can be explained.
        images: the padded batch.
        features: of every image, what the heads read among them.
        regions: of every image, (R,1,4), or (R,S,4) where all stages' are known.
        inputs: as in :class:`Observation`.
        evaluation: as in :class:`Observation`.
        postprocess: Detectron2's, of the detector; None where only network-input pixels are asked for.
    """

    def __init__(
        self,
        heads: "ExplainableROIHeads",
        layers: Sequence[str],
        images: ImageList,
        features: Sequence[ImageFeatures],
        regions: Sequence[Tensor],
        inputs: Sequence[dict[str, Any]] = (),
        evaluation: bool = True,
        postprocess: Postprocess | None = None,
    ):
        super().__init__(heads, layers, images.image_sizes, images.tensor.shape[-2:], inputs, evaluation)
        self._features, self._given, self._scale = features, regions, postprocess
        self._records_all = bool(layers) and "roi_pool" in heads.nms.layers

    def feature_maps(self, names: Sequence[str]) -> list[Tensor]:
        """Feature maps of all images, each (N,C,Hl,Wl), as they are, with or without graph."""
        return [join(self._features, name) for name in names]

    def regions(self, image: int) -> Tensor:
        """What every stage pools at the places of an image, (R,S,4)."""
        given = self._given[image]
        return given if given.shape[1] == len(self.detector.box_stages()) else self._outputs(image).regions

    def _outputs(self, image: int) -> RegionOutputs:
        """The box head's outputs on all regions of an image."""

        def run() -> RegionOutputs:
            own = {name: x.detach() for name, x in self._features[image].outputs.items()}
            options = self._given[image], self.image_sizes[image], self._records_all
            return self._in_mode(self._records_all, run_stages, self.detector, own, *options)

        return self._once("outputs", image, run)

    def _candidates(self, image: int) -> Candidates:
        """Regions whose class scores exceed the detector's threshold, row by row, as Detectron2 hands them to its NMS.

        ``fast_rcnn_inference`` does this and NMS in one; Detectron2 has no function for the first half alone.
        """
        heads, outputs = self.detector, self._outputs(image)
        predictor = heads.box_stages()[-1][1]
        all_boxes, all_scores = outputs.boxes.detach(), outputs.probabilities.detach()
        finite = torch.isfinite(all_boxes).flatten(1).all(dim=1) & torch.isfinite(all_scores).all(dim=1)
        above = (all_scores[:, :-1] > predictor.test_score_thresh) & finite[:, None]
        places, classes = above.nonzero().unbind(1)
        column = classes if all_boxes.shape[1] > 1 else torch.zeros_like(classes)
        boxes = Boxes(all_boxes[places, column])
        boxes.clip(self.image_sizes[image])
        has_embeddings = getattr(heads, "embedding_head", None) is not None
        return Candidates(
            boxes=boxes.tensor,
            scores=all_scores[places, classes],
            classes=classes,
            places=places,
            image_size=self.image_sizes[image],
            trace=lambda: self._trace_candidates(image, places, classes),
            embeddings=(lambda: heads.embed(outputs.box_features)[places]) if has_embeddings else None,
        )

    def _trace_candidates(self, image: int, places: Tensor, classes: Tensor) -> Trace:
        if not self._records_all:
            return self.trace(image, places, classes)
        outputs = self._outputs(image)
        return self._in_mode(True, self._trace_rows, image, outputs, places, places, classes, ("roi_pool",))

    def _predictions(self, image: int) -> Predictions:
        outputs = self._outputs(image)
        vectors = outputs.probabilities.detach()[:, :-1]
        return Predictions(outputs.boxes.detach(), vectors, vectors, None, self.image_sizes[image])

    def _nms_limits(self) -> tuple[float, int]:
        predictor = self.detector.box_stages()[-1][1]
        return predictor.test_nms_thresh, predictor.test_topk_per_image

    def _raw_detections(self, image: int) -> Instances:
        found = super()._raw_detections(image)
        features = {name: x.detach() for name, x in self._features[image].outputs.items()}
        # Masks and keypoints, where the detector has them.
        return self.detector.forward_with_given_boxes(features, [found])[0]

    def _postprocess(self, found: list[Instances]) -> list[Instances]:
        if self._scale is None:
            raise ValueError("these heads do not know the images' sizes; ask the detector, or for raw_detections()")
        return [output["instances"] for output in self._scale(found, self.inputs, self.image_sizes)]

    def _trace(self, image: int, places: Tensor, classes: Tensor) -> Trace:
        regions = self.regions(image)
        check_predictions(places, classes, len(regions), self.detector.num_classes)
        # Predictions of several classes can be made at one place: its region is pooled once.
        distinct, rows = torch.unique(places, return_inverse=True)
        features = self._features[image]
        outputs = run_stages(self.detector, features.outputs, regions[distinct], self.image_sizes[image])
        layers = tuple(dict.fromkeys((*self.layers, "fpn", "roi_pool")))
        return self._trace_rows(image, outputs, rows, places, classes, layers)

    def _trace_rows(
        self,
        image: int,
        outputs: RegionOutputs,
        rows: Tensor,
        places: Tensor,
        classes: Tensor,
        layers: tuple[str, ...],
    ) -> Trace:
        """A trace of predictions whose outputs stand in some rows of ``outputs``."""
        heads, features = self.detector, self._features[image]
        # Class-agnostic regression predicts one box for all classes.
        column = classes if outputs.boxes.shape[1] > 1 else torch.zeros_like(classes)
        return Trace(
            places=places,
            classes=classes,
            boxes=outputs.boxes[rows, column],
            logits=outputs.logits[rows, :-1],
            class_vectors=outputs.probabilities[rows, :-1],
            features={name: features.outputs[name] for name in heads.region_features} | features.stages,
            strides=features.strides,
            levels=heads.levels_of(outputs.regions[rows, -1]),
            layers=layers,
            image_size=self.image_sizes[image],
            padded_size=self.padded_size,
            output_size=self.output_size(image),
            regions=Regions(outputs.pooled, rows, outputs.regions[rows], paste_regions),
            pixels=self.pixels(image),
            batch=features.batch,
        )


def regions_of(proposals: Sequence[Instances]) -> list[Tensor]:
    """The boxes of proposals as places, of each image (R,1,4)."""
    return [of_image.proposal_boxes.tensor[:, None] for of_image in proposals]
