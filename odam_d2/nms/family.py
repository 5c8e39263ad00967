"""The NMS that a detector holds: from a trace of all its candidates to those it keeps.

Shapes: D candidates, K kept ones, (gh,gw) the coarse grid on which maps are compared, E embedding.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from odam_d2.explain import GradientExplainer
from odam_d2.nms.functions import (
    feature_duplicates,
    feature_nms,
    greedy_duplicates,
    greedy_nms,
    odam_duplicates,
    odam_nms,
    soft_nms,
)
from odam_d2.nms.removals import Removals, list_removals
from odam_d2.structures import Size, Trace

NMS_NAMES = ("greedy", "soft", "feature", "odam")


@dataclass(frozen=True, eq=False)
class Suppression:
    """What NMS did with the candidates of one image.

    Args:
        boxes: of all candidates, network-input pixels, (D,4).
        scores: before NMS, (D,).
        classes: (D,) int64.
        image_size: (h,w) of the network input before padding, which the boxes refer to.
        keep: the kept candidates, at most as many as the detector returns, by descending score, (K,) int64.
        kept_scores: their scores after NMS, decayed by Soft-NMS, (K,).
        maps: what ODAM-NMS compared, (D,gh,gw).
        removals: makes the list of removed candidates, see :attr:`removed`.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    image_size: Size
    keep: Tensor
    kept_scores: Tensor
    maps: Tensor | None
    removals: Callable[[], Removals]

    @property
    def removed(self) -> Removals:
        """Who was removed, by whom, and how much the two overlap and correlate.

        Raises:
            ValueError: Soft-NMS, which lowers scores and removes nobody.
        """
        return self.removals()


@dataclass(eq=False)
class CandidateNMS:
    """One of the NMS family with its settings; :meth:`__call__` picks the candidates a detector returns.

    Args:
        name: ``greedy``, ``soft``, ``feature`` or ``odam``.
        correlation: of ODAM-NMS, ``cosine`` or ``pearson``.
        corr_high: T^h of ODAM-NMS: above it boxes that overlap little are duplicates.
        corr_low: T^l of ODAM-NMS: up to it boxes that overlap much are different objects.
        short_edge: cells along the image's short edge of the grid on which ODAM-NMS compares maps.
        soft_method: decay of Soft-NMS, ``gaussian`` or ``linear``.
        soft_sigma: of the Gaussian decay.
        soft_score_threshold: Soft-NMS leaves out candidates whose decayed score does not exceed it.
        feature_iou_high: IoU above which FeatureNMS does not ask the embeddings: duplicates.
        feature_iou_low: IoU up to which it does not ask them either: different objects.
        feature_distance: of embeddings below which candidates in between are duplicates.
        memory: GiB that the maps' backward pass may take at a time.

    Raises:
        ValueError: an unknown name.
    """

    name: str = "greedy"
    correlation: str = "cosine"
    corr_high: float = 0.8
    corr_low: float = 0.2
    short_edge: int = 50
    soft_method: str = "gaussian"
    soft_sigma: float = 0.5
    soft_score_threshold: float = 0.05
    feature_iou_high: float = 0.9
    feature_iou_low: float = 0.1
    feature_distance: float = 1.0
    memory: float = 1.0
    _listeners: list[Callable[[Suppression], None]] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.name not in NMS_NAMES:
            raise ValueError(f"unknown NMS {self.name!r}; valid names (ODAM.NMS.NAME) are {', '.join(NMS_NAMES)}")

    @property
    def is_greedy(self) -> bool:
        """Whether Detectron2's own NMS does the same."""
        return self.name == "greedy" and not self._listeners

    @property
    def needs_maps(self) -> bool:
        """Whether candidates must be traced so that their heat maps can be made."""
        return self.name == "odam"

    @contextmanager
    def recording(self) -> Iterator[list[Suppression]]:
        """Everything NMS does inside the ``with`` block, a :class:`Suppression` an image."""
        record: list[Suppression] = []
        self._listeners.append(record.append)
        try:
            yield record
        finally:
            self._listeners.remove(record.append)

    def __call__(
        self, trace: Trace, iou_threshold: float, limit: int, embeddings: Callable[[], Tensor] | None = None
    ) -> Suppression:
        """Choose among the candidates of one image; in full precision, also under autocast.

        Args:
            trace: of all candidates; for ODAM-NMS with what the batched path needs for the target ``class_logit``.
            iou_threshold: of greedy NMS and ODAM-NMS (T_iou), and of Soft-NMS's linear decay.
            limit: keep at most so many; negative for all.
            embeddings: makes the embeddings (D,E) for FeatureNMS.

        Raises:
            ValueError: FeatureNMS without embeddings; a head whose maps cannot be made in batches.
        """
        with torch.autocast(trace.boxes.device.type, enabled=False):
            done = self._suppress(trace, iou_threshold, limit, embeddings)
        for listener in self._listeners:
            listener(done)
        return done

    def _suppress(
        self,
        trace: Trace,
        iou_threshold: float,
        limit: int,
        embeddings: Callable[[], Tensor] | None,
    ) -> Suppression:
        parts = trace.boxes, trace.scores, trace.classes
        maps, kept_scores = None, None
        if self.name == "greedy":
            keep = greedy_nms(*parts, iou_threshold)
            removals = partial(_greedy_removals, parts, keep, iou_threshold)
        elif self.name == "soft":
            options = self.soft_method, self.soft_sigma, iou_threshold, self.soft_score_threshold
            keep, kept_scores = soft_nms(*parts, *options)
            removals = _soft_has_no_removals
        elif self.name == "feature":
            if embeddings is None:
                raise ValueError("FeatureNMS needs a detector with an embedding head: set ODAM.EMBEDDING.DIM and train")
            points = embeddings()
            options = self.feature_iou_high, self.feature_iou_low, self.feature_distance
            keep = feature_nms(*parts, points, *options)
            removals = partial(_feature_removals, parts, keep, points, options)
        else:
            maps = self.maps(trace)
            options = iou_threshold, self.corr_high, self.corr_low, self.correlation
            keep = odam_nms(*parts, maps, *options)
            removals = partial(_odam_removals, parts, keep, maps, options)
        kept = keep if limit < 0 else keep[:limit]
        kept_scores = trace.scores[kept] if kept_scores is None else kept_scores[: len(kept)].to(trace.scores)
        return Suppression(*parts, trace.image_size, kept, kept_scores, maps, removals)

    def maps(self, trace: Trace) -> Tensor:
        """Heat maps of all candidates, target ``class_logit``, on the coarse grid, (D,gh,gw)."""
        layer = "roi_pool" if trace.rois is not None else "fpn"
        explainer = GradientExplainer(layer=layer, path="batched", memory=self.memory)
        with torch.enable_grad():
            heat_maps = explainer(trace, "class_logit")
        return heat_maps.resample(self.short_edge)


Parts = tuple[Tensor, Tensor, Tensor]


def _greedy_removals(parts: Parts, keep: Tensor, iou_threshold: float) -> Removals:
    return list_removals(*parts, keep, greedy_duplicates(parts[0], iou_threshold))


def _feature_removals(parts: Parts, keep: Tensor, points: Tensor, options: tuple) -> Removals:
    return list_removals(*parts, keep, feature_duplicates(parts[0], points, *options), embeddings=points)


def _odam_removals(parts: Parts, keep: Tensor, maps: Tensor, options: tuple) -> Removals:
    return list_removals(*parts, keep, odam_duplicates(parts[0], maps, *options), maps, options[-1])


def _soft_has_no_removals() -> Removals:
    raise ValueError("Soft-NMS lowers scores; it removes no candidate on account of another")
