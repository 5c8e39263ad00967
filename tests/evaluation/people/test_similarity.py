"""Similarities of maps: values by hand, then identities, limits and a second implementation."""

import math

import numpy as np
import pytest
from scipy.optimize import linprog

from odam_d2.evaluation.people.similarity import (
    Similarity,
    compare,
    correlation,
    cosine,
    jensen_shannon,
    reduce_map,
    transport_distance,
)

FUNCTIONS = [cosine, correlation, transport_distance, jensen_shannon]
ot = pytest.importorskip("ot", reason="optimal transport needs POT, the extra people")


def maps(*seeds, size=(5, 7)):
    return [np.random.default_rng(seed).random(size) for seed in seeds]


def test_cosine_by_hand():
    """<(3,4), (4,3)> = 24, both of length 5."""
    assert cosine(np.array([[3.0, 4]]), np.array([[4.0, 3]])) == pytest.approx(24 / 25)
    assert cosine(np.array([[1.0, 0]]), np.array([[0, 1.0]])) == 0


def test_correlation_by_hand():
    """(1,2,3) less its mean is (-1,0,1); (1,3,2) less its mean (-1,1,0): their product is 1, both squares are 2."""
    assert correlation(np.array([[1.0, 2, 3]]), np.array([[1.0, 3, 2]])) == pytest.approx(1 / 2)
    assert correlation(np.array([[1.0, 2, 3]]), np.array([[3.0, 2, 1]])) == pytest.approx(-1)


def test_transport_distance_by_hand():
    """Everything from the first to the last of 4 x 3 pixels: 3 columns and 2 rows, of a diagonal of 5."""
    first, last = np.zeros((3, 4)), np.zeros((3, 4))
    first[0, 0], last[2, 3] = 7, 0.1
    assert transport_distance(first, last) == pytest.approx(math.hypot(3, 2) / 5)
    # Half of it stays where it is.
    half = np.zeros((3, 4))
    half[0, 0] = half[0, 2] = 1
    assert transport_distance(first, half) == pytest.approx(0.5 * 2 / 5)


def test_transport_takes_the_shorter_ways():
    """Masses at 0 and 1 go to 1 and 2: carried 1 each, or one by 2 and one not at all; both cost 1 on average."""
    assert transport_distance(np.array([[1.0, 1, 0]]), np.array([[0, 1.0, 1]])) == pytest.approx(1 / math.hypot(3, 1))
    # At 0 and 3 to 1 and 2: the near ones, 1 each, and not 2 each.
    near = transport_distance(np.array([[1.0, 0, 0, 1]]), np.array([[0, 1.0, 1, 0]]))
    assert near == pytest.approx(1 / math.hypot(4, 1))


def test_divergence_by_hand():
    """(1,0) and (1,1)/2: m = (3/4, 1/4); KL are log2(4/3) and log2(2/3)/2 + log2(2)/2."""
    expected = (math.log2(4 / 3) + (math.log2(2 / 3) + 1) / 2) / 2
    assert jensen_shannon(np.array([[2.0, 0]]), np.array([[5.0, 5]])) == pytest.approx(expected)
    assert jensen_shannon(np.array([[1.0, 0]]), np.array([[0, 1.0]])) == pytest.approx(1)


@pytest.mark.parametrize(("function", "same"), list(zip(FUNCTIONS, (1, 1, 0, 0))))
def test_a_map_is_most_like_itself_whatever_its_scale(function, same):
    (one,) = maps(0)
    assert function(one, 1e-9 * one) == pytest.approx(same, abs=1e-9)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_both_ways_are_alike_and_maps_stay_as_they_are(function):
    one, other = maps(1, 2)
    before = one.copy()
    assert function(one, other) == pytest.approx(function(other, one))
    assert (one == before).all()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_an_all_zero_map_is_like_nothing(function):
    (one,) = maps(0)
    assert math.isnan(function(one, np.zeros_like(one))) and math.isnan(function(np.zeros_like(one), one))


def test_a_constant_map_has_no_correlation_but_the_rest():
    (one,) = maps(0)
    found = compare(one, np.ones_like(one))
    assert math.isnan(found.correlation) and not np.isnan([found.cosine, found.otd, found.jsd]).any()


def test_tiny_values_do_not_vanish():
    one, other = maps(1, 2)
    assert compare(one * 1e-200, other * 1e-200) == pytest.approx(compare(one, other))


def test_all_four_are_those_alone():
    one, other = maps(3, 4)
    assert compare(one, other) == Similarity(*(function(one, other) for function in FUNCTIONS))


def test_a_linear_program_finds_the_same_transport():
    """The definition, by SciPy's general solver: all flows, with the sums of rows and columns given."""
    one, other = maps(5, 6, size=(3, 4))
    places = np.argwhere(np.ones((3, 4)))
    distances = np.linalg.norm(places[:, None] - places, axis=2) / 5
    sums = np.concatenate([np.kron(np.eye(12), np.ones(12)), np.kron(np.ones(12), np.eye(12))])
    masses = np.concatenate([one.ravel() / one.sum(), other.ravel() / other.sum()])
    expected = linprog(distances.ravel(), A_eq=sums, b_eq=masses).fun
    assert transport_distance(one, other) == pytest.approx(expected, rel=1e-6)


def test_a_reduced_grid_keeps_the_sum_and_divides_pixels_between_cells():
    """Three pixels on two cells: the middle one is divided."""
    assert reduce_map(np.array([[1.0, 2, 4]]), 2) == pytest.approx(np.array([[2.0, 5]]))
    (one,) = maps(0, size=(31, 47))
    small = reduce_map(one, 10)
    assert small.shape == (7, 10) and small.sum() == pytest.approx(one.sum())
    assert reduce_map(one, 99) == pytest.approx(one)


def test_a_coarser_grid_changes_the_distance_by_less_than_a_cell():
    one, other = maps(7, 8, size=(12, 16))
    cell = math.hypot(2, 2) / math.hypot(12, 16)
    assert transport_distance(one, other, grid=8) == pytest.approx(transport_distance(one, other, grid=16), abs=cell)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_maps_that_cannot_be_compared_are_refused(function):
    (one,) = maps(0)
    with pytest.raises(ValueError, match=r"not of \(5, 7\) and \(7, 5\)"):
        function(one, one.T)
    with pytest.raises(ValueError, match="negative"):
        function(one, -one)
    with pytest.raises(ValueError, match="NaN|finite"):
        function(one * np.nan, one)


def test_a_grid_without_cells_is_refused():
    with pytest.raises(ValueError, match="the grid has 0 cells"):
        transport_distance(*maps(0, 1), grid=0)
