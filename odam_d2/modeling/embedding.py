"""Embeddings that tell objects apart: the head that FeatureNMS adds to a detector, and its training.

Shapes: N images, C channels, (Hl,Wl) level, A anchors per location, R = sum of Hl*Wl*A over the levels, or regions of
a two-stage detector; P positive ones of an image; E embedding; F features of a region.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import CycleBatchNormList, ShapeSpec, get_norm
from detectron2.modeling.meta_arch.dense_detector import DenseDetector, permute_to_N_HWA_K
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.structures import ImageList, Instances
from fvcore.nn.weight_init import c2_msra_fill, c2_xavier_fill
from torch import Tensor, nn

from odam_d2.losses.margin import margin_loss
from odam_d2.modeling.features import record_outputs
from odam_d2.modeling.positives import Positives, matched_boxes

# (embeddings (P,E), objects (P,)) of one image -> scalar.
EmbeddingLoss = Callable[[Tensor, Tensor], Tensor]


class EmbeddingHead(nn.Module):
    """An embedding for every anchor of a dense detector: a tower like the class tower, and a 3x3 convolution.

    Weights start at a scale that keeps the features': the class tower's small weights would put all embeddings on one
    point, where the loss has no direction.

    Args:
        in_channels: C.
        num_anchors: A.
        dim: E.
        num_convs: 3x3 convolutions of the tower.
        norm: their normalisation, a name that Detectron2's ``get_norm`` knows.
        num_levels: levels it is called on; batch normalisation keeps statistics of each.
    """

    def __init__(
        self, in_channels: int, num_anchors: int, dim: int, num_convs: int = 2, norm: str = "", num_levels: int = 5
    ):
        super().__init__()
        self.dim = dim
        layers: list[nn.Module] = []
        for _ in range(num_convs):
            conv = nn.Conv2d(in_channels, in_channels, 3, padding=1)
            c2_msra_fill(conv)
            layers += [conv, *_normalisation(norm, in_channels, num_levels), nn.ReLU()]
        self.tower = nn.Sequential(*layers)
        # A shift common to all embeddings changes no distance; one for each of several anchor shapes does.
        self.predictor = nn.Conv2d(in_channels, num_anchors * dim, 3, padding=1, bias=num_anchors > 1)
        c2_xavier_fill(self.predictor)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Embed every anchor.

        Args:
            features: per level (N,C,Hl,Wl).

        Returns:
            per level (N,Hl*Wl*A,E), anchors in the order of Detectron2's predictions, ``(y*W + x)*A + a``.
        """
        return [permute_to_N_HWA_K(self.predictor(self.tower(x)), self.dim) for x in features]


def _normalisation(norm: str, channels: int, num_levels: int) -> list[nn.Module]:
    if norm in ("BN", "SyncBN"):
        # The levels differ too much for common statistics; RetinaNetHead does the same.
        bn_class = nn.BatchNorm2d if norm == "BN" else nn.SyncBatchNorm
        return [CycleBatchNormList(length=num_levels, bn_class=bn_class, num_features=channels)]
    module = get_norm(norm, channels)
    return [] if module is None else [module]


def embedding_dim(cfg: CfgNode) -> int:
    """The length of the embeddings that a config asks for; 0: none.

    Raises:
        ValueError: ``ODAM.EMBEDDING.DIM`` is negative.
    """
    dim = cfg.ODAM.EMBEDDING.DIM
    if dim < 0:
        raise ValueError(f"ODAM.EMBEDDING.DIM is {dim}; it must be 0 (no embedding head) or a length")
    return dim


def dense_embedding_arguments(cfg: CfgNode, shapes: Sequence[ShapeSpec], num_anchors: int, norm: str) -> dict[str, Any]:
    """Translate ``ODAM.EMBEDDING`` into constructor arguments of :class:`EmbeddingDense`.

    Args:
        cfg: the experiment.
        shapes: of the head's input, one a level.
        num_anchors: A.
        norm: the class tower's normalisation.

    Raises:
        ValueError: a negative length.
    """
    dim = embedding_dim(cfg)
    if not dim:
        return {}
    num_convs = cfg.ODAM.EMBEDDING.NUM_CONVS
    head = EmbeddingHead(shapes[0].channels, num_anchors, dim, num_convs, norm, len(shapes))
    return {"embedding_head": head, **_training_arguments(cfg)}


def roi_embedding_arguments(cfg: CfgNode, shape: ShapeSpec) -> dict[str, Any]:
    """Translate ``ODAM.EMBEDDING`` into constructor arguments of :class:`EmbeddingROIHeads`.

    Args:
        cfg: the experiment.
        shape: of the box head's output.

    Raises:
        ValueError: a negative length.
    """
    dim = embedding_dim(cfg)
    if not dim:
        return {}
    # A shift common to all embeddings changes no distance, hence no bias.
    head = nn.Linear(shape.channels * (shape.height or 1) * (shape.width or 1), dim, bias=False)
    c2_xavier_fill(head)
    return {"embedding_head": head, **_training_arguments(cfg)}


