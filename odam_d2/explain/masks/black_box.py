"""A detector as a black box, for D-RISE, Deletion and Insertion: images in, predictions out.

D-RISE gets the call of every explainer here, ``explainer(trace, target) -> HeatMaps``: it looks at the trace's image.

Shapes: D predictions, n images, L places, R proposals, K classes, (h,w) network input before padding.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image, nms

from odam_d2.explain.masks.drise import (
    DRISE,
    DRISEState,
    Progress,
    Proposals,
    drise_heat_maps,
    find_class_vectors,
)
from odam_d2.explain.methods import check_method_targets
from odam_d2.explain.settings import ExplainSettings
from odam_d2.explain.targets import Target
from odam_d2.structures import HeatMaps, Predictions, Size, Trace

# Of an image, that enter NMS, unless more proposals are asked for; as many as the first stage of a Faster R-CNN with an
# FPN gives.
CANDIDATES = 1000


class ClassPredictions(NamedTuple):
    """What a detector says about one class in one image.

    Attributes:
        boxes: in network-input pixels, clipped to the image, (L,4).
        scores: what the detector ranks by, (L,).
        image_size: (h,w) that the boxes refer to.
    """

    boxes: Tensor
    scores: Tensor
    image_size: Size


class Observed(Protocol):
    """What is asked of an observation, see :class:`odam_d2.modeling.explainable.Observation`."""

    def predictions(self, image: int) -> Predictions:
        """Everything the detector says about one image."""


class Observer(Protocol):
    """What is asked of a detector, see :class:`odam_d2.modeling.explainable.ExplainableDetector`."""

    def observe(self, batched_inputs: Sequence[dict], layers: Sequence[str]) -> Observed:
        """One forward pass."""


def observe_images(detector: Observer, images: Tensor, amp: bool = False) -> list[Predictions]:
    """Everything a detector says about some images, before NMS.

    Args:
        detector: any that can be observed; it is left as it was found.
        images: pixels as the model takes them, its channel order, (n,3,h,w).
        amp: in mixed precision, bfloat16 on a CPU and float16 on a GPU.

    Returns:
        predictions of each image, in full precision.
    """
    with torch.autocast(images.device.type, enabled=amp):
        observation = detector.observe([{"image": image} for image in images], layers=())
        found = [observation.predictions(i) for i in range(len(images))]
    return [one.to_full_precision() for one in found] if amp else found


def _check(detector: Observer) -> None:
    if not hasattr(detector, "observe"):
        raise ValueError(
            f"{type(detector).__name__} cannot be asked what it says about an image: it has no observe(); use "
            "ODAMFCOS, ODAMRetinaNet, ODAMRCNN or a detector of your own that has"
        )


def proposal_function(
    detector: Observer,
    max_proposals: int = 100,
    score_threshold: float = 0.01,
    nms_threshold: float = 0.5,
    amp: bool = False,
) -> Callable[[Tensor], list[Proposals]]:
    """The ``detect`` that :class:`odam_d2.explain.masks.drise.DRISE` asks for.

    It is the detector's inference but for this: a place is one proposal, with the box of its best class and all its
    class probabilities; NMS ignores classes; and the threshold is low, because the scores of a masked image are, and a
    proposal of another class still says something about the box.

    Args:
        detector: any that can be observed; it is left as it was found.
        max_proposals: R is at most this.
        score_threshold: least score of the best class, in [0,1].
        nms_threshold: IoU above which the weaker of two proposals goes, in [0,1]; 1 keeps them all.
        amp: as in :func:`observe_images`.

    Returns:
        images (n,3,h,w), of pixels as the model takes them, to n proposals: boxes (R,4) in network-input pixels,
        clipped to the image, class vectors (R,K), objectness (R,) or None, each with the best proposal first.

    Raises:
        ValueError: a model that cannot be observed.
    """
    _check(detector)

    def detect(images: Tensor) -> list[Proposals]:
        found = observe_images(detector, images, amp)
        return [best_proposals(one, max_proposals, score_threshold, nms_threshold) for one in found]

    return detect


def best_proposals(
    found: Predictions, max_proposals: int = 100, score_threshold: float = 0.01, nms_threshold: float = 0.5
) -> Proposals:
    """The best places of one image; arguments as in :func:`proposal_function`.

    Raises:
        ValueError: the detector's scores are not finite.
    """
    scores, classes = found.class_scores.max(dim=1)
    if not torch.isfinite(scores).all():
        raise ValueError("the detector's scores are not finite; check the weights and the image")
    scores, places = scores.topk(min(max(CANDIDATES, max_proposals), len(scores)))
    above = scores > score_threshold
    scores, places = scores[above], places[above]
    boxes = clip_boxes_to_image(found.boxes_of(classes)[places], found.image_size)
    # No IoU exceeds 1: there NMS, which takes seconds for every location of a RetinaNet, would only sort.
    order = nms(boxes.float(), scores.float(), nms_threshold) if nms_threshold < 1 else scores.argsort(descending=True)
    chosen = order[:max_proposals]
    objectness = None if found.objectness is None else found.objectness[places[chosen]]
    return Proposals(boxes[chosen], found.class_vectors[places[chosen]], objectness)


def class_predictions(detector: Observer, amp: bool = False) -> Callable[[Tensor, int], list[ClassPredictions]]:
    """Everything the detector says about one class: every place, whatever its score, before NMS.

    Args:
        detector: any that can be observed; it is left as it was found.
        amp: as in :func:`observe_images`.

    Returns:
        (images (n,3,h,w), of pixels as the model takes them; class) to n :class:`ClassPredictions`, in no order of
        places. Two-stage detectors say something about the regions that their first stage proposes, which has an NMS
        of its own.

    Raises:
        ValueError: a model that cannot be observed.
    """
    _check(detector)

    def detect(images: Tensor, label: int) -> list[ClassPredictions]:
        return [
            ClassPredictions(
                clip_boxes_to_image(one.boxes_of(label), one.image_size), one.class_scores[:, label], one.image_size
            )
            for one in observe_images(detector, images, amp)
        ]

    return detect


class BlackBoxExplainer:
    """Explains predictions by D-RISE; all predictions of a trace share the masked images.

    Args:
        detector: any that can be observed.
        settings: number of masks and the like.
        progress: told after every batch of masks.
    """

    # What a trace must hold: it asks for no layer of its own.
    layer = "fpn"

    def __init__(self, detector: Observer, settings: ExplainSettings, progress: Progress | None = None):
        self.settings, self.progress = settings, progress
        self.drise = DRISE(settings.drise_masks, batch=settings.drise_batch, seed=settings.drise_seed)
        self._detect = proposal_function(detector, amp=settings.amp)
        # Class vectors are looked up among all that the detector says about the whole image, in full precision.
        self._every = proposal_function(detector, 10**6, 0.0, 1.0)

    def __repr__(self) -> str:
        own = self.settings
        return f"BlackBoxExplainer(method={own.method}, masks={own.drise_masks}, seed={own.drise_seed})"

    def check(self, targets: Sequence[Target]) -> None:
        """Refuse targets that D-RISE does not have.

        Raises:
            ValueError: another target than ``class_score``.
        """
        check_method_targets(self.settings.method, targets)

    def __call__(self, trace: Trace, target: Target = "class_score", state: DRISEState | None = None) -> HeatMaps:
        """One map for each prediction of the trace.

        Args:
            trace: of a whole image, with its pixels.
            target: ``class_score``.
            state: of an interrupted run; it is kept up to date.

        Raises:
            ValueError: another target, a trace without pixels, or what :class:`odam_d2.explain.DRISE` refuses.
        """
        self.check([target])
        if trace.pixels is None:
            raise ValueError(f"{self.settings.method} needs the trace's pixels, which this one lacks")
        boxes = trace.clipped_boxes
        pixels = trace.pixels.to(boxes.device)
        (found,) = self._every(pixels[None])
        vectors = find_class_vectors(found, boxes, trace.classes)
        maps = self.drise(self._detect, pixels, boxes, vectors, state, self.progress)
        return drise_heat_maps(maps, boxes, trace.output_size)
