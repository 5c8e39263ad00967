"""From settings to an explainer."""

from odam_d2.explain.attention.explainer import AttentionExplainer
from odam_d2.explain.explainer import Explainer, GradientExplainer
from odam_d2.explain.masks.black_box import BlackBoxExplainer, Observer
from odam_d2.explain.masks.drise import Progress
from odam_d2.explain.masks.region_masks import BBAMExplainer
from odam_d2.explain.methods import METHODS
from odam_d2.explain.settings import ExplainSettings


def make_explainer(
    settings: ExplainSettings, detector: Observer | None = None, progress: Progress | None = None
) -> Explainer:
    """What the settings describe: ``explainer(trace, target) -> HeatMaps``.

    Args:
        settings: how to explain.
        detector: for methods that ask it about perturbed images; others need traces alone.
        progress: told (masks or steps done, and in all) by such methods.

    Raises:
        ValueError: such a method without a detector, or one of two-stage detectors with another.
    """
    kind = METHODS[settings.method].kind
    if kind == "gradients":
        return GradientExplainer.from_settings(settings)
    if kind == "attention":
        return AttentionExplainer(settings)
    if detector is None:
        raise ValueError(f"{settings.method} asks the detector about masked images; it needs the detector")
    if kind == "region_masks":
        return BBAMExplainer(detector, settings, progress)
    return BlackBoxExplainer(detector, settings, progress)
