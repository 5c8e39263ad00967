"""Bootstrap intervals: cases whose distribution is known, and a plain loop."""

import math

import numpy as np
import pytest

from odam_d2.evaluation.metrics import statistics
from odam_d2.evaluation.metrics.statistics import bootstrap_interval


def test_the_interval_of_two_values_worked_by_hand():
    # Means of two draws from {0, 1}: 0, 1/2, 1 with probabilities 1/4, 1/2, 1/4. The middle 95 % reach from 0 to 1,
    # the middle 40 % (from .3 to .7) from 1/2 to 1/2.
    assert bootstrap_interval([0.0, 1.0]) == (0.5, 0.0, 1.0, 2, 0)
    assert bootstrap_interval([0.0, 1.0], level=0.4) == (0.5, 0.5, 0.5, 2, 0)


def test_equal_values_have_an_interval_of_no_width():
    assert bootstrap_interval([7.0] * 5) == (7, 7, 7, 5, 0)
    assert bootstrap_interval([3.0]) == (3, 3, 3, 1, 0)


def test_undefined_values_are_left_out_and_counted():
    with_nan = bootstrap_interval([0.0, math.nan, 1.0, math.nan, math.nan])
    assert with_nan == (0.5, 0.0, 1.0, 2, 3)


def test_without_values_the_interval_is_undefined():
    for values, undefined in (([], 0), ([math.nan] * 2, 2)):
        interval = bootstrap_interval(values)
        assert all(math.isnan(number) for number in interval[:3])
        assert interval[3:] == (0, undefined)


def test_many_values_give_the_interval_of_the_normal_distribution():
    values = np.random.default_rng(0).normal(5, 2, 400)
    interval = bootstrap_interval(values, seed=1, repeats=20_000)
    half = 1.96 * values.std() / math.sqrt(400)
    assert interval.high - interval.mean == pytest.approx(half, rel=0.05)
    assert interval.mean - interval.low == pytest.approx(half, rel=0.05)


def test_the_seed_decides_and_the_chunks_do_not(monkeypatch):
    values = np.random.default_rng(0).random(31)
    first = bootstrap_interval(values, seed=3, repeats=500)
    assert first == bootstrap_interval(values, seed=3, repeats=500) != bootstrap_interval(values, seed=4, repeats=500)
    monkeypatch.setattr(statistics, "CHUNK_VALUES", 100)
    assert bootstrap_interval(values, seed=3, repeats=500) == first


def test_the_interval_equals_a_plain_loop():
    values = np.random.default_rng(2).random(20)
    generator = np.random.default_rng(5)
    means = sorted(sum(values[generator.integers(20)] for _ in range(20)) / 20 for _ in range(101))
    # Of 101 sorted means the 10th and the 90th percentile are those at places 10 and 90.
    interval = bootstrap_interval(values, seed=5, level=0.8, repeats=101)
    assert (interval.low, interval.high) == (pytest.approx(means[10]), pytest.approx(means[90]))


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="inf"):
        bootstrap_interval([1.0, math.inf])
    with pytest.raises(ValueError, match=r"\(n,\)"):
        bootstrap_interval([[1.0]])
    with pytest.raises(ValueError, match="1.5"):
        bootstrap_interval([1.0], level=1.5)
    with pytest.raises(ValueError, match="0"):
        bootstrap_interval([1.0], repeats=0)
