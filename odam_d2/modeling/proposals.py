"""A detector as a black box, for D-RISE, Deletion and Insertion.

Images go in. Out come proposals with their full class vectors, or everything it says about one class before NMS.

Shapes: n images, R proposals, C candidates before NMS, K classes, (h,w) image before padding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.meta_arch import FCOS
from detectron2.structures import Boxes, ImageList
from torch import Tensor, nn
from torchvision.ops import nms

from odam_d2.modeling.dense.observation import DenseTracing
from odam_d2.modeling.explainable import inference_with_graph
from odam_d2.modeling.rcnn.roi_heads import ProposalTracing

# Boxes (R,4), class vectors (R,K), objectness (R,) or None: odam_d2.explain.masks.drise.Proposals.
ImageProposals = tuple[Tensor, Tensor, Tensor | None]
# Boxes (R,4), scores (R,).
ClassPredictions = tuple[Tensor, Tensor]

# Of an image, that enter NMS, unless more proposals are asked for; as many as the first stage of a Faster R-CNN with an
# FPN gives.
CANDIDATES = 1000


@dataclass
class _Candidates:
    """What the detector says about one image, before NMS.

    Args:
        scores: what the detector ranks by, for the best class, (C,).
        boxes: (C,4).
        vectors: probabilities of the classes without background, (C,K).
        objectness: (C,) or None.
    """

    scores: Tensor
    boxes: Tensor
    vectors: Tensor
    objectness: Tensor | None = None


def proposal_function(
    model: nn.Module, max_proposals: int = 100, score_threshold: float = 0.01, nms_threshold: float = 0.5
) -> Callable[[Tensor], list[ImageProposals]]:
    """The ``detect`` that :class:`odam_d2.explain.masks.drise.DRISE` asks for.

    It is the detector's inference but for this: a location or region is one proposal, with the box of its best class
    and all its class probabilities; NMS ignores classes; and the threshold is low, because the scores of a
    masked image are, and a proposal of another class still says something about the box.

    Args:
        model: ``ODAMFCOS`` (class vector: sigmoid; objectness: centerness), ``ODAMRetinaNet`` (sigmoid; none) or
            ``ODAMRCNN`` (softmax without background; none). It is left as it was found.
        max_proposals: R is at most this.
        score_threshold: least score of the best class, in [0,1].
        nms_threshold: IoU above which the weaker of two proposals goes, in [0,1]; 1 keeps them all.

    Returns:
        images (n,3,h,w), of pixels as the model takes them, its channel order, to n tuples (boxes (R,4) in
        network-input pixels, clipped to the image; class vectors (R,K); objectness (R,) or None), each with the best
        proposal first.

    Raises:
        ValueError: a model of another make.
    """
    candidates = _dense_candidates if _is_dense(model) else _region_candidates

    def detect(images: Tensor) -> list[ImageProposals]:
        # The context is used for the modules' modes, which it sets and puts back; no graph is wanted.
        with inference_with_graph(model), torch.no_grad():
            batch = model.preprocess_image([{"image": image} for image in images])
            found = candidates(model, batch, max(CANDIDATES, max_proposals))
        return [
            _best(one, size, max_proposals, score_threshold, nms_threshold)
            for one, size in zip(found, batch.image_sizes)
        ]

    return detect


def class_predictions(model: nn.Module) -> Callable[[Tensor, int], list[ClassPredictions]]:
    """Everything the detector says about one class: every location or region, whatever its score, before NMS.

    Args:
        model: ``ODAMFCOS``, ``ODAMRetinaNet`` or ``ODAMRCNN``. It is left as it was found.

    Returns:
        (images (n,3,h,w), of pixels as the model takes them; class) to n tuples (boxes (R,4) in network-input pixels,
        clipped to the image; what the detector ranks by, (R,)), in no order. Two-stage detectors say something about
        the regions that their first stage proposes, which has an NMS of its own.

    Raises:
        ValueError: a model of another make.
    """
    predict = _dense_predictions if _is_dense(model) else _region_predictions

    def detect(images: Tensor, label: int) -> list[ClassPredictions]:
        with inference_with_graph(model), torch.no_grad():
            batch = model.preprocess_image([{"image": image} for image in images])
            predictions = predict(model, batch, label)
        clipped = []
        for (boxes, scores), size in zip(predictions, batch.image_sizes):
            boxes = Boxes(boxes)
            boxes.clip(tuple(size))
            clipped.append((boxes.tensor, scores))
        return clipped

    return detect


def _is_dense(model: nn.Module) -> bool:
    if isinstance(model, DenseTracing):
        return True
    if isinstance(model, GeneralizedRCNN) and isinstance(model.roi_heads, ProposalTracing):
        return False
    raise ValueError(f"{type(model).__name__} gives no proposals; use ODAMFCOS, ODAMRetinaNet or ODAMRCNN")


def _best(
    found: _Candidates, size: Sequence[int], max_proposals: int, score_threshold: float, nms_threshold: float
) -> ImageProposals:
    if not torch.isfinite(found.scores).all():
        raise ValueError("the detector's scores are not finite; check the weights and the image")
    kept = (found.scores > score_threshold).nonzero()[:, 0]
    boxes = Boxes(found.boxes[kept])
    boxes.clip(tuple(size))
    # No IoU exceeds 1: there NMS, which takes seconds for every location of a RetinaNet, would only sort.
    scores = found.scores[kept]
    order = nms(boxes.tensor, scores, nms_threshold) if nms_threshold < 1 else scores.argsort(descending=True)
    chosen = order[:max_proposals]
    kept = kept[chosen]
    objectness = None if found.objectness is None else found.objectness[kept]
    return boxes.tensor[chosen], found.vectors[kept], objectness


def _dense_outputs(model: DenseTracing, images: ImageList) -> tuple[Tensor, list[Tensor]]:
    """Anchors of all levels (L,4), and every output of the head at them, (n,L,values)."""
    features = model.backbone(images.tensor)
    pyramid = [features[name] for name in model.head_in_features]
    outputs = model._transpose_dense_predictions(model.head(pyramid), model.output_sizes())
    anchors = torch.cat([anchors.tensor for anchors in model.anchor_generator(pyramid)])
    return anchors, [torch.cat(levels, dim=1) for levels in outputs]


def _dense_predictions(model: DenseTracing, images: ImageList, label: int) -> list[ClassPredictions]:
    anchors, (logits, deltas, *others) = _dense_outputs(model, images)
    return [
        (
            model.box2box_transform.apply_deltas(deltas[i], anchors),
            model.class_scores(logits[i, :, label], [values[i] for values in others]),
        )
        for i in range(len(logits))
    ]


def _dense_candidates(model: DenseTracing, images: ImageList, count: int) -> list[_Candidates]:
    anchors, (logits, deltas, *others) = _dense_outputs(model, images)
    # The best logit of a location is that of its best class, so only the candidates' vectors are worked out.
    best = logits.amax(dim=2)
    scores = model.class_scores(best.flatten(), [values.flatten(0, 1) for values in others]).view_as(best)
    scores, places = scores.topk(min(count, scores.shape[1]), dim=1)
    found = []
    for i, (own, place) in enumerate(zip(scores, places)):
        boxes = model.box2box_transform.apply_deltas(deltas[i, place], anchors[place])
        centerness = others[0][i, place, 0].sigmoid() if isinstance(model, FCOS) else None
        found.append(_Candidates(own, boxes, logits[i, place].sigmoid(), centerness))
    return found


def _region_outputs(model: GeneralizedRCNN, images: ImageList) -> list[tuple[Tensor, Tensor]]:
    """Of each image the regions' boxes, (R,K,4) or (R,1,4) where all classes share one, and class vectors (R,K)."""
    heads = model.roi_heads
    features = model.backbone(images.tensor)
    proposals, _ = model.proposal_generator(images, features, None)
    levels = [features[name] for name in heads.region_features]
    boxes: Sequence[Tensor] = ()
    probabilities = []
    for stage, (_, predictor) in enumerate(heads.box_stages()):
        if stage:
            # The next stage of a cascade pools what this one predicted.
            proposals = heads._create_proposals_from_boxes(boxes, images.image_sizes)
        pooled = heads.region_pooler(levels, [of_image.proposal_boxes for of_image in proposals])
        predictions = heads.predict(pooled, stage)
        boxes = predictor.predict_boxes(predictions, proposals)
        probabilities.append(predictor.predict_probs(predictions, proposals))
    found = []
    for own, stages in zip(boxes, zip(*probabilities)):
        # The stages of a cascade vote by their mean probabilities.
        vectors = torch.stack(stages).mean(dim=0)[:, :-1]
        found.append((own.view(len(vectors), own.shape[1] // 4, 4), vectors))
    return found


def _region_predictions(model: GeneralizedRCNN, images: ImageList, label: int) -> list[ClassPredictions]:
    return [
        (boxes[:, label if boxes.shape[1] > 1 else 0], vectors[:, label])
        for boxes, vectors in _region_outputs(model, images)
    ]


def _region_candidates(model: GeneralizedRCNN, images: ImageList, count: int) -> list[_Candidates]:
    """One candidate a region, with the box of its best class; the first stage limits their count already."""
    found = []
    for boxes, vectors in _region_outputs(model, images):
        scores, classes = vectors.max(dim=1)
        # Class-agnostic regression predicts one box for all classes.
        column = classes if boxes.shape[1] > 1 else torch.zeros_like(classes)
        rows = torch.arange(len(boxes), device=boxes.device)
        found.append(_Candidates(scores, boxes[rows, column], vectors))
    return found
