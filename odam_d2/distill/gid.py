"""GID: General Instance Distillation for Object Detection (Dai et al., CVPR 2021).

Instances are not objects: they are where teacher and student disagree, whatever is there.

Shapes: N images, C channels of the teacher, (Hl,Wl) level, L places of an image, K classes, M instances, P side of a
pooled instance. Boxes are XYXY in network-input pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou, nms, roi_align

from odam_d2.distill.distiller import Distiller
from odam_d2.distill.objects import Objects, Responses
from odam_d2.structures import Size, full_precision

# (anchors (L,4), boxes of instances (M,4)) -> the places that a detector would assign to the instances, (L,) bool.
Assign = Callable[[Tensor, Tensor], Tensor]


def assign_by_iou(anchors: Tensor, boxes: Tensor) -> Tensor:
    """The places whose anchor overlaps an instance by an IoU of at least 0.5, (L,).

    RetinaNet's threshold for positives, without its best anchors of each instance.
    """
    if len(boxes) == 0:
        return anchors.new_zeros(len(anchors), dtype=torch.bool)
    return (box_iou(boxes, anchors) >= 0.5).any(dim=0)


@dataclass(frozen=True)
class GIDSettings:
    """How instances are chosen and what the terms weigh; the defaults are those of the authors' code for RetinaNet.

    Args:
        instances: K, at most so many an image.
        iou_threshold: of the NMS among instances.
        candidates: that enter the NMS; published for each level, here (our reading) for all levels together.
        min_side: smaller boxes are no instances, pixels.
        pool_size: P.
        sampling_ratio: of RoIAlign.
        feature: lambda_1.
        relation: lambda_2.
        response_class: alpha, times lambda_3 = 1.
        response_box: beta, times lambda_3 = 1.
    """

    instances: int = 10
    iou_threshold: float = 0.3
    candidates: int = 3000
    min_side: float = 10.0
    pool_size: int = 10
    sampling_ratio: int = 2
    feature: float = 5e-4
    relation: float = 40.0
    response_class: float = 0.1
    response_box: float = 1.0


def general_instances(
    student_scores: Tensor,
    teacher_scores: Tensor,
    student_boxes: Tensor,
    teacher_boxes: Tensor,
    image_size: Size,
    settings: GIDSettings = GIDSettings(),  # noqa: B008 (frozen)
) -> Tensor:
    """The boxes of an image on which the two networks disagree most.

    The score of a place is ``max_k |P_t - P_s|``, its box that of the network with the higher probability of any
    class. Boxes are cut at the image's borders; of those that are large enough, NMS and the highest scores choose.

    Args:
        student_scores: probabilities, (L,K).
        teacher_scores: likewise.
        student_boxes: (L,4).
        teacher_boxes: (L,4).
        image_size: (h,w).
        settings: how many, and which.

    Returns:
        (M,4), highest score first, without graph.
    """
    student_scores, teacher_scores = (full_precision(x.detach()) for x in (student_scores, teacher_scores))
    if student_scores.numel() == 0:
        return student_boxes.new_zeros((0, 4))
    score = (teacher_scores - student_scores).abs().amax(dim=1)
    by_teacher = teacher_scores.amax(dim=1) > student_scores.amax(dim=1)
    # NMS wants both of one precision, and has none in half of it.
    boxes = torch.where(by_teacher[:, None], teacher_boxes.detach(), student_boxes.detach()).to(score.dtype)
    height, width = image_size
    boxes = boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))
    large = (boxes[:, 2:] - boxes[:, :2] > settings.min_side).all(dim=1).nonzero()[:, 0]
    best = large[score[large].argsort(descending=True, stable=True)[: settings.candidates]]
    kept = nms(boxes[best], score[best], settings.iou_threshold)[: settings.instances]
    return boxes[best[kept]]


def pool_instances(
    levels: Sequence[Tensor], strides: Sequence[int], boxes: Sequence[Tensor], size: int = 10, sampling_ratio: int = 2
) -> Tensor:
    """RoIAlign on the level that goes with a box's size, ``floor(4 + log2(sqrt(w h) / 224))`` (Lin et al., CVPR 2017).

    Args:
        levels: maps, (N,C,Hl,Wl).
        strides: of the levels, each twice the one before.
        boxes: of each image, (M,4).
        size: P.
        sampling_ratio: samples a bin and axis.

    Returns:
        of all images one after the other, (M,C,P,P).
    """
    image = torch.cat([torch.full_like(found[:, :1], number) for number, found in enumerate(boxes)])
    together = torch.cat(list(boxes))
    rois = torch.cat([image, together], dim=1).to(levels[0].dtype)
    side = (together[:, 2:] - together[:, :2]).prod(dim=1).sqrt()
    wanted = (4 + (side / 224 + 1e-8).log2()).floor()
    number = (wanted - torch.tensor(float(strides[0])).log2().floor()).clamp(0, len(levels) - 1)
    pooled = levels[0].new_zeros((len(rois), levels[0].shape[1], size, size))
    for level, (maps, stride) in enumerate(zip(levels, strides)):
        here = (number == level).nonzero()[:, 0]
        found = roi_align(maps, rois[here], size, 1 / stride, sampling_ratio, aligned=True)
        pooled = pooled.index_put((here,), found)
    return pooled


def feature_term(student: Tensor, teacher: Tensor) -> Tensor:
    """``sum (t - s)^2 / (M P P)``, the sum over instances, channels and bins; 0 without instances.

    Args:
        student: pooled and adapted features, (M,C,P,P).
        teacher: pooled features, the same shape.
    """
    bins = len(student) * student.shape[2] * student.shape[3]
    return (student - teacher).square().sum() / max(bins, 1)


def relation_of_instances_term(student: Tensor, teacher: Tensor) -> Tensor:
    """Smooth L1 between the networks' distances of instances, each divided by its network's mean distance.

    Mean over pairs; as published, over all instances of a batch. With fewer than three instances it is 0: two are
    always 1 mean distance apart.

    Args:
        student: features of the instances, (M,...).
        teacher: likewise.
    """
    if len(student) < 3:
        return 0 * student.sum()
    # Unlike the root of a sum of squares, pdist has a finite gradient, 0, where two instances are equal.
    distances = [F.pdist(x.flatten(1)) for x in (student, teacher)]
    relative = [x / x.mean().clamp(min=1e-12) for x in distances]
    return F.smooth_l1_loss(*relative)


def response_terms(student: Responses, teacher: Responses, mask: Tensor) -> dict[str, Tensor]:
    """What the networks say at the places of instances: binary cross-entropy of classes, L1 of boxes.

    ``sum BCE(sigmoid(l_s), sigmoid(l_t)) / N_m`` and ``sum |r_s - r_t| / N_m`` with N_m the number of places.

    Args:
        student: its predictions, with graph.
        teacher: its predictions.
        mask: places that belong to an instance, (N,L) bool.

    Returns:
        ``response_class``, and ``response_box`` if both networks gave deltas; 0 where no place belongs to one.
    """
    places = max(int(mask.sum()), 1)
    logits = (full_precision(responses.logits[mask]) for responses in (student, teacher))
    own, aim = next(logits), next(logits).detach().sigmoid()
    terms = {"response_class": F.binary_cross_entropy_with_logits(own, aim, reduction="sum") / places}
    if student.deltas is not None and teacher.deltas is not None:
        difference = full_precision(student.deltas[mask]) - full_precision(teacher.deltas[mask].detach())
        terms["response_box"] = difference.abs().sum() / places
    return terms


class GID(Distiller):
    """Feature, relation and response loss on general instances, see the functions of this module.

    A 3x3 convolution that all levels share adapts the student's maps before features are pooled; relations are those
    of pooled features as well. Needs anchors and both networks' responses; the authors assign places as the student
    does, so give its rule.

    Args:
        strides: network-input pixels per cell of every level, each twice the one before.
        student_channels: width of the student's maps.
        teacher_channels: width of the teacher's; None: the same.
        settings: see :class:`GIDSettings`.
        assign: which places belong to the instances.

    Raises:
        ValueError: strides that do not double, or as in :class:`odam_d2.distill.Distiller`.
    """

    needs = ("anchors", "student_responses", "teacher_responses")

    def __init__(
        self,
        strides: Sequence[int],
        student_channels: int,
        teacher_channels: int | None = None,
        settings: GIDSettings = GIDSettings(),  # noqa: B008 (frozen)
        assign: Assign = assign_by_iou,
    ) -> None:
        super().__init__(
            strides, student_channels, teacher_channels, kernel_size=3, always_adapt=True, share_adapter=True
        )
        if any(coarse != 2 * fine for fine, coarse in zip(self.strides, self.strides[1:])):
            raise ValueError(f"strides are {self.strides}; each must be twice the one before")
        self.settings, self.assign = settings, assign

    def terms(self, student: Sequence[Tensor], teacher: Sequence[Tensor], objects: Objects) -> dict[str, Tensor]:
        """Implements :meth:`odam_d2.distill.Distiller.terms`: feature, relation, response_class, response_box."""
        settings = self.settings
        own, others = objects.student_responses, objects.teacher_responses
        anchors = torch.cat(list(objects.anchors))
        if not own.logits.shape == others.logits.shape or own.logits.shape[:2] != (len(objects), len(anchors)):
            raise ValueError(
                f"logits {tuple(own.logits.shape)} of the student and {tuple(others.logits.shape)} of the teacher do "
                f"not fit {len(objects)} images of {len(anchors)} anchors"
            )
        with torch.no_grad():
            scores = (full_precision(x.logits).sigmoid() for x in (own, others))
            found = [
                general_instances(*parts, settings)
                for parts in zip(*scores, own.boxes, others.boxes, objects.image_sizes)
            ]
            mask = torch.stack([self.assign(anchors, boxes) for boxes in found])
        options = self.strides, found, settings.pool_size, settings.sampling_ratio
        pooled = pool_instances(student, *options), pool_instances(teacher, *options)
        terms = {"feature": feature_term(*pooled), "relation": relation_of_instances_term(*pooled)}
        terms |= response_terms(own, others, mask)
        return {name: getattr(settings, name) * value for name, value in terms.items()}
