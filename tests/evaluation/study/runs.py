"""What the tests of a study share."""

from evaluation.explained import THRESHOLD
from odam_d2.evaluation.study.run import ExplanationEvaluator
from odam_d2.evaluation.study.settings import ExplanationSettings

NAME = "odam_explained"


def settings(*methods, **options):
    return ExplanationSettings(methods, score_threshold=THRESHOLD, **options)


def evaluate(predictor, output, chosen, images=None, **options):
    evaluator = ExplanationEvaluator(predictor, NAME, output, chosen, **options)
    evaluator.process([{"image_id": name} for name in images or evaluator.image_ids])
    evaluator.evaluate()
    return evaluator.summary
