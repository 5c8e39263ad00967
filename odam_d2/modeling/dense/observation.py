"""One forward pass of a dense detector, and every question to it.

A place is an anchor at a location: the flat index over the levels, fine to coarse, in the order of Detectron2's
predictions, ``(y * Wl + x) * A + a`` within a level.

Shapes: N images, L places, D predictions, A anchors per location, K classes, V values an output has at an anchor,
(Hl,Wl) level.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from odam_d2.modeling.explainable import Observation, check_predictions
from odam_d2.modeling.features import ImageFeatures, Seen, join
from odam_d2.nms.candidates import Candidates
from odam_d2.structures import Predictions, Subnet, Trace, full_precision

if TYPE_CHECKING:
    from odam_d2.modeling.dense.detector import ExplainableDense


class Outputs(NamedTuple):
    """What a head's outputs mean.

    Attributes:
        class_vectors: probabilities of the classes, (...,K).
        objectness: of a detector that has one, (...).
    """

    class_vectors: Tensor
    objectness: Tensor | None = None


def whole_outputs(predictions: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
    """A head's outputs in full precision, whatever autocast made of them.

    FCOS decodes boxes in the precision of the distances, and half of it knows a side at 300 pixels by a pixel or two.

    Args:
        predictions: for each output a list over the levels.
    """
    return [[full_precision(level) for level in output] for output in predictions]


class DenseObservation(Observation):
    """What one forward pass of a dense detector leaves behind.

    Args:
        detector: whose it is.
        layers: at which predictions can be explained.
        images: the padded batch.
        features: of every image, what the head read among them.
        predictions: what the head returned, with graph where there are layers: for each output a list over the levels,
            (N,A*V,Hl,Wl).
        seen: what the towers' modules returned, see :meth:`ExplainableDense.recording_towers`; None: not recorded, the
            head cannot be run in reverse.
        inputs: as in :class:`Observation`.
        evaluation: as in :class:`Observation`.
        places_of: see :class:`odam_d2.modeling.explainable.ExplainableDetector`.

    Raises:
        ValueError: another number of places than ``places_of`` has, or regions, which a dense detector does not have.
    """

    def __init__(
        self,
        detector: "ExplainableDense",
        layers: Sequence[str],
        images: ImageList,
        features: Sequence[ImageFeatures],
        predictions: Sequence[Sequence[Tensor]],
        seen: Seen | None = None,
        inputs: Sequence[dict[str, Any]] = (),
        evaluation: bool = True,
        places_of: Observation | Sequence[Tensor] | None = None,
    ):
        super().__init__(detector, layers, images.image_sizes, images.tensor.shape[-2:], inputs, evaluation)
        self._features, self._head_outputs, self._towers = features, whole_outputs(predictions), seen
        self._levels = list(detector.head_in_features)
        self._level_maps = [join(features, name) for name in self._levels]
        self._anchors = detector.anchor_generator(self._level_maps)
        counts = torch.tensor([len(level) for level in self._anchors])
        self._ends = counts.cumsum(0).to(self._level_maps[0].device)
        self._first = self._ends - counts.to(self._ends)
        self.num_places = int(self._ends[-1])
        if places_of is not None and not isinstance(places_of, Observation):
            raise ValueError("a dense detector predicts at locations and has no regions; give it an observation")
        others = getattr(places_of, "num_places", self.num_places)
        if others != self.num_places:
            raise ValueError(f"these images have {self.num_places} places, but {others} in the other observation")

    @property
    def anchors(self) -> list[Boxes]:
        """The anchors of each level, in the order of its places."""
        return self._anchors

    def feature_maps(self, names: Sequence[str]) -> list[Tensor]:
        """Feature maps of all images, each (N,C,Hl,Wl), as they are, with or without graph."""
        return [join(self._features, name) for name in names]

    def outputs(self, image: int) -> list[list[Tensor]]:
        """The head's outputs at the places of an image: for each output a list over the levels, (Hl * Wl * A,V)."""
        own = [[level[image : image + 1] for level in output] for output in self._head_outputs]
        transposed = self.detector._transpose_dense_predictions(own, self.detector.output_sizes())
        return [[level[0] for level in output] for output in transposed]

    def _candidates(self, image: int) -> Candidates:
        detector = self.detector
        logits, deltas, *others = self.outputs(image)
        scores = [self._scores(own, level) for own, *level in zip(logits, *others)]
        thresholds = detector.test_score_thresh, detector.test_topk_candidates
        found = detector._decode_multi_level_predictions(
            self._anchors, scores, deltas, *thresholds, self.image_sizes[image]
        )
        # The same filter and top-k on the same scores as in `_decode_per_level_predictions`, for the places.
        places = []
        for first, own in zip(self._first, scores):
            above = own > thresholds[0]
            best = own[above].topk(min(int(above.sum()), thresholds[1])).indices
            places.append(first + above.nonzero()[best, 0])
        place = torch.cat(places)
        classes = found.pred_classes
        has_embeddings = getattr(detector, "embedding_head", None) is not None
        return Candidates(
            boxes=found.pred_boxes.tensor,
            scores=found.scores,
            classes=classes,
            places=place,
            image_size=self.image_sizes[image],
            trace=lambda: self.trace(image, place, classes),
            embeddings=(lambda: self._embeddings(image)[place]) if has_embeddings else None,
        )

    def _scores(self, logits: Tensor, others: Sequence[Tensor]) -> Tensor:
        """What the detector ranks by, (...,K)."""
        vectors, objectness = self.detector.read_outputs(logits, others)
        return self.detector.rank_by(vectors, None if objectness is None else objectness[..., None])

    def _embeddings(self, image: int) -> Tensor:
        """FeatureNMS's embeddings of all places, (L,E)."""
        embedded = self.detector.embed([level[image : image + 1] for level in self._level_maps])
        return torch.cat([level[0] for level in embedded])

    def _nms_limits(self) -> tuple[float, int]:
        return self.detector.test_nms_thresh, self.detector.max_detections_per_image

    def _postprocess(self, found: list[Instances]) -> list[Instances]:
        return [detector_postprocess(own, *self.output_size(image)) for image, own in enumerate(found)]

    def _predictions(self, image: int) -> Predictions:
        logits, deltas, *others = (torch.cat(levels) for levels in self.outputs(image))
        vectors, objectness = self.detector.read_outputs(logits, others)
        anchors = torch.cat([level.tensor for level in self._anchors])
        boxes = self.detector.box2box_transform.apply_deltas(deltas, anchors)
        return Predictions(boxes[:, None], vectors, self._scores(logits, others), objectness, self.image_sizes[image])

    def _trace(self, image: int, places: Tensor, classes: Tensor) -> Trace:
        detector, features = self.detector, self._features[image]
        check_predictions(places, classes, self.num_places, detector.num_classes)
        levels = torch.bucketize(places, self._ends, right=True)
        anchors, logits, deltas, *others = self._rows(image, places, levels)
        vectors, objectness = detector.read_outputs(logits, others)
        return Trace(
            places=places,
            classes=classes,
            boxes=detector.box2box_transform.apply_deltas(deltas, anchors),
            logits=logits,
            class_vectors=vectors,
            features={name: features.outputs[name] for name in self._levels} | features.stages,
            strides=features.strides,
            levels=[self._levels[level] for level in levels.tolist()],
            layers=self.layers,
            image_size=self.image_sizes[image],
            padded_size=self.padded_size,
            output_size=self.output_size(image),
            objectness=objectness,
            rank_by=detector.rank_by,
            subnets=tuple(self._subnets(image, (logits, deltas, *others))),
            pixels=self.pixels(image),
            batch=features.batch,
        )

    def _rows(self, image: int, places: Tensor, levels: Tensor) -> tuple[Tensor, ...]:
        """Anchors (D,4) of some places, then every output of the head at them, (D,V) with graph."""
        # Gathered level by level: the graph of a prediction must not touch the levels it does not come from.
        rows = [(levels == level).nonzero()[:, 0] for level in range(len(self._levels))]
        order = torch.cat(rows).argsort()
        index = places - self._first[levels]

        def gather(per_level: Sequence[Tensor]) -> Tensor:
            return torch.cat([values[index[r]] for values, r in zip(per_level, rows)])[order]

        return gather([a.tensor for a in self._anchors]), *(gather(output) for output in self.outputs(image))

    def _subnets(self, image: int, values: Sequence[Tensor]) -> Iterator[Subnet]:
        """What the subnets saw of an image; nothing where it was not recorded."""
        start = 0
        for tower, predictors in self.detector.subnets() if self._towers is not None else ():
            modules = flat_modules(tower)
            positions = range(start, start + len(modules))
            yield Subnet(
                tower=modules,
                seen={
                    name: tuple(self._towers(p, level)[image : image + 1] for p in positions)
                    for level, name in enumerate(self._levels)
                },
                predictors=tuple((conv, values[output]) for output, conv in predictors.items()),
            )
            start += len(modules)


def flat_modules(tower: nn.Module) -> tuple[nn.Module, ...]:
    """A tower's modules in order, containers opened."""
    if isinstance(tower, nn.Sequential):
        return tuple(module for child in tower for module in flat_modules(child))
    return (tower,)
