from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewshot_bench.errors import ComparisonError, ShapeError
from fewshot_bench.statistics import all_pairs, corrected, paired_t_test, pairs_with_gaps


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@st.composite
def accuracies(draw):
    methods, episodes = draw(st.integers(1, 5)), draw(st.integers(2, 20))
    rows = st.lists(st.integers(0, 75), min_size=episodes, max_size=episodes)
    values = np.array(draw(st.lists(rows, min_size=methods, max_size=methods))) / 75
    repeated = draw(st.integers(0, methods - 1))
    return np.vstack([values, values[repeated], values[repeated] + draw(st.sampled_from([0.1, 5 / 75, -0.02]))])


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(accuracies())
def test_every_pair_is_the_paired_t_test(values):
    matrix = all_pairs(values)
    for i, a in enumerate(values):
        for j, b in enumerate(values):
            test = paired_t_test(a, b)
            assert matrix.mean_differences[i, j] == pytest.approx(test.mean_difference, abs=1e-12)
            assert matrix.p[i, j] == pytest.approx(test.p, rel=1e-9)
            assert matrix.t[i, j] == pytest.approx(test.t, rel=1e-9, abs=1e-9)
            assert matrix.standard_errors[i, j] == pytest.approx(test.sd_difference / math.sqrt(test.n), rel=1e-9)
            half_width = (test.ci_high - test.ci_low) / 2
            assert matrix.half_widths()[i, j] == pytest.approx(half_width, rel=1e-9, abs=1e-12)


@pytest.mark.slow
@settings(deadline=None, max_examples=50)
@given(accuracies())
def test_the_matrix_is_symmetric_but_for_signs(values):
    matrix = all_pairs(values)
    for signed in (matrix.mean_differences, matrix.t):
        np.testing.assert_array_equal(signed, -signed.T)
        assert not np.signbit(signed[signed == 0]).any()
    for plain in (matrix.standard_errors, matrix.p, matrix.corrected()):
        np.testing.assert_array_equal(plain, plain.T)
    np.testing.assert_array_equal(np.diag(matrix.p), 1)


def test_methods_that_differ_on_one_episode_of_many_are_told_apart():
    first = np.random.default_rng(0).binomial(75, 0.6, 9000) / 75
    second = first.copy()
    second[17] += 1 / 75
    test, matrix = paired_t_test(second, first), all_pairs([first, second])
    assert matrix.t[1, 0] == pytest.approx(test.t, rel=1e-9) == pytest.approx(1)
    assert matrix.p[1, 0] == pytest.approx(test.p, rel=1e-9)


def test_duplicates_show_no_difference_at_any_length():
    values = np.random.default_rng(1).random(9000)
    matrix = all_pairs([values, values, values])
    np.testing.assert_array_equal(matrix.p, 1)
    np.testing.assert_array_equal(matrix.mean_differences, 0)


def test_pairs_are_corrected_once_each():
    values = np.random.default_rng(2).binomial(75, [[0.60], [0.62], [0.65], [0.60]], (4, 200)) / 75
    matrix = all_pairs(values)
    upper = np.triu_indices(4, 1)
    np.testing.assert_allclose(matrix.corrected("bh")[upper], corrected(matrix.p[upper], "bh"))
    np.testing.assert_array_equal(matrix.corrected("none"), matrix.p)
    np.testing.assert_array_equal(np.diag(matrix.corrected()), 1)


def test_one_method_alone_makes_no_pair():
    matrix = all_pairs([[0.1, 0.2, 0.3]])
    assert matrix.p.tolist() == matrix.corrected().tolist() == [[1.0]]


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ([0.1, 0.2], ShapeError, r"needs accuracies \[A, E\]"),
        (np.zeros((0, 3)), ShapeError, r"needs accuracies \[A, E\]"),
        ([[0.1, math.nan]], ShapeError, "finite"),
        ([[0.1], [0.2]], ComparisonError, "two episodes or more; there are 1"),
    ],
)
def test_what_is_no_matrix_of_accuracies_is_refused(values, error, message):
    with pytest.raises(error, match=message):
        all_pairs(values)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), methods=st.integers(2, 6))
def test_pairs_with_gaps_are_tested_on_what_both_have(seed, methods):
    generator = np.random.default_rng(seed)
    values = generator.integers(0, 76, size=(methods, 40)) / 75
    values[generator.random(values.shape) < 0.4] = np.nan
    values[0, 2:] = np.nan
    values[-1] = values[0] + 1 / 75  # constant differences, on two episodes at most
    p = pairs_with_gaps(values)
    for i in range(methods):
        for j in range(methods):
            both = ~np.isnan(values[i]) & ~np.isnan(values[j])
            if i == j:
                assert p[i, j] == 1
            elif both.sum() < 2:
                assert np.isnan(p[i, j])
            else:
                assert p[i, j] == pytest.approx(paired_t_test(values[i, both], values[j, both]).p, rel=1e-6)


def test_without_gaps_it_is_the_matrix_of_all_pairs():
    values = np.random.default_rng(3).integers(20, 60, size=(7, 300)) / 75
    np.testing.assert_allclose(pairs_with_gaps(values), all_pairs(values).p, rtol=1e-7)
