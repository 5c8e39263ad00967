"""Dense detectors that hold an NMS of choice and know where each candidate comes from.

Shapes: N images, D candidates, K classes, A anchors per location, E embedding, (Hl,Wl) level.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from odam_d2.modeling.explainable import record_outputs, take_fields
from odam_d2.nms.family import CandidateNMS
from odam_d2.structures import Subnet, Trace

# Fields that ride on Detectron2's Instances until it is known which candidates stay.
SOURCE_FIELDS = ("source_level", "source_index")
# (position among the towers' modules, number of the level) -> output for all images of the batch.
Seen = Callable[[int, int], Tensor]


class DenseNMS(DenseDetector):
    """Mixin for :class:`DenseDetector` subclasses: the last step of inference is an NMS of the family.

    With greedy NMS every method is Detectron2's own.

    Args:
        nms: default greedy.
        **kwargs: the detector's own.
    """

    def __init__(self, *, nms: CandidateNMS | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.nms = nms or CandidateNMS()
        # Whether detections keep their SOURCE_FIELDS, for tracing.
        self._recording = False
        # What inference_single_image needs of the batch and Detectron2 does not hand on.
        self._seen: Seen | None = None
        self._pyramid: Sequence[Tensor] = ()
        self._image = 0

    def output_sizes(self) -> list[int]:
        """Values per anchor of each of the head's outputs; class logits first, box deltas second."""
        return [self.num_classes, 4]

    def subnets(self) -> list[tuple[nn.Sequential, dict[int, nn.Conv2d]]]:
        """The head's subnets: a tower, and by number of the head's output the convolution on it that makes it.

        Empty for a head of another make, which can be explained, but not in reverse.
        """
        if not isinstance(getattr(self.head, "cls_subnet", None), nn.Sequential):
            return []
        return [(self.head.cls_subnet, {0: self.head.cls_score}), (self.head.bbox_subnet, {1: self.head.bbox_pred})]

    @property
    def iou_threshold(self) -> float:
        """Of NMS, T_iou of ODAM-NMS."""
        return self.test_nms_thresh

    @contextmanager
    def watching_towers(self) -> Iterator[None]:
        """Remember, inside the ``with`` block, what the towers' modules return, for the NMS that follows the head."""
        with record_outputs([m for tower, _ in self.subnets() for m in flat_modules(tower)]) as self._seen:
            try:
                yield
            finally:
                self._seen = None

    def forward(self, batched_inputs: list[dict]) -> Any:
        """Overrides Detectron2's to remember what the head's towers saw, where NMS compares heat maps."""
        if self.training or not self.nms.needs_maps:
            return super().forward(batched_inputs)
        with self.watching_towers():
            return super().forward(batched_inputs)

    def forward_inference(self, images: ImageList, features: list[Tensor], predictions: list[list[Tensor]]) -> Any:
        """Overrides Detectron2's to run image by image, so that NMS knows which one it is at."""
        if self.nms.is_greedy:
            return super().forward_inference(images, features, predictions)
        results = []
        self._pyramid = features
        try:
            for self._image, size in enumerate(images.image_sizes):
                one = slice(self._image, self._image + 1)
                image = ImageList(images.tensor[one], [size])
                outputs = [[level[one] for level in output] for output in predictions]
                results += super().forward_inference(image, [level[one] for level in features], outputs)
        finally:
            self._pyramid = ()
        return results

    def _decode_multi_level_predictions(self, anchors, pred_scores, pred_deltas, score_thresh, topk, image_size):
        """Overrides Detectron2's to note level and flat index of every candidate."""
        pred = super()._decode_multi_level_predictions(
            anchors, pred_scores, pred_deltas, score_thresh, topk, image_size
        )
        if self._recording or not self.nms.is_greedy:
            # The same filter and top-k on the same scores as in `_decode_per_level_predictions`, for the indices.
            sources = []
            for level, scores in enumerate(pred_scores):
                candidates = (scores > score_thresh).nonzero()
                best = scores[scores > score_thresh].topk(min(len(candidates), topk)).indices
                index = candidates[best, 0]
                sources.append(torch.stack([torch.full_like(index, level), index], dim=1))
            pred.source_level, pred.source_index = torch.cat(sources).unbind(1)
        return pred

    def inference_single_image(self, anchors, box_cls, box_delta, image_size) -> Instances:
        """Overrides Detectron2's to apply :attr:`nms`; ``nms_maps`` of the result are what ODAM-NMS compared."""
        if self.nms.is_greedy:
            return super().inference_single_image(anchors, box_cls, box_delta, image_size)
        found = self._decode_multi_level_predictions(
            anchors, box_cls, box_delta, self.test_score_thresh, self.test_topk_candidates, image_size
        )
        trace = self._candidate_trace(found)
        has_head = getattr(self, "embedding_head", None) is not None
        embeddings = partial(self._candidate_embeddings, found) if has_head else None
        chosen = self.nms(trace, self.test_nms_thresh, self.max_detections_per_image, embeddings)
        found = found[chosen.keep]
        found.scores = chosen.kept_scores
        if chosen.maps is not None:
            found.nms_maps = chosen.maps[chosen.keep]
        if not self._recording:
            take_fields(found, SOURCE_FIELDS)
        return found

    def _candidate_trace(self, found: Instances) -> Trace:
        """A trace of all candidates, enough for maps of their class logits by the reversed head."""
        names, subnets, outputs = self.head_in_features, (), {}
        if self.nms.needs_maps:
            if not self.subnets():
                raise ValueError(
                    f"ODAM-NMS cannot run the head {type(self.head).__name__} in reverse: it has no cls_subnet; "
                    "set ODAM.NMS.NAME to greedy, soft or feature"
                )
            # The gradient of one logit by all of them does not depend on their values, and no other output matters.
            logits = found.scores.new_zeros((len(found), self.num_classes), requires_grad=True)
            with torch.enable_grad():
                outputs = {"class_logit": logits.gather(1, found.pred_classes[:, None])[:, 0]}
            tower, predictors = self.subnets()[0]
            subnets = (self.subnet_of_image(0, tower, ((predictors[0], logits),), self._image),)
        shapes = self.backbone.output_shape()
        return Trace(
            boxes=found.pred_boxes.tensor,
            scores=found.scores,
            classes=found.pred_classes,
            outputs=outputs,
            features={f: x[self._image : self._image + 1] for f, x in zip(names, self._pyramid)},
            strides={f: shapes[f].stride for f in names},
            levels=[names[level] for level in found.source_level.tolist()],
            index=found.source_index,
            image_size=found.image_size,
            padded_size=tuple(s * shapes[names[0]].stride for s in self._pyramid[0].shape[-2:]),
            output_size=found.image_size,
            subnets=subnets,
        )

    def subnet_of_image(self, first: int, tower: nn.Module, predictors: tuple, image: int) -> Subnet:
        """What a subnet saw of one image.

        Args:
            first: position of its first module among those of :meth:`watching_towers`.
            tower: the subnet's.
            predictors: see :class:`odam_d2.structures.Subnet`.
            image: number of the image in the batch.
        """
        modules = flat_modules(tower)
        places = range(first, first + len(modules))
        return Subnet(
            tower=modules,
            seen={
                f: tuple(self._seen(p, level)[image : image + 1] for p in places)
                for level, f in enumerate(self.head_in_features)
            },
            predictors=predictors,
        )

    def _candidate_embeddings(self, found: Instances) -> Tensor:
        """FeatureNMS's embeddings of the candidates, (D,E)."""
        embedded = self.embed([level[self._image : self._image + 1] for level in self._pyramid])
        counts = torch.tensor([level.shape[1] for level in embedded], device=found.source_level.device)
        first = counts.cumsum(0) - counts
        return torch.cat([level[0] for level in embedded])[first[found.source_level] + found.source_index]


def flat_modules(tower: nn.Module) -> tuple[nn.Module, ...]:
    """A tower's modules in order, containers opened."""
    if isinstance(tower, nn.Sequential):
        return tuple(module for child in tower for module in flat_modules(child))
    return (tower,)
