"""The four NMS a detector can hold: each takes the candidates of an image and returns what it kept and what it did.

They are values: calling one changes nothing, and all of them run in full precision, also under autocast.

Shapes: D candidates, K kept ones, (gh,gw) the coarse grid on which maps are compared, E embedding.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from odam_d2.explain import ExplainSettings, GradientExplainer, Target
from odam_d2.nms.candidates import Candidates, Suppression
from odam_d2.nms.functions import (
    Duplicates,
    feature_duplicates,
    feature_nms,
    greedy_duplicates,
    greedy_nms,
    odam_duplicates,
    odam_nms,
    soft_nms,
)
from odam_d2.nms.removals import Removals, list_removals

NMS_NAMES = ("greedy", "soft", "feature", "odam")


class NMS(Protocol):
    """The last step of a detector's inference.

    Attributes:
        layers: at which the candidates' maps are looked at; () for an NMS that looks at none.
    """

    @property
    def layers(self) -> tuple[str, ...]:
        """See above."""

    def __call__(self, candidates: Candidates, iou_threshold: float, limit: int = -1) -> Suppression:
        """Choose among the candidates of one image.

        Args:
            candidates: of one image.
            iou_threshold: in [0,1]; FeatureNMS has thresholds of its own.
            limit: keep at most so many; negative for all.
        """


@dataclass(frozen=True)
class GreedyNMS:
    """Classical NMS, Detectron2's own: a candidate goes if it overlaps a better one of its class too much."""

    layers = ()

    def __call__(self, candidates: Candidates, iou_threshold: float, limit: int = -1) -> Suppression:
        """Implements :class:`NMS`."""
        with _full_precision(candidates):
            parts = candidates.boxes, candidates.scores, candidates.classes
            keep = greedy_nms(*parts, iou_threshold)
            duplicates = partial(greedy_duplicates, candidates.boxes, iou_threshold)
            return _done(candidates, iou_threshold, limit, keep, duplicates)


@dataclass(frozen=True)
class SoftNMS:
    """Soft-NMS (Bodla et al., ICCV 2017): overlapping candidates lose score and go when too little is left.

    Args:
        method: decay, ``gaussian`` or ``linear``.
        sigma: of the Gaussian decay.
        score_threshold: candidates go whose decayed score does not exceed it.
    """

    method: str = "gaussian"
    sigma: float = 0.5
    score_threshold: float = 0.05

    layers = ()

    def __call__(self, candidates: Candidates, iou_threshold: float, limit: int = -1) -> Suppression:
        """Implements :class:`NMS`; the IoU threshold is that of the linear decay."""
        with _full_precision(candidates):
            parts = candidates.boxes, candidates.scores, candidates.classes
            keep, scores = soft_nms(*parts, self.method, self.sigma, iou_threshold, self.score_threshold)
            return _suppression(candidates, iou_threshold, limit, keep, scores, _soft_has_no_removals)


@dataclass(frozen=True)
class FeatureNMS:
    """FeatureNMS (Salscheider, ICPR 2020): where boxes overlap some, embeddings decide.

    Args:
        iou_high: IoU above which the embeddings are not asked: duplicates.
        iou_low: IoU up to which they are not asked either: different objects.
        distance: of embeddings below which candidates in between are duplicates.
    """

    iou_high: float = 0.9
    iou_low: float = 0.1
    distance: float = 1.0

    layers = ()

    def __call__(self, candidates: Candidates, iou_threshold: float, limit: int = -1) -> Suppression:
        """Implements :class:`NMS`.

        Raises:
            ValueError: the detector has no embedding head.
        """
        if candidates.embeddings is None:
            raise ValueError("FeatureNMS needs a detector with an embedding head: set ODAM.EMBEDDING.DIM and train")
        # The head runs as the detector did, under autocast too.
        points = candidates.embeddings()
        with _full_precision(candidates):
            options = self.iou_high, self.iou_low, self.distance
            keep = feature_nms(candidates.boxes, candidates.scores, candidates.classes, points, *options)
            duplicates = partial(feature_duplicates, candidates.boxes, points, *options)
            return _done(candidates, iou_threshold, limit, keep, duplicates, embeddings=points)


@dataclass(frozen=True)
class ODAMNMS:
    """ODAM-NMS, Algorithm 1 of the paper: candidates are duplicates if they look at the same place.

    Args:
        explain: how the candidates' maps are made; a method that takes gradients.
        target: what the maps explain.
        corr_high: T^h: above it boxes that overlap little are duplicates.
        corr_low: T^l: up to it boxes that overlap much are different objects.
        correlation: ``cosine`` or ``pearson``.
        short_edge: cells along the image's short edge of the grid on which maps are compared, see
            :meth:`odam_d2.structures.HeatMaps.resample`.
    """

    explain: ExplainSettings = field(default_factory=lambda: ExplainSettings(path="auto"))
    target: Target = "class_logit"
    corr_high: float = 0.8
    corr_low: float = 0.2
    correlation: str = "cosine"
    short_edge: int = 50

    @property
    def layers(self) -> tuple[str, ...]:
        """The layer at which maps are made."""
        return (self.explain.layer,)

    def __call__(self, candidates: Candidates, iou_threshold: float, limit: int = -1) -> Suppression:
        """Implements :class:`NMS`.

        Raises:
            ValueError: maps that cannot be made as :attr:`explain` says.
        """
        with _full_precision(candidates):
            maps = self.maps(candidates)
            options = iou_threshold, self.corr_high, self.corr_low, self.correlation
            keep = odam_nms(candidates.boxes, candidates.scores, candidates.classes, maps, *options)
            duplicates = partial(odam_duplicates, candidates.boxes, maps, *options)
            return _done(candidates, iou_threshold, limit, keep, duplicates, maps, self.correlation)

    def maps(self, candidates: Candidates) -> Tensor:
        """Heat maps of all candidates on the coarse grid, (D,gh,gw)."""
        with torch.enable_grad():
            heat_maps = GradientExplainer.from_settings(self.explain)(candidates.trace(), self.target)
        return heat_maps.resample(self.short_edge)


def _full_precision(candidates: Candidates) -> torch.autocast:
    return torch.autocast(candidates.boxes.device.type, enabled=False)


def _done(
    candidates: Candidates,
    iou_threshold: float,
    limit: int,
    keep: Tensor,
    make_duplicates: Callable[[], Duplicates],
    maps: Tensor | None = None,
    correlation: str = "cosine",
    embeddings: Tensor | None = None,
) -> Suppression:
    """The record of an NMS in which candidates are removed by others."""

    def removals() -> Removals:
        parts = candidates.boxes, candidates.scores, candidates.classes
        return list_removals(*parts, keep, make_duplicates(), maps, correlation, embeddings)

    return _suppression(candidates, iou_threshold, limit, keep, None, removals, maps, correlation)


def _suppression(
    candidates: Candidates,
    iou_threshold: float,
    limit: int,
    keep: Tensor,
    scores: Tensor | None,
    removals: Callable[[], Removals],
    maps: Tensor | None = None,
    correlation: str = "cosine",
) -> Suppression:
    kept = keep if limit < 0 else keep[:limit]
    kept_scores = candidates.scores[kept] if scores is None else scores[: len(kept)].to(candidates.scores)
    parts = candidates.boxes, candidates.scores, candidates.classes, candidates.image_size
    return Suppression(*parts, iou_threshold, kept, kept_scores, removals, maps, correlation)


def _soft_has_no_removals() -> Removals:
    raise ValueError("Soft-NMS lowers scores; it removes no candidate on account of another")
