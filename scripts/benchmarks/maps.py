"""Maps of a dataset's objects, measured as ``odam evaluate`` does it, in this process."""

from pathlib import Path
from typing import Any

from odam_d2 import ODAMPredictor
from odam_d2.evaluation.study.run import ExplanationEvaluator
from odam_d2.evaluation.study.settings import ExplanationSettings


def measure_maps(
    predictor: ODAMPredictor, dataset: str, folder: Path, settings: ExplanationSettings
) -> dict[str, dict[str, Any]]:
    """The means of each method; a run that was stopped goes on.

    Args:
        predictor: the detector.
        dataset: a registered one.
        folder: of the run.
        settings: what is measured.
    """
    evaluator = ExplanationEvaluator(predictor, dataset, folder, settings)
    evaluator.process([{"image_id": image_id} for image_id in evaluator.image_ids])
    evaluator.evaluate()
    return evaluator.summary
