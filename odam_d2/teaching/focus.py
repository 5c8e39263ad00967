"""What ODAM-KD looks at on every level of a batch: focused objects, and the top-down attention of both networks.

Shapes: N images, C channels, (Hl,Wl) level, L places, P positives of an image, G objects of an image, D key
predictions.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from odam_d2.distill.key_predictions import KeyPredictions, select_key_predictions
from odam_d2.distill.objects import LevelFocus
from odam_d2.explain.gradients import summed_gradients
from odam_d2.explain.methods import METHODS
from odam_d2.modeling.explainable import Observation
from odam_d2.modeling.positives import Positives
from odam_d2.structures import Trace, full_precision

# ODAM-KD's attention -> the method whose weights W turn gradients into maps; bottom-up attention needs none.
MAP_METHODS = {"bottom_up": None, "odam": "odam", "gradcam": "gradcam"}
# In float16 gradients of a weighted confidence may be smaller than its smallest number.
HALF_SCALE = 2.0**8


class _Keys(NamedTuple):
    """The key predictions of one image.

    Attributes:
        keys: positions among its positives, and objects.
        levels: name of the level of each, D of them.
        traces: of the image's positives, of teacher and student.
        confidences: y_p of each key prediction, of teacher and student, with graph, (D,) each.
    """

    keys: KeyPredictions
    levels: list[str]
    traces: tuple[Trace, Trace]
    confidences: tuple[Tensor, Tensor]

    def weighted(self, level: str) -> tuple[Tensor, Tensor]:
        """``|y_p^T - y_p^S| y_p`` of both networks at a level's key predictions; the weights are constants."""
        rows = [row for row, own in enumerate(self.levels) if own == level]
        teacher, student = (y[rows] for y in self.confidences)
        weights = (teacher - student).abs().detach()
        return weights * teacher, weights * student


def key_focus(
    teacher: Observation,
    student: Observation,
    positives: Sequence[Positives],
    boxes: Sequence[Tensor],
    levels: Sequence[str],
    attention: str = "odam",
) -> list[LevelFocus]:
    """Select key predictions (section 5.2) and explain them level by level, equations (3) and (4).

    For each level the sum over all key predictions p of all images, ``sum_p |y_p^T - y_p^S| y_p``, is differentiated
    by the level's maps, once for the teacher and once for the student. y_p is the probability of the class of the
    object to which the place was assigned.

    Args:
        teacher: at the student's places, recorded at ``fpn``.
        student: likewise.
        positives: the places of each image that were assigned to an object.
        boxes: the objects of each image, (G,4), in network-input pixels.
        levels: names of the feature maps, fine to coarse.
        attention: ``odam``; ``gradcam``, whose gradients are averaged over the level; or ``bottom_up``, which needs no
            maps.

    Returns:
        of each level; the maps have no graph.
    """
    found = [_keys_of(teacher, student, i, own, of) for i, (own, of) in enumerate(zip(positives, boxes))]
    focus = []
    for level in levels:
        focused = []
        for own in found:
            here = torch.tensor(
                [name == level for name in own.levels], dtype=torch.bool, device=own.keys.objects.device
            )
            focused.append(own.keys.objects[here].unique())
        maps = _level_attention(found, level, attention) if MAP_METHODS[attention] else (None, None)
        focus.append(LevelFocus(focused, *maps))
    return focus


def _keys_of(teacher: Observation, student: Observation, image: int, positives: Positives, boxes: Tensor) -> _Keys:
    traces = tuple(seen.trace(image, positives.places, positives.classes) for seen in (teacher, student))
    confidences = [confidence(trace) for trace in traces]
    keys = select_key_predictions(
        assigned=objects_of(positives, boxes),
        teacher_boxes=traces[0].boxes.detach(),
        student_boxes=traces[1].boxes.detach(),
        student_confidence=confidences[1].detach(),
        gt_boxes=boxes,
    )
    rows = keys.places
    levels = [traces[1].levels[row] for row in rows.tolist()]
    return _Keys(keys, levels, (traces[0], traces[1]), (confidences[0][rows], confidences[1][rows]))


def _level_attention(found: Sequence[_Keys], level: str, attention: str) -> tuple[Tensor, Tensor]:
    """M_td of teacher and student on a level, (N,Hl,Wl) each: equations (3) and (4).

    Args:
        found: key predictions of each image.
        level: name of the feature map.
        attention: ``odam`` or ``gradcam``.
    """
    weighted = [own.weighted(level) for own in found]
    teacher, student = (
        attention_maps([own.traces[who] for own in found], [parts[who] for parts in weighted], level, attention)
        for who in (0, 1)
    )
    return teacher, student


def attention_maps(traces: Sequence[Trace], outputs: Sequence[Tensor], level: str, attention: str = "odam") -> Tensor:
    """``ReLU(sum_k A_k o W_k)`` of each image, where W follows from the gradient of the summed outputs.

    Args:
        traces: of the images of one forward pass.
        outputs: what is summed of each image, (n,) with graph.
        level: name of the feature map A.
        attention: ``odam``: W is the gradient, the equations as they stand. ``gradcam``: its mean over the level.

    Returns:
        (N,Hl,Wl), without graph; zero where an image has no outputs.
    """
    weighting = METHODS[MAP_METHODS[attention]].weighting["none"]
    half = any(trace.features[level].dtype == torch.float16 for trace in traces)
    scale = HALF_SCALE if half else 1.0
    maps = []
    for gradient, activation in summed_gradients(traces, [scale * own for own in outputs], level):
        gradient, activation = map(full_precision, (gradient, activation))
        weights = weighting(gradient / scale, activation, activation.new_zeros(1, 2))
        maps.append((weights * activation).sum(dim=0).relu())
    return torch.stack(maps)


def confidence(trace: Trace) -> Tensor:
    """y_p, the probability of each prediction's class, with graph, in full precision, (D,)."""
    return full_precision(trace.class_vectors.gather(1, trace.classes[:, None])[:, 0])


def objects_of(positives: Positives, boxes: Tensor) -> Tensor:
    """Which object of an image each positive was assigned to, (P,) int64.

    Args:
        positives: of the image.
        boxes: of its objects, (G,4). Of equal ones the first is meant, to which Detectron2 matches everything.
    """
    if len(boxes) == 0:
        return positives.places.new_zeros(0)
    return (positives.boxes[:, None] == boxes).all(dim=2).int().argmax(dim=1)
