"""A student beside its teacher in one training step: what ``ODAM.KD`` asks for, between detectors and the trainer."""

from odam_d2.teaching.detector import DistillingDetector, distilling
from odam_d2.teaching.fit import check_fit, check_same_names, levels_of
from odam_d2.teaching.focus import key_focus, level_attention
from odam_d2.teaching.inherit import inherit
from odam_d2.teaching.options import distiller_from_config, kind_of
from odam_d2.teaching.report import TeacherReport
from odam_d2.teaching.teacher import Teacher, build_teacher

__all__ = [
    "DistillingDetector",
    "Teacher",
    "TeacherReport",
    "build_teacher",
    "check_fit",
    "check_same_names",
    "distiller_from_config",
    "distilling",
    "inherit",
    "key_focus",
    "kind_of",
    "level_attention",
    "levels_of",
]
