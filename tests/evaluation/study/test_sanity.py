"""Sanity checks: similarities by hand, pairs of neighbours, and a detector run through both checks."""

import json

import numpy as np
import pytest
import torch

from evaluation.explained import make_predictor
from helpers import random_photo
from odam_d2.evaluation.study.sanity import SanityResult, check_image, cosine, draw_sanity, neighbour_pairs, spearman
from odam_d2.explain import GradientExplainer


def test_cosine_and_rank_correlation_by_hand():
    a, b = np.array([[3.0, 0], [4, 0]]), np.array([[0.0, 0], [5, 0]])
    assert cosine(a, b) == pytest.approx(4 / 5)
    # Where one of them is not 0: ranks 2, 1, 3 and 1, 2, 3, which differ by 1, 1, 0: 1 - 6 * 2 / (3 * 8).
    c = np.array([[0.0, 2], [5, 0]])
    assert spearman(a, c) == pytest.approx(0.5)
    assert spearman(a, a**3) == pytest.approx(1) and spearman(a, -a) == pytest.approx(-1)
    assert cosine(a, 0 * a) == 0 and spearman(a, 0 * a + 1) == 0 and spearman(0 * a, 0 * a) == 0


def test_zeros_that_two_maps_share_do_not_make_them_similar():
    a, b = np.random.default_rng(0).random((2, 6, 6))
    assert spearman(np.pad(a, 9), np.pad(b, 9)) == pytest.approx(spearman(a, b))


def test_neighbours_overlap_and_are_of_one_class():
    boxes = np.array([[0, 0, 10, 10], [5, 5, 15, 15], [5, 5, 15, 15], [50, 50, 60, 60], [10, 0, 20, 10]], dtype=float)
    # The last box touches the first without overlapping it.
    assert neighbour_pairs(boxes, np.array([1, 1, 2, 1, 1])) == [(0, 1), (1, 4)]
    assert neighbour_pairs(np.zeros((0, 4)), np.zeros(0, int)) == []


def test_verdicts_follow_from_the_values():
    result = SanityResult()
    assert result.to_json()["depends_on_weights"] is None and result.to_json()["neighbours_differ"] is None
    for name in ("spearman", "cosine"):
        result.cascade[name] = {"predictors": [0.9, 0.7], "stem": [0.2, 0.4]}
    result.neighbours = [0.1, 0.9995]
    told = result.to_json()
    assert told["spearman"] == {"predictors": pytest.approx(0.8), "stem": pytest.approx(0.3)}
    assert told["depends_on_weights"] is True and told["neighbours_differ"] is False and told["detections"] == 2


@pytest.mark.parametrize("kind", ["fcos", "faster_rcnn"])
def test_a_detector_goes_through_both_checks_and_is_left_as_found(kind, quick_weights, tmp_path):
    predictor = make_predictor(kind, quick_weights(kind))
    learned = {name: value.clone() for name, value in predictor.model.state_dict().items()}
    explainers = {method: GradientExplainer(method) for method in ("odam", "gradcam")}
    results = {method: SanityResult() for method in explainers}
    for seed in (0, 1):
        options = {"score_threshold": 0.0, "max_detections": 2}
        check_image(predictor, random_photo(75, 133, seed)[:, :, ::-1], explainers, results, **options)
    for result in results.values():
        told = result.to_json()
        assert told["detections"] == 4 and list(told["spearman"]) == list(predictor.model.layer_groups())
        assert all(-1 <= value <= 1 for value in told["spearman"].values())
        assert all(0 <= value <= 1.000001 for value in [*told["cosine"].values(), *result.neighbours])
        json.dumps(told)
    draw_sanity(str(tmp_path / "sanity.png"), results)
    assert (tmp_path / "sanity.png").stat().st_size > 1000
    assert all(torch.equal(value, learned[name]) for name, value in predictor.model.state_dict().items())
    assert "_detect" not in vars(predictor.model)
