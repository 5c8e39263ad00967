"""From a trace to heat maps; needs torch alone."""

from odam_d2.explain.explainer import (
    METHODS,
    SMOOTHINGS,
    GradientExplainer,
    check_methods,
    combine,
    explain,
    explain_together,
)
from odam_d2.explain.masks.black_box import BLACK_BOX, BlackBoxExplainer
from odam_d2.explain.masks.drise import DRISE, DRISEState, drise_heat_maps
from odam_d2.explain.targets import TARGETS, check_targets, target_output

# Those that take gradients, and the one that only runs the detector.
ALL_METHODS = (*METHODS, BLACK_BOX)

__all__ = [
    "ALL_METHODS",
    "BLACK_BOX",
    "DRISE",
    "DRISEState",
    "METHODS",
    "SMOOTHINGS",
    "TARGETS",
    "BlackBoxExplainer",
    "GradientExplainer",
    "check_methods",
    "check_targets",
    "combine",
    "drise_heat_maps",
    "explain",
    "explain_together",
    "target_output",
]
