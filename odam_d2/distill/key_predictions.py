"""Key prediction selection of ODAM-KD, section 5.2: which predictions the top-down attention explains.

The detector's anchor assignment gives every place of an image an object, or none. Teacher and student are looked at
at the same places, of all levels together.

Shapes: L places of an image, G ground-truth objects, P key predictions. Boxes are XYXY in network-input pixels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

TOP = 10
MIN_IOU = 0.5
MIN_CONFIDENCE = 0.1
MAX_IOU = 0.5


class KeyPredictions(NamedTuple):
    """The set P of one image, or of one of its levels.

    Attributes:
        places: where they are, ascending, each once, (P,) int64.
        objects: the object that each place was assigned to, (P,) int64 in [0,G).
    """

    places: Tensor
    objects: Tensor

    @property
    def focused(self) -> Tensor:
        """The focused objects: those with a key prediction of either network, ascending, int64."""
        return self.objects.unique()

    def split(self, places_per_level: Sequence[int]) -> list["KeyPredictions"]:
        """The key predictions of each level; an object is focused only on levels where it has one.

        Args:
            places_per_level: how many places each level has, in the order in which places are numbered.

        Returns:
            for each level, with places still counted over all levels.

        Raises:
            ValueError: a key prediction beyond the last level.
        """
        ends = torch.tensor(list(places_per_level), dtype=torch.int64).cumsum(0).tolist()
        if len(self.places) and (not ends or int(self.places[-1]) >= ends[-1]):
            raise ValueError(
                f"place {int(self.places[-1])} is on none of the levels of {list(places_per_level)} places"
            )
        parts, start = [], 0
        for end in ends:
            on_level = (self.places >= start) & (self.places < end)
            parts.append(KeyPredictions(self.places[on_level], self.objects[on_level]))
            start = end
        return parts


def teacher_keys(
    assigned: Tensor,
    boxes: Tensor,
    gt_boxes: Tensor,
    quality: Tensor | None = None,
    top: int = TOP,
    min_iou: float = MIN_IOU,
) -> Tensor:
    """The teacher's strengths: of each object's best matched predictions those that found its box.

    First the ``top`` best matched places among those assigned to an object are taken, over all levels, then of these
    the ones whose predicted box overlaps the object's by more than ``min_iou``.

    Args:
        assigned: the object of each place, (L,) int64, -1 for none.
        boxes: what the teacher predicts, (L,4).
        gt_boxes: (G,4).
        quality: how well each place matches its object, higher is better, (L,); None: the IoU of the predicted box,
            our reading of "best matched". Of equal ones the earlier place is taken.
        top: at most so many places an object.
        min_iou: of predicted and object's box.

    Returns:
        places, ascending, int64.

    Raises:
        ValueError: shapes that do not fit, or an object that does not exist.
    """
    _check(assigned, boxes, gt_boxes, ("quality", quality))
    places = (assigned >= 0).nonzero()[:, 0]
    ious = matched_iou(boxes[places].detach(), gt_boxes[assigned[places]])
    ranked_by = ious if quality is None else quality[places].detach()
    # Best first, then object by object: what stands before an object's first place is not its own.
    order = ranked_by.argsort(descending=True, stable=True)
    order = order[assigned[places[order]].argsort(stable=True)]
    objects = assigned[places[order]]
    rank = torch.arange(len(order), device=objects.device) - torch.searchsorted(objects, objects)
    keep = order[(rank < top) & (ious[order] > min_iou)]
    return places[keep].sort().values


def student_keys(
    assigned: Tensor,
    confidence: Tensor,
    boxes: Tensor,
    gt_boxes: Tensor,
    min_confidence: float = MIN_CONFIDENCE,
    max_iou: float = MAX_IOU,
) -> Tensor:
    """The student's weaknesses: confident predictions with a box beside the object, its current false positives.

    Args:
        assigned: the object of each place, (L,) int64, -1 for none.
        confidence: the student's probability of that object's class, (L,); any number where there is none.
        boxes: what the student predicts, (L,4).
        gt_boxes: (G,4).
        min_confidence: only predictions above it, which would survive at inference.
        max_iou: only predictions whose box overlaps the object's by less.

    Returns:
        places, ascending, int64.

    Raises:
        ValueError: shapes that do not fit, or an object that does not exist.
    """
    _check(assigned, boxes, gt_boxes, ("confidence", confidence))
    places = ((assigned >= 0) & (confidence.detach() > min_confidence)).nonzero()[:, 0]
    ious = matched_iou(boxes[places].detach(), gt_boxes[assigned[places]])
    return places[ious < max_iou]


def select_key_predictions(
    assigned: Tensor,
    teacher_boxes: Tensor,
    student_boxes: Tensor,
    student_confidence: Tensor,
    gt_boxes: Tensor,
    quality: Tensor | None = None,
) -> KeyPredictions:
    """The set P of an image: key predictions of teacher and student, a place in both once.

    Args:
        assigned: the object of each place, (L,) int64, -1 for none.
        teacher_boxes: what the teacher predicts, (L,4).
        student_boxes: what the student predicts, (L,4).
        student_confidence: the student's probability of the class of the object, (L,).
        gt_boxes: (G,4).
        quality: see :func:`teacher_keys`.

    Raises:
        ValueError: shapes that do not fit, or an object that does not exist.
    """
    teacher = teacher_keys(assigned, teacher_boxes, gt_boxes, quality)
    student = student_keys(assigned, student_confidence, student_boxes, gt_boxes)
    places = torch.cat([teacher, student]).unique()
    return KeyPredictions(places, assigned[places])


def matched_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU of boxes pair by pair, (n,4) twice -> (n,) in [0,1]; 0 where the union is empty."""
    corner = torch.maximum(first[:, :2], second[:, :2])
    shared = (torch.minimum(first[:, 2:], second[:, 2:]) - corner).clamp(min=0).prod(dim=1)
    one, other = ((boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1) for boxes in (first, second))
    union = one + other - shared
    return torch.where(union > 0, shared / torch.where(union > 0, union, 1), 0)


def _check(assigned: Tensor, boxes: Tensor, gt_boxes: Tensor, other: tuple[str, Tensor | None]) -> None:
    count, (name, values) = len(assigned), other
    if assigned.dim() != 1 or boxes.shape != (count, 4) or gt_boxes.shape[1:] != (4,):
        shapes = ", ".join(str(tuple(x.shape)) for x in (assigned, boxes, gt_boxes))
        raise ValueError(f"assigned (L,), boxes (L,4) and gt_boxes (G,4) do not fit: {shapes}")
    if values is not None and values.shape != (count,):
        raise ValueError(f"{name} has shape {tuple(values.shape)}; it must be ({count},), one for each place")
    if count and int(assigned.max()) >= len(gt_boxes):
        raise ValueError(f"a place is assigned to object {int(assigned.max())} of {len(gt_boxes)}")
