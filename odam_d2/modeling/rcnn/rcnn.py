"""Two-stage detectors that remember which proposal each detection came from."""

from collections.abc import Sequence

import torch
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.structures import ImageList, Instances

from odam_d2.modeling.explainable import (
    ImageFeatures,
    Keep,
    Tracing,
    check_layers,
    inference_with_graph,
    join,
    leaf_features,
    paste_regions,
    stage_names,
    take_fields,
)
from odam_d2.modeling.rcnn.roi_heads import SOURCE_FIELDS, ProposalTracing
from odam_d2.nms.family import CandidateNMS
from odam_d2.structures import RoIs, Trace

_TRACED_FIELDS = (*SOURCE_FIELDS, "network_boxes")


@META_ARCH_REGISTRY.register()
class ODAMRCNN(Tracing, GeneralizedRCNN):
    """Detectron2's :class:`GeneralizedRCNN` with :meth:`trace`; same arguments, parameters and detections.

    Its ROI heads must be traceable: ``ODAMROIHeads``, ``ODAMCascadeROIHeads`` or ``ODAMRes5ROIHeads``.
    """

    @property
    def nms(self) -> CandidateNMS:
        """The last step of inference, which the ROI heads hold."""
        return self._traceable_heads().nms

    @property
    def iou_threshold(self) -> float:
        """Of NMS, T_iou of ODAM-NMS."""
        return self._traceable_heads().box_stages()[-1][1].test_nms_thresh

    @property
    def layers(self) -> list[str]:
        """Layers this detector can be explained at."""
        return [*stage_names(self.backbone), "fpn", "roi_pool"]

    def trace_batch(
        self, batched_inputs: Sequence[dict], layers: Sequence[str] = ("fpn",), keep: Keep | None = None
    ) -> list[tuple[Instances, Trace]]:
        """Implements :meth:`odam_d2.modeling.explainable.Tracing.trace_batch`."""
        heads = self._traceable_heads()
        check_layers(layers, self.layers)
        with inference_with_graph(self):
            images = self.preprocess_image(batched_inputs)
            features, strides = leaf_features(self.backbone, images.tensor, layers)
            traced = []
            for i, instances in enumerate(self._detect(batched_inputs, images, features)):
                if keep is not None:
                    instances = instances[keep(instances)]
                sources = take_fields(instances, _TRACED_FIELDS)
                regions = sources["source_boxes"]
                # Detections of several classes can come from one proposal: its region is pooled once.
                proposals, rows = torch.unique(sources["source_index"], return_inverse=True)
                first = torch.empty_like(proposals).scatter_(0, rows, torch.arange(len(rows), device=rows.device))
                outputs, pooled = heads.differentiable_outputs(
                    features[i].outputs, regions[first], rows, instances.pred_classes
                )
                trace = Trace(
                    boxes=sources["network_boxes"],
                    scores=instances.scores,
                    classes=instances.pred_classes,
                    outputs=outputs,
                    features={**{f: features[i].outputs[f] for f in heads.region_features}, **features[i].stages},
                    strides=strides,
                    levels=heads.levels_of(regions[:, -1]),
                    index=sources["source_index"],
                    image_size=images.image_sizes[i],
                    padded_size=tuple(images.tensor.shape[-2:]),
                    output_size=instances.image_size,
                    rois=RoIs(pooled, rows, regions[:, -1], paste_regions),
                    pixels=batched_inputs[i]["image"],
                )
                traced.append((instances, trace))
        return traced

    def _traceable_heads(self) -> ProposalTracing:
        if not isinstance(self.roi_heads, ProposalTracing):
            raise ValueError(
                f"{type(self.roi_heads).__name__} cannot be explained; set MODEL.ROI_HEADS.NAME to ODAMROIHeads "
                "(Faster and Mask R-CNN), ODAMCascadeROIHeads (Cascade R-CNN) or ODAMRes5ROIHeads (C4)"
            )
        return self.roi_heads

    @torch.no_grad()
    def _detect(
        self, batched_inputs: Sequence[dict], images: ImageList, features: Sequence[ImageFeatures]
    ) -> list[Instances]:
        joined = {name: join(features, name).detach() for name in features[0].outputs}
        proposals, _ = self.proposal_generator(images, joined, None)
        results = []
        for own, of_image in zip(features, proposals):
            detached = {name: x.detach() for name, x in own.outputs.items()}
            results.append(self.roi_heads.detect(detached, of_image))
            results[-1].network_boxes = results[-1].pred_boxes.tensor.clone()
        outputs = self._postprocess(results, batched_inputs, images.image_sizes)
        return [output["instances"] for output in outputs]
