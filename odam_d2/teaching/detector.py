"""A detector that learns from a teacher while it trains, and is itself everywhere else."""

from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from odam_d2.distill import Distiller, LevelFocus, Objects
from odam_d2.modeling.explainable import check_explainable
from odam_d2.teaching.fit import Levels, check_fit, check_same_names
from odam_d2.teaching.focus import key_focus
from odam_d2.teaching.options import distiller_class, distiller_from_config
from odam_d2.teaching.teacher import Teacher, build_teacher
from odam_d2.teaching.training_pass import TrainingPass, responses_of, run_training_pass


class DistillingDetector(nn.Module):
    """What a trainer trains: a student and the distiller's own parameters, with losses of both.

    The teacher is no part of it: its weights are in no ``state_dict`` and no optimiser, and its mode does not change.
    Evaluated, or without autograd as where batch statistics are measured, it is the student.

    Args:
        student: an explainable detector.
        teacher: frozen.
        distiller: for the levels of both.
        levels: the student's, under whose names the teacher has its own.
    """

    def __init__(self, student: nn.Module, teacher: Teacher, distiller: Distiller, levels: Levels):
        super().__init__()
        self.student, self.distiller = student, distiller
        self.teacher, self.levels = teacher, levels

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """The student's own answer; in training its losses and, as ``loss_distill_...``, the distiller's."""
        if not (self.training and torch.is_grad_enabled()):
            return self.student(batched_inputs)
        done = run_training_pass(self.student, batched_inputs)
        names = self.levels.names
        needs = self.distiller.needs
        extra: dict[str, Any] = {}
        if "anchors" in needs:
            extra["anchors"] = done.anchors(names)
        if "focus" in needs:
            extra["focus"], maps = self._focus(done)
        elif "teacher_responses" in needs:
            seen = self.teacher.observe(batched_inputs, ())
            extra["student_responses"], extra["teacher_responses"] = responses_of(done.observe()[0]), responses_of(seen)
            maps = seen.feature_maps(names)
        else:
            maps = self.teacher.feature_maps(batched_inputs, names)
        objects = Objects(done.boxes, done.image_sizes, **extra)
        return done.losses | self.distiller([done.outputs[name] for name in names], maps, objects)

    def _focus(self, done: TrainingPass) -> tuple[list[LevelFocus], list[Tensor]]:
        """Focused objects and attention, and the teacher's maps."""
        own, positives = done.observe()
        seen = self.teacher.observe(done.batched_inputs, ("fpn",), places_of=own)
        names = self.levels.names
        focus = key_focus(seen, own, positives, done.boxes, names, self.distiller.attention)
        return focus, [maps.detach() for maps in seen.feature_maps(names)]


def distilling(cfg: CfgNode, student: nn.Module) -> nn.Module:
    """What is to be trained: the student beside the teacher that ``ODAM.KD`` names, or the student alone.

    Args:
        cfg: of the student.
        student: built from it.

    Raises:
        FileNotFoundError: no such config or weights of the teacher.
        ValueError: options that cannot be used, a teacher that was not loaded, or one that does not fit.
    """
    if not cfg.ODAM.KD.DISTILLER:
        return student
    distiller_class(cfg)
    check_explainable(student)
    teacher = build_teacher(cfg)
    check_same_names(cfg, teacher.cfg)
    # What a distiller needs can depend on its options; where the places differ no distiller may be asked.
    own, theirs = check_fit(student, teacher.detector)
    distiller = distiller_from_config(cfg, student, own, theirs.channels)
    check_fit(student, teacher.detector, distiller.needs)
    return DistillingDetector(student, teacher, distiller.to(cfg.MODEL.DEVICE), own)
