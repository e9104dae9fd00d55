from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewshot_bench.errors import ComparisonError, ShapeError
from fewshot_bench.statistics import paired_t_test

T_3 = 3.182446  # two-sided 95%, 3 degrees of freedom


def two_sided_p_of_three_degrees(t: float) -> float:
    """Student's distribution function has a closed form for 3 degrees of freedom."""
    x = t / math.sqrt(3)
    return 1 - 2 / math.pi * (x / (1 + x * x) + math.atan(x))


def test_four_pairs_worked_by_hand():
    # differences 0.1, 0.2, 0.0, 0.1: mean 0.1, variance 0.02 / 3, t = 0.1 / sqrt(0.02 / 12) = sqrt(6)
    test = paired_t_test([0.6, 0.8, 0.7, 0.9], [0.5, 0.6, 0.7, 0.8])
    assert test.n == 4
    assert test.mean_difference == pytest.approx(0.1)
    assert test.sd_difference == pytest.approx(math.sqrt(0.02 / 3))
    assert test.t == pytest.approx(math.sqrt(6))
    assert test.p == pytest.approx(two_sided_p_of_three_degrees(math.sqrt(6)))
    assert test.ci_low == pytest.approx(0.1 - T_3 * math.sqrt(0.02 / 12), rel=1e-5)
    assert test.ci_high == pytest.approx(0.1 + T_3 * math.sqrt(0.02 / 12), rel=1e-5)
    assert (test.wins, test.losses, test.ties) == (3, 0, 1)


def test_student_1908_on_sleep():
    # Student (1908), "The probable error of a mean": ten patients, two drugs; t = 4.0621, p = 0.00283 (R: t.test).
    dextro = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    laevo = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    test = paired_t_test(laevo, dextro)
    assert test.mean_difference == pytest.approx(1.58)
    assert test.t == pytest.approx(4.0621, abs=1e-4)
    assert test.p == pytest.approx(0.002833, abs=1e-6)
    assert (test.ci_low, test.ci_high) == pytest.approx((0.7001142, 2.4598858), abs=1e-6)
    assert (test.wins, test.losses, test.ties) == (9, 0, 1)


class TestNoVariance:
    @pytest.fixture(autouse=True)
    def no_warnings(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield

    def test_identical_methods_show_no_difference(self):
        test = paired_t_test([0.2, 0.4, 0.6], [0.2, 0.4, 0.6])
        assert (test.mean_difference, test.ci_low, test.ci_high, test.t, test.p) == (0, 0, 0, 0, 1)
        assert (test.wins, test.losses, test.ties) == (0, 0, 3)

    @pytest.mark.parametrize("sign", [1, -1])
    def test_the_same_difference_everywhere_is_as_certain_as_its_signs(self, sign):
        test = paired_t_test([0.5 + sign * 0.25] * 5, [0.5] * 5)
        assert test.mean_difference == sign * 0.25
        assert (test.ci_low, test.ci_high) == (sign * 0.25, sign * 0.25)
        assert test.t == sign * math.inf
        assert test.p == 2 / 2**5  # of the 32 ways to choose the signs, two give as large a sum

    def test_rounding_errors_are_no_variance(self):
        correct = np.arange(1, 70)
        test = paired_t_test((correct + 5) / 75, correct / 75)
        assert len(set((correct + 5) / 75 - correct / 75)) > 1
        assert (test.p, test.sd_difference) == (2**-68, 0)
        assert test.mean_difference == pytest.approx(5 / 75)

    @settings(deadline=None, max_examples=100)
    @given(st.lists(st.tuples(st.integers(0, 75), st.integers(0, 75)), min_size=2, max_size=12))
    def test_any_accuracies_give_numbers(self, pairs):
        a, b = np.array(pairs).T / 75
        test = paired_t_test(a, b)
        assert 0 <= test.p <= 1
        assert test.ci_low <= test.mean_difference <= test.ci_high
        assert not math.isnan(test.t)
        assert test.wins + test.losses + test.ties == len(pairs)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 75), st.integers(0, 75)), min_size=2, max_size=12))
def test_exchanging_the_methods_turns_the_sign(pairs):
    a, b = np.array(pairs).T / 75
    forward, backward = paired_t_test(a, b), paired_t_test(b, a)
    assert backward.mean_difference == pytest.approx(-forward.mean_difference, abs=1e-12)
    assert (backward.ci_low, backward.ci_high) == pytest.approx((-forward.ci_high, -forward.ci_low), abs=1e-12)
    assert backward.p == pytest.approx(forward.p)
    assert (backward.wins, backward.losses) == (forward.losses, forward.wins)


def test_the_paired_test_sees_what_a_shared_difficulty_hides():
    generator = np.random.default_rng(7)
    difficulty = generator.normal(0.6, 0.1, size=500)
    a = difficulty + 0.01 + generator.normal(0, 0.02, size=500)
    b = difficulty + generator.normal(0, 0.02, size=500)
    assert paired_t_test(a, b).p < 1e-6
    assert paired_t_test(a, generator.permutation(b)).p > 0.01


@pytest.mark.slow
def test_equal_methods_are_called_different_5_times_in_100():
    generator = np.random.default_rng(11)
    a, b = generator.binomial(75, 0.6, size=(2, 2000, 40)) / 75
    tests = [paired_t_test(first, second) for first, second in zip(a, b, strict=True)]
    assert 0.035 <= np.mean([test.p < 0.05 for test in tests]) <= 0.065
    assert all((test.p < 0.05) == (not test.ci_low <= 0 <= test.ci_high) for test in tests)


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_pairs_are_refused(n):
    with pytest.raises(ComparisonError, match=f"needs two episodes or more; there are {n}"):
        paired_t_test([0.5] * n, [0.4] * n)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([1, 2, 3], [1, 2], "must be two arrays"),
        ([[1, 2]], [[1, 2]], "must be two arrays"),
        ([1, math.nan], [1, 2], "finite"),
    ],
)
def test_values_that_do_not_pair_are_refused(a, b, message):
    with pytest.raises(ShapeError, match=message):
        paired_t_test(a, b)
