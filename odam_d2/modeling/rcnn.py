"""Two-stage detectors that remember which proposal each detection came from."""

from collections.abc import Sequence

import torch
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.structures import Instances
from torch import Tensor

from odam_d2.modeling.roi_heads import ProposalTracing
from odam_d2.modeling.tracing import (
    Keep,
    check_layers,
    inference_with_graph,
    leaf_features,
    paste_regions,
    stage_names,
    take_fields,
)
from odam_d2.structures import RoIs, Trace

_SOURCE_FIELDS = ("source_index", "source_boxes", "network_boxes")


@META_ARCH_REGISTRY.register()
class ODAMRCNN(GeneralizedRCNN):
    """Detectron2's :class:`GeneralizedRCNN` with :meth:`trace`; same arguments, parameters and detections.

    Its ROI heads must be traceable: ``ODAMROIHeads``, ``ODAMCascadeROIHeads`` or ``ODAMRes5ROIHeads``.
    """

    @property
    def layers(self) -> list[str]:
        """Layers this detector can be explained at."""
        return [*stage_names(self.backbone), "fpn", "roi_pool"]

    def trace(
        self, batched_input: dict, layers: Sequence[str] = ("fpn",), keep: Keep | None = None
    ) -> tuple[Instances, Trace]:
        """Detect objects in one image and remember what explaining them needs.

        Args:
            batched_input: ``image`` (3,h,w), ``height``, ``width`` as Detectron2's models take them.
            layers: layers to explain at: ``fpn``, ``roi_pool`` and bottom-up stages such as ``res4``.
            keep: picks the detections to trace; default all.

        Returns:
            the detections as the model itself returns them, and their trace.

        Raises:
            ValueError: unknown layer, or ROI heads that cannot be traced.
        """
        heads = self.roi_heads
        if not isinstance(heads, ProposalTracing):
            raise ValueError(
                f"{type(heads).__name__} cannot be explained; set MODEL.ROI_HEADS.NAME to ODAMROIHeads (Faster and "
                "Mask R-CNN), ODAMCascadeROIHeads (Cascade R-CNN) or ODAMRes5ROIHeads (C4)"
            )
        check_layers(layers, self.layers)
        with inference_with_graph(self):
            images = self.preprocess_image([batched_input])
            features, stages, strides = leaf_features(self.backbone, images.tensor, layers)
            instances = self._detect(batched_input, images, features)
            if keep is not None:
                instances = instances[keep(instances)]
            sources = take_fields(instances, _SOURCE_FIELDS)
            regions = sources["source_boxes"]
            # Detections of several classes can come from one proposal: its region is pooled once.
            proposals, rows = torch.unique(sources["source_index"], return_inverse=True)
            first = torch.empty_like(proposals).scatter_(0, rows, torch.arange(len(rows), device=rows.device))
            outputs, pooled = heads.differentiable_outputs(features, regions[first], rows, instances.pred_classes)
            trace = Trace(
                boxes=sources["network_boxes"],
                scores=instances.scores,
                classes=instances.pred_classes,
                outputs=outputs,
                features={**{f: features[f] for f in heads.region_features}, **stages},
                strides=strides,
                levels=heads.levels_of(regions[:, -1]),
                index=sources["source_index"],
                image_size=images.image_sizes[0],
                padded_size=tuple(images.tensor.shape[-2:]),
                output_size=instances.image_size,
                rois=RoIs(pooled, rows, regions[:, -1], paste_regions),
            )
        return instances, trace

    @torch.no_grad()
    def _detect(self, batched_input: dict, images, features: dict[str, Tensor]) -> Instances:
        detached = {name: x.detach() for name, x in features.items()}
        (proposals,), _ = self.proposal_generator(images, detached, None)
        result = self.roi_heads.detect(detached, proposals)
        result.network_boxes = result.pred_boxes.tensor.clone()
        return self._postprocess([result], [batched_input], images.image_sizes)[0]["instances"]
