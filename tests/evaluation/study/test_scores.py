"""All cheap metrics of one object at once: equal to each by itself, in the paper's units."""

import math

import numpy as np
import pytest

from odam_d2.evaluation.metrics.discrimination import odi
from odam_d2.evaluation.metrics.localization import compactness, energy_pointing_game, pointing_game
from odam_d2.evaluation.metrics.specification import vea_auc, vea_curve
from odam_d2.evaluation.study.scores import score_maps

NEED_A_MASK = ("pg_mask", "enpg_mask", "odi_mask", "vea_auc")


def test_all_metrics_worked_by_hand():
    # The maximum is pixel 1, on the object (box: pixels 0 and 1, mask: pixel 1). Energy 8: 6 in the box, 5 in the mask.
    # The other object is pixel 2: 1 of 7 in boxes, 1 of 6 in masks. Spread (1 + 1 + 4) / 8 over (2^2 + 1^2) / 4.
    # Scaled: 0, 1, 0, 0 of a map 1, 5, 1, 1: the mask at every threshold.
    metrics = score_maps([[1.0, 5, 1, 1]], [0, 0, 2, 1], [[0, 1, 0, 0]], [[2, 0, 3, 1]], [[[0, 0, 1, 0]]])
    expected = {"pg_box": 100, "pg_mask": 100, "enpg_box": 75, "enpg_mask": 62.5, "odi_box": 100 / 7}
    expected |= {"odi_mask": 100 / 6, "compactness": math.sqrt(0.75 / 1.25), "vea_auc": 0.8}
    assert metrics == pytest.approx(expected | {"zero_map": False, "multi_object": True})
    assert all(isinstance(metrics[name], float) for name in expected)


def test_the_metrics_equal_each_by_itself():
    for seed in range(20):
        generator = np.random.default_rng(seed)
        heat_map, masks = generator.random((9, 13), dtype=np.float32), generator.random((4, 9, 13)) < 0.3
        corners = generator.uniform([-3, -3], [12, 8], (4, 2))
        boxes = np.concatenate([corners, corners + generator.uniform(0.5, 9, (4, 2))], axis=1)
        found = score_maps(heat_map, boxes[0], masks[0], boxes[1:], masks[1:])
        for kind, regions in (("box", boxes), ("mask", masks)):
            assert found[f"pg_{kind}"] == 100 * pointing_game(heat_map, regions[0])
            assert found[f"enpg_{kind}"] == 100 * energy_pointing_game(heat_map, regions[0])
            assert found[f"odi_{kind}"] == 100 * odi(heat_map, regions[0], regions[1:])
        assert found["compactness"] == compactness(heat_map, boxes[0])
        assert found["vea_auc"] == vea_auc(vea_curve(heat_map, masks[0]))


def test_without_masks_the_metrics_that_need_them_are_nan():
    with_masks = score_maps([[1.0, 5]], [0, 0, 1, 1], [[1, 0]], [[1, 0, 2, 1]], [[[0, 1]]])
    without = score_maps([[1.0, 5]], [0, 0, 1, 1], None, [[1, 0, 2, 1]], None)
    assert {name for name, value in without.items() if math.isnan(value)} == set(NEED_A_MASK)
    assert all(without[name] == value for name, value in with_masks.items() if name not in NEED_A_MASK)
    # One of the others lacks a mask.
    partly = score_maps([[1.0, 5]], [0, 0, 1, 1], [[1, 0]], [[1, 0, 2, 1]], None)
    assert {name for name, value in partly.items() if math.isnan(value)} == {"odi_mask"}


def test_an_all_zero_map_is_a_flagged_miss():
    metrics = score_maps(np.zeros((1, 2)), [0, 0, 1, 1], [[1, 0]], [[1, 0, 2, 1]], [[[0, 1]]])
    assert metrics["zero_map"] is True
    assert {name for name, value in metrics.items() if math.isnan(value)} == {"compactness", "odi_box", "odi_mask"}
    assert not any(metrics[name] for name in ("pg_box", "pg_mask", "enpg_box", "enpg_mask", "vea_auc"))


def test_the_only_object_of_an_image_has_no_others():
    metrics = score_maps([[1.0, 5]], [0, 0, 1, 1], [[1, 0]], np.zeros((0, 4)), [])
    assert metrics["odi_box"] == metrics["odi_mask"] == 0 and metrics["multi_object"] is False


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="2 masks for 1 other boxes"):
        score_maps([[1.0, 5]], [0, 0, 1, 1], [[1, 0]], [[1, 0, 2, 1]], np.ones((2, 1, 2)))
    with pytest.raises(ValueError, match="NaN"):
        score_maps([[math.nan]], [0, 0, 1, 1], None, [], None)
    with pytest.raises(ValueError, match=r"\(2, 2\).*\(1, 2\)"):
        score_maps([[1.0, 5]], [0, 0, 1, 1], np.ones((2, 2)), [], [])
