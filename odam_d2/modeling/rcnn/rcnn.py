"""Two-stage detectors that can be asked why."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from odam_d2.modeling.explainable import Observation, check_layers, evaluating, with_nms_layers
from odam_d2.modeling.features import ImageFeatures, join, observe_features, stage_names
from odam_d2.modeling.layer_groups import layer_groups
from odam_d2.modeling.rcnn.observation import RegionObservation, regions_of
from odam_d2.modeling.rcnn.roi_heads import ExplainableROIHeads
from odam_d2.nms.family import NMS


@META_ARCH_REGISTRY.register()
class ODAMRCNN(GeneralizedRCNN):
    """Detectron2's :class:`GeneralizedRCNN` with :meth:`observe`; same arguments, parameters and detections.

    Its ROI heads must be explainable: ``ODAMROIHeads``, ``ODAMCascadeROIHeads`` or ``ODAMRes5ROIHeads``.
    """

    batched_layer = "roi_pool"

    @property
    def nms(self) -> NMS:
        """The last step of inference, which the ROI heads hold."""
        return self._heads.nms

    @property
    def num_classes(self) -> int:
        """Without background."""
        return self.roi_heads.num_classes

    @property
    def layers(self) -> list[str]:
        """Layers this detector can be explained at."""
        return [*stage_names(self.backbone), "fpn", "roi_pool"]

    @property
    def _heads(self) -> ExplainableROIHeads:
        if not isinstance(self.roi_heads, ExplainableROIHeads):
            raise ValueError(
                f"{type(self.roi_heads).__name__} cannot be explained; set MODEL.ROI_HEADS.NAME to ODAMROIHeads "
                "(Faster and Mask R-CNN), ODAMCascadeROIHeads (Cascade R-CNN) or ODAMRes5ROIHeads (C4)"
            )
        return self.roi_heads

    def observe(
        self,
        batched_inputs: Sequence[dict[str, Any]],
        layers: Sequence[str] = ("fpn",),
        places_of: Observation | Sequence[Tensor] | None = None,
    ) -> RegionObservation:
        """Implements :class:`odam_d2.modeling.explainable.ExplainableDetector`."""
        heads = self._heads
        check_layers(layers, self.layers)
        layers = with_nms_layers(layers, heads.nms)
        given = None if places_of is None else self._given_regions(places_of, len(batched_inputs))
        with evaluating(self, gradients=bool(layers)):
            images = self.preprocess_image(batched_inputs)
            features = observe_features(self.backbone, images.tensor, layers)
            if given is None:
                with torch.no_grad():
                    given = regions_of(self._propose(batched_inputs, images, features))
        return RegionObservation(heads, layers, images, features, given, batched_inputs, postprocess=self._postprocess)

    def _given_regions(self, places_of: Observation | Sequence[Tensor], count: int) -> list[Tensor]:
        """The regions of every image that ``places_of`` means, (R,S,4) each."""
        if isinstance(places_of, RegionObservation):
            return [places_of.regions(image) for image in range(len(places_of))]
        if isinstance(places_of, Observation):
            raise ValueError("a two-stage detector looks at regions; the other observation is of a detector without")
        stages = len(self._heads.box_stages())
        regions = [own.detach().to(self.device) for own in places_of]
        if len(regions) != count or any(own.shape[1:] != (stages, 4) for own in regions):
            raise ValueError(
                f"regions of shapes {[tuple(own.shape) for own in regions]} were given for {count} images; each needs "
                f"(regions,{stages},4), what every stage of the box head pools"
            )
        return regions

    def _propose(
        self, batched_inputs: Sequence[dict[str, Any]], images: ImageList, features: Sequence[ImageFeatures]
    ) -> list[Instances]:
        """The regions of every image: the first stage's, or those that came with the images."""
        if self.proposal_generator is None:
            if any("proposals" not in one for one in batched_inputs):
                raise ValueError("this detector has no first stage: give every image its 'proposals'")
            return [one["proposals"].to(self.device) for one in batched_inputs]
        joined = {name: join(features, name).detach() for name in features[0].outputs}
        return self.proposal_generator(images, joined, None)[0]

    def layer_groups(self) -> dict[str, list[nn.Parameter]]:
        """Implements :class:`odam_d2.modeling.explainable.ExplainableDetector`."""
        return layer_groups(self)
