"""Detectron2 evaluators over datasets: the one room of ``evaluation`` that knows Detectron2."""

from odam_d2.evaluation.evaluators.detections import BoxEvaluator, CrowdHumanEvaluator

# Explanations bring pictures and pages along: whoever wants them imports ``evaluators.explanations``.
__all__ = ["BoxEvaluator", "CrowdHumanEvaluator"]
