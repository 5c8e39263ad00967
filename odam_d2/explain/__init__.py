"""From a trace to heat maps; needs torch alone."""

from odam_d2.explain.attention.explainer import AttentionExplainer, location_attention
from odam_d2.explain.build import make_explainer
from odam_d2.explain.explainer import Explainer, GradientExplainer, combine, explain, explain_together
from odam_d2.explain.masks.bbam import BBAM
from odam_d2.explain.masks.black_box import BlackBoxExplainer
from odam_d2.explain.masks.drise import DRISE, DRISEState, drise_heat_maps
from odam_d2.explain.masks.region_masks import BBAMExplainer
from odam_d2.explain.methods import (
    GRADIENT_METHODS,
    METHODS,
    SMOOTHINGS,
    TRACE_METHODS,
    check_method_targets,
    check_methods,
)
from odam_d2.explain.settings import PATHS, ExplainSettings
from odam_d2.explain.targets import (
    TARGETS,
    Target,
    check_targets,
    name_targets,
    resolve_target,
    target_name,
    target_output,
)

__all__ = [
    "BBAM",
    "DRISE",
    "DRISEState",
    "GRADIENT_METHODS",
    "METHODS",
    "PATHS",
    "SMOOTHINGS",
    "TARGETS",
    "TRACE_METHODS",
    "AttentionExplainer",
    "BBAMExplainer",
    "BlackBoxExplainer",
    "ExplainSettings",
    "Explainer",
    "GradientExplainer",
    "Target",
    "check_method_targets",
    "check_methods",
    "check_targets",
    "combine",
    "drise_heat_maps",
    "explain",
    "explain_together",
    "location_attention",
    "make_explainer",
    "name_targets",
    "resolve_target",
    "target_name",
    "target_output",
]
