"""Knowledge distillation between detectors' feature maps; needs torch alone.

Every distiller is called alike, ``losses = distiller(student_levels, teacher_levels, objects)``, and can be built by
name: ``build_distiller("odam_kd", strides, student_channels, teacher_channels)``.
"""

from collections.abc import Sequence
from typing import Any

from odam_d2.distill.cwd import CWD
from odam_d2.distill.distiller import Distiller
from odam_d2.distill.fgd import FGD, FGD_FCOS, FGD_PRESETS, FGD_RETINANET, FGD_TWO_STAGE, FGDSettings
from odam_d2.distill.fgfi import FGFI
from odam_d2.distill.fkd import FKD, FKD_ONE_STAGE, FKD_TWO_STAGE, FKDSettings
from odam_d2.distill.gid import GID, GIDSettings
from odam_d2.distill.key_predictions import KeyPredictions, select_key_predictions
from odam_d2.distill.objects import LevelFocus, Objects, Responses
from odam_d2.distill.odam_kd import ODAMKD
from odam_d2.distill.pkd import PKD

__all__ = [
    "CWD",
    "DISTILLERS",
    "Distiller",
    "FGD",
    "FGDSettings",
    "FGD_FCOS",
    "FGD_PRESETS",
    "FGD_RETINANET",
    "FGD_TWO_STAGE",
    "FGFI",
    "FKD",
    "FKDSettings",
    "FKD_ONE_STAGE",
    "FKD_TWO_STAGE",
    "GID",
    "GIDSettings",
    "KeyPredictions",
    "LevelFocus",
    "ODAMKD",
    "Objects",
    "PKD",
    "Responses",
    "build_distiller",
    "select_key_predictions",
]

DISTILLERS: dict[str, type[Distiller]] = {
    "odam_kd": ODAMKD,
    "fgd": FGD,
    "fgfi": FGFI,
    "gid": GID,
    "fkd": FKD,
    "cwd": CWD,
    "pkd": PKD,
}


def build_distiller(
    name: str, strides: Sequence[int], student_channels: int, teacher_channels: int | None = None, **options: Any
) -> Distiller:
    """A distiller by its name.

    Args:
        name: a key of :data:`DISTILLERS`.
        strides: network-input pixels per cell of every level, fine to coarse.
        student_channels: width of the student's maps.
        teacher_channels: width of the teacher's; None: the same.
        options: what the distiller takes besides.

    Raises:
        ValueError: an unknown name.
    """
    if name not in DISTILLERS:
        raise ValueError(f"unknown distiller {name!r}; valid names are {', '.join(DISTILLERS)}")
    return DISTILLERS[name](strides, student_channels, teacher_channels, **options)
