"""From a trace to heat maps; needs torch alone."""

from odam_d2.explain.drise import DRISE, DRISEState, drise_heat_maps
from odam_d2.explain.odam import METHODS, SMOOTHINGS, GradientExplainer, combine, explain, explain_together
from odam_d2.explain.targets import TARGETS, check_targets, target_output

__all__ = [
    "DRISE",
    "DRISEState",
    "METHODS",
    "SMOOTHINGS",
    "TARGETS",
    "GradientExplainer",
    "check_targets",
    "combine",
    "drise_heat_maps",
    "explain",
    "explain_together",
    "target_output",
]