def refuse_embedding(cfg: CfgNode, heads: type) -> None:
    """For ROI heads that have no place for an embedding head.

    Raises:
        ValueError: ``ODAM.EMBEDDING.DIM`` asks for one.
    """
    if embedding_dim(cfg):
        raise ValueError(f"{heads.__name__} has no embedding head; set ODAM.EMBEDDING.DIM to 0 or use ODAMROIHeads")


def _training_arguments(cfg: CfgNode) -> dict[str, Any]:
    options = cfg.ODAM.EMBEDDING
    settings = {"margin": options.MARGIN, "boundary": options.BOUNDARY, "max_samples": options.MAX_SAMPLES}
    return {
        "embedding_loss": partial(margin_loss, **settings),
        "embedding_loss_weight": options.LOSS_WEIGHT,
        "detach_embedding": options.DETACH,
    }


class _Embedding(nn.Module):
    """What dense detectors and ROI heads with an embedding head share.

    Args:
        embedding_head: None: no embeddings, and Detectron2's parameter names exactly.
        embedding_loss: of one image's positives.
        embedding_loss_weight: factor of the loss.
        detach_embedding: True: the embedding head learns from the detector's features without changing them. False:
            joint training, as in FeatureNMS.
        **kwargs: the detector's own.
    """

    def __init__(
        self,
        *,
        embedding_head: nn.Module | None = None,
        embedding_loss: EmbeddingLoss = margin_loss,
        embedding_loss_weight: float = 1.0,
        detach_embedding: bool = True,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.embedding_head = embedding_head
        self.embedding_loss = embedding_loss
        self.embedding_loss_weight = embedding_loss_weight
        self.detach_embedding = detach_embedding

    def _check_embedding(self) -> None:
        if self.embedding_head is None:
            raise ValueError("this detector has no embedding head; train one with ODAM.EMBEDDING.DIM > 0")

    def _embedding_losses(
        self, embeddings: Sequence[Tensor], labels: Sequence[Tensor], boxes: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """``loss_embedding``: mean over the images of the loss of each one's positives.

        Args:
            embeddings: per image (R,E).
            labels: per image (R,); an object's class for positives, K for background, -1 for ignored.
            boxes: per image, the ground-truth box that each was matched to, (R,4).
        """
        losses = []
        for own, label, box in zip(embeddings, labels, boxes):
            positives = Positives.of_labels(label, box, self.num_classes)
            losses.append(self.embedding_loss(own[positives.places], positives.objects))
        return {"loss_embedding": self.embedding_loss_weight * torch.stack(losses).mean()}


class EmbeddingDense(_Embedding, DenseDetector):
    """Mixin for dense detectors: an embedding for every anchor; see :class:`_Embedding` for its arguments."""

    def embed(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Embed every anchor.

        Args:
            features: the maps the detector's head reads, per level (N,C,Hl,Wl).

        Returns:
            per level (N,Hl*Wl*A,E), in the order of Detectron2's predictions.

        Raises:
            ValueError: no embedding head.
        """
        self._check_embedding()
        return self.embedding_head([x.detach() for x in features] if self.detach_embedding else list(features))

    def forward_training(
        self,
        images: ImageList,
        features: list[Tensor],
        predictions: list[list[Tensor]],
        gt_instances: list[Instances],
    ) -> dict[str, Tensor]:
        """Overrides Detectron2's to add ``loss_embedding``."""
        losses = super().forward_training(images, features, predictions, gt_instances)
        if self.embedding_head is None:
            return losses
        # Matched once more: nothing is drawn at random, and it costs little beside the rest of a training step.
        labels, boxes = self.label_anchors(self.anchor_generator(features), gt_instances)
        return losses | self._embedding_losses(torch.cat(self.embed(features), dim=1), labels, boxes)


class EmbeddingROIHeads(_Embedding, StandardROIHeads):
    """Mixin for ROI heads of one stage: an embedding for every region; see :class:`_Embedding` for its arguments."""

    def embed(self, box_features: Tensor) -> Tensor:
        """Embed regions.

        Args:
            box_features: the box head's output, (R,F) or (R,C,P,P).

        Returns:
            (R,E).

        Raises:
            ValueError: no embedding head.
        """
        self._check_embedding()
        return self.embedding_head((box_features.detach() if self.detach_embedding else box_features).flatten(1))

    def _forward_box(
        self, features: dict[str, Tensor], proposals: list[Instances]
    ) -> dict[str, Tensor] | list[Instances]:
        """Overrides Detectron2's to add ``loss_embedding`` in training."""
        if not self.training or self.embedding_head is None:
            return super()._forward_box(features, proposals)
        with record_outputs([self.box_head]) as seen:
            losses = super()._forward_box(features, proposals)
        embeddings = self.embed(seen(0, 0)).split([len(p) for p in proposals])
        boxes = [matched_boxes(p) for p in proposals]
        return losses | self._embedding_losses(embeddings, [p.gt_classes for p in proposals], boxes)
