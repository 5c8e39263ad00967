"""Whether a teacher can teach a student: the same classes, levels and, where predictions are compared, places."""

from typing import NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.modeling.roi_heads import Res5ROIHeads

from odam_d2.modeling.explainable import ExplainableDetector


class Levels(NamedTuple):
    """The feature maps between which is distilled: those that the student's last stage reads, fine to coarse.

    Attributes:
        names: such as ``p3``.
        strides: network-input pixels per cell.
        channels: of all of them.
    """

    names: tuple[str, ...]
    strides: tuple[int, ...]
    channels: int


def levels_of(detector: ExplainableDetector) -> Levels:
    """The levels of a detector: what a dense head reads, or what the regions of a two-stage detector are pooled from.

    Args:
        detector: one of odam_d2's.

    Raises:
        ValueError: levels of different widths.
    """
    dense = isinstance(detector, DenseDetector)
    names = tuple(detector.head_in_features if dense else detector.roi_heads.region_features)
    return _levels(detector, names)


def _levels(detector: ExplainableDetector, names: tuple[str, ...]) -> Levels:
    shapes = detector.backbone.output_shape()
    widths = [shapes[name].channels for name in names]
    if len(set(widths)) > 1:
        raise ValueError(f"the levels {', '.join(names)} have {widths} channels; distillation needs one width for all")
    return Levels(names, tuple(shapes[name].stride for name in names), widths[0])


def check_fit(
    student: ExplainableDetector, teacher: ExplainableDetector, needs: tuple[str, ...] = ()
) -> tuple[Levels, Levels]:
    """Refuse a teacher that this student cannot learn from.

    Args:
        student: learns.
        teacher: is imitated.
        needs: what the distiller reads besides maps, see :attr:`odam_d2.distill.Distiller.needs`.

    Returns:
        the levels of both, under the same names.

    Raises:
        ValueError: other classes, a level that the teacher lacks or has at another stride, images padded to other
            sizes, or places that differ where the distiller compares predictions.
    """
    if student.num_classes != teacher.num_classes:
        raise ValueError(
            f"the student has {student.num_classes} classes and the teacher {teacher.num_classes}; choose a teacher of "
            "the same classes, or set its number of classes by ODAM.KD.TEACHER.OPTS if its weights have as many"
        )
    own = levels_of(student)
    theirs = {name: shape.stride for name, shape in teacher.backbone.output_shape().items()}
    for name, stride in zip(own.names, own.strides):
        if theirs.get(name) != stride:
            listed = ", ".join(f"{other} at stride {step}" for other, step in theirs.items())
            raise ValueError(
                f"the student's level {name} has stride {stride}, and the teacher has {listed}; both need the same "
                "levels"
            )
    paddings = [detector.backbone.size_divisibility for detector in (student, teacher)]
    if paddings[0] != paddings[1]:
        raise ValueError(
            f"the student pads images to multiples of {paddings[0]} pixels and the teacher to {paddings[1]}; their "
            "levels would differ in size"
        )
    if needs:
        _check_places(student, teacher, needs)
    return own, _levels(teacher, own.names)


def _check_places(student: ExplainableDetector, teacher: ExplainableDetector, needs: tuple[str, ...]) -> None:
    dense = [isinstance(detector, DenseDetector) for detector in (student, teacher)]
    kinds = [type(detector).__name__ for detector in (student, teacher)]
    if "student_responses" in needs and not dense[0]:
        raise ValueError(f"this distiller compares responses at anchors, of which {kinds[0]} has none; choose another")
    if not {"focus", "teacher_responses"} & set(needs):
        return
    if dense[0] != dense[1]:
        raise ValueError(
            f"the student is {kinds[0]} and the teacher {kinds[1]}, which predict at different places; choose a "
            "teacher of the student's kind, or a distiller of feature maps alone, such as fgd"
        )
    if dense[0]:
        anchors = [list(detector.anchor_generator.cell_anchors) for detector in (student, teacher)]
        same = len(anchors[0]) == len(anchors[1]) and all(
            a.shape == b.shape and torch.allclose(a, b) for a, b in zip(*anchors)
        )
        if not same:
            raise ValueError(
                f"the student ({kinds[0]}) and the teacher ({kinds[1]}) have different anchors; set "
                "MODEL.ANCHOR_GENERATOR of both alike"
            )
    elif isinstance(student.roi_heads, Res5ROIHeads):
        raise ValueError(
            "ODAMRes5ROIHeads does not say which regions it sampled, so it has no key predictions; choose another "
            "distiller, such as fgd, or ODAMROIHeads"
        )


def check_same_names(cfg: CfgNode, teacher: CfgNode) -> None:
    """Refuse a teacher whose datasets have as many classes as the student's, but others, or in another order.

    Datasets that are not registered, or whose metadata has no ``thing_classes``, are not looked at.

    Args:
        cfg: of the student.
        teacher: of the teacher.

    Raises:
        ValueError: names the first class that differs.
    """
    own, theirs = (
        next((names for dataset in (*one.DATASETS.TRAIN, *one.DATASETS.TEST) if (names := _names_of(dataset))), [])
        for one in (cfg, teacher)
    )
    if len(own) != len(theirs):
        return
    for number, (name, other) in enumerate(zip(own, theirs)):
        if name != other:
            raise ValueError(
                f"class {number} is {name!r} in the student's datasets and {other!r} in the teacher's; they must have "
                "the same classes in the same order"
            )


def _names_of(dataset: str) -> list[str]:
    # Detectron2 would make metadata for a name that it does not know.
    return list(MetadataCatalog.get(dataset).get("thing_classes") or ()) if dataset in MetadataCatalog else []
