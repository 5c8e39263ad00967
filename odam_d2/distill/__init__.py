"""Knowledge distillation between detectors' feature maps; needs torch alone."""

from odam_d2.distill.distiller import Distiller
from odam_d2.distill.fgd import FGD, FGD_FCOS, FGD_PRESETS, FGD_RETINANET, FGD_TWO_STAGE, FGDSettings
from odam_d2.distill.key_predictions import KeyPredictions, select_key_predictions
from odam_d2.distill.objects import LevelFocus, Objects, Responses
from odam_d2.distill.odam_kd import ODAMKD

__all__ = [
    "Distiller",
    "FGD",
    "FGDSettings",
    "FGD_FCOS",
    "FGD_PRESETS",
    "FGD_RETINANET",
    "FGD_TWO_STAGE",
    "KeyPredictions",
    "LevelFocus",
    "ODAMKD",
    "Objects",
    "Responses",
    "select_key_predictions",
]
