"""A student beside its teacher in one training step: what ``ODAM.KD`` asks for, between detectors and the trainer."""

from odam_d2.teaching.attention import ImageAttention, image_attention
from odam_d2.teaching.detector import DistillingDetector, distilling
from odam_d2.teaching.fit import check_fit, check_same_names, levels_of
from odam_d2.teaching.focus import attention_maps, key_focus
from odam_d2.teaching.inherit import inherit
from odam_d2.teaching.options import distiller_from_config, fgd_settings, kind_of
from odam_d2.teaching.report import TeacherReport
from odam_d2.teaching.teacher import Teacher, build_teacher

__all__ = [
    "DistillingDetector",
    "ImageAttention",
    "Teacher",
    "TeacherReport",
    "attention_maps",
    "build_teacher",
    "check_fit",
    "check_same_names",
    "distiller_from_config",
    "distilling",
    "fgd_settings",
    "image_attention",
    "inherit",
    "key_focus",
    "kind_of",
    "levels_of",
]
