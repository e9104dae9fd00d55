from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fewshot_bench.errors import ComparisonError, ShapeError
from fewshot_bench.statistics import compare_pairs, paired_t_test, sign_flip_p, wilcoxon_p

some_pairs = st.lists(st.tuples(st.integers(0, 75), st.integers(0, 75)), min_size=2, max_size=40)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def accuracies_of(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.array(pairs).T / 75
    return a, b


def test_four_pairs_worked_by_hand():
    # differences 0.1, 0.2, 0.0, 0.1; variances of a and b both 0.05 / 3, covariance 0.04 / 3
    comparison = compare_pairs([0.6, 0.8, 0.7, 0.9], [0.5, 0.6, 0.7, 0.8])
    assert comparison.test == paired_t_test([0.6, 0.8, 0.7, 0.9], [0.5, 0.6, 0.7, 0.8])
    assert comparison.effect_size == pytest.approx(0.1 / math.sqrt(0.02 / 3))
    assert comparison.probability_of_improvement == (3 + 1 / 2) / 4
    assert comparison.correlation == pytest.approx(0.04 / 0.05)
    assert comparison.variance_reduction == pytest.approx(0.1 / 3 / (0.02 / 3))
    assert comparison.permutation_p == pytest.approx(2 / 8)  # of the signs of three unequal pairs
    assert (comparison.wins, comparison.ties, comparison.losses) == (3, 1, 0)
    assert comparison.mean_difference == pytest.approx(0.1)
    assert comparison.smallest_p == 0.25


def test_depression_after_hollander_and_wolfe():
    # Hollander & Wolfe (1973), p. 29, as in R's wilcox.test: V = 40, one-sided p = 0.01953.
    before = [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]
    after = [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]
    assert compare_pairs(before, after).wilcoxon_p == pytest.approx(0.0390625)


def test_ties_are_ranked_and_then_left_out_as_pratt_does():
    # Sizes 0, 1, 2, 2 have the ranks 1, 2, 3.5, 3.5. The last three with all signs sum up, without the sign of the sum,
    # to 9, 9, 5, 5, 2, 2, 2, 2.
    assert wilcoxon_p([0, 1, 2, -2]) == pytest.approx(8 / 8)
    assert wilcoxon_p([0, -1, 2, 2]) == pytest.approx(4 / 8)
    assert wilcoxon_p([0, 1, 2, 2]) == pytest.approx(2 / 8)
    values = np.random.default_rng(2).integers(-4, 6, 400)
    assert wilcoxon_p(values) == stats.wilcoxon(values, zero_method="pratt").pvalue
    assert wilcoxon_p(values) != stats.wilcoxon(values, zero_method="wilcox").pvalue


@settings(deadline=None, max_examples=30)
@given(st.sets(st.integers(1, 200), min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_without_ties_few_pairs_have_scipys_exact_p(sizes, random):
    values = [random.choice((-1, 1)) * size for size in sorted(sizes)]
    assert wilcoxon_p(values) == pytest.approx(stats.wilcoxon(values, method="exact").pvalue, rel=1e-9)


def test_many_pairs_have_about_the_exact_p():
    values = np.random.default_rng(2).integers(-4, 6, 60)
    ranks = 2 * stats.rankdata(np.abs(values)) * np.sign(values)
    assert wilcoxon_p(values) == pytest.approx(sign_flip_p(ranks), rel=0.02)


def test_rounding_errors_do_not_break_ties_between_ranks():
    correct = np.random.default_rng(4).integers(0, 70, (2, 300))
    exact = stats.wilcoxon(correct[0] - correct[1], zero_method="pratt").pvalue
    assert compare_pairs(correct[0] / 75, correct[1] / 75).wilcoxon_p == pytest.approx(exact, rel=1e-12)


def test_the_effect_on_the_number_of_episodes_is_what_pairing_bought():
    generator = np.random.default_rng(7)
    difficulty = generator.normal(0.6, 0.1, size=5000)
    a, b = (difficulty + generator.normal(0, 0.02, size=5000) for _ in range(2))
    comparison = compare_pairs(a, b)
    # Variances 0.0104 each, of the difference 0.0008.
    assert comparison.variance_reduction == pytest.approx(26, rel=0.1)
    assert comparison.correlation == pytest.approx(0.0100 / 0.0104, rel=0.01)


@pytest.mark.parametrize("values", [[0.2, 0.4, 0.6], [0.5, 0.5], np.arange(100) / 75])
def test_a_duplicated_method_shows_no_difference(values):
    comparison = compare_pairs(values, values)
    assert (comparison.mean_difference, comparison.effect_size) == (0, 0)
    assert (comparison.test.p, comparison.wilcoxon_p, comparison.permutation_p) == (1, 1, 1)
    assert (comparison.probability_of_improvement, comparison.smallest_p) == (0.5, 1)


def test_constant_methods_have_no_correlation_and_no_variance_to_reduce():
    comparison = compare_pairs([0.7, 0.7, 0.7], [0.1, 0.1, 0.1])
    assert math.isnan(comparison.correlation)
    assert math.isnan(comparison.variance_reduction)
    assert comparison.effect_size == math.inf
    assert (comparison.test.p, comparison.wilcoxon_p, comparison.permutation_p) == (0.25, 0.25, 0.25)


def test_one_constant_method_has_no_correlation():
    comparison = compare_pairs([0.7, 0.7, 0.7], [0.1, 0.2, 0.4])
    assert math.isnan(comparison.correlation)
    assert comparison.variance_reduction == pytest.approx(1)


def test_a_constant_advantage_leaves_no_variance():
    comparison = compare_pairs(np.array([10, 20, 40]) / 75 + 0.2, np.array([10, 20, 40]) / 75)
    assert comparison.variance_reduction == math.inf
    assert comparison.correlation == pytest.approx(1)


@settings(deadline=None, max_examples=50)
@given(some_pairs)
def test_exchanging_the_methods_turns_the_sign_and_nothing_else(pairs):
    a, b = accuracies_of(pairs)
    forward, backward = compare_pairs(a, b), compare_pairs(b, a)
    assert backward.mean_difference == pytest.approx(-forward.mean_difference, abs=1e-15)
    assert backward.effect_size == pytest.approx(-forward.effect_size)
    assert backward.probability_of_improvement == pytest.approx(1 - forward.probability_of_improvement)
    assert (backward.wins, backward.ties, backward.losses) == (forward.losses, forward.ties, forward.wins)
    for name in ("wilcoxon_p", "permutation_p", "correlation", "variance_reduction", "smallest_p"):
        assert getattr(backward, name) == pytest.approx(getattr(forward, name), nan_ok=True), name
    assert backward.test.p == pytest.approx(forward.test.p)


@settings(deadline=None, max_examples=30)
@given(some_pairs, st.floats(-1, 1))
def test_a_constant_added_to_both_moves_nothing(pairs, constant):
    a, b = accuracies_of(pairs)
    here, there = compare_pairs(a, b), compare_pairs(a + constant, b + constant)
    assert there.mean_difference == pytest.approx(here.mean_difference, abs=1e-12)
    assert there.effect_size == pytest.approx(here.effect_size, rel=1e-6)
    assert (there.wins, there.ties, there.losses) == (here.wins, here.ties, here.losses)
    for name in ("wilcoxon_p", "permutation_p", "correlation", "variance_reduction"):
        assert getattr(there, name) == pytest.approx(getattr(here, name), rel=1e-6, nan_ok=True), name


@settings(deadline=None, max_examples=30)
@given(some_pairs)
def test_knowing_the_number_of_queries_changes_nothing(pairs):
    a, b = accuracies_of(pairs)
    assert repr(compare_pairs(a, b, queries=75)) == repr(compare_pairs(a, b))


@settings(deadline=None, max_examples=50)
@given(some_pairs)
def test_every_number_is_in_its_range(pairs):
    comparison = compare_pairs(*accuracies_of(pairs))
    for p in (comparison.test.p, comparison.wilcoxon_p, comparison.permutation_p, comparison.smallest_p):
        assert 0 < p <= 1
    assert comparison.permutation_p >= comparison.smallest_p * (1 - 1e-12)
    assert 0 <= comparison.probability_of_improvement <= 1
    assert math.isnan(comparison.correlation) or -1 <= comparison.correlation <= 1


def test_the_three_tests_agree_on_many_episodes():
    generator = np.random.default_rng(21)
    b = generator.binomial(75, 0.6, 3000)
    a = np.clip(b + generator.integers(-8, 9, 3000), 0, 75)
    comparison = compare_pairs(a / 75, b / 75)
    assert comparison.permutation_p == pytest.approx(comparison.test.p, rel=0.02)
    assert comparison.wilcoxon_p == pytest.approx(comparison.test.p, rel=0.5)


def test_accuracies_that_are_no_multiples_of_one_query_are_refused():
    with pytest.raises(ShapeError, match="multiples of 1/75; some are not"):
        compare_pairs([0.2, 0.33], [0.2, 0.4], queries=75)


def test_what_the_t_test_refuses_is_refused():
    with pytest.raises(ComparisonError, match="two episodes or more"):
        compare_pairs([0.5], [0.4])
    with pytest.raises(ShapeError, match="finite"):
        compare_pairs([0.5, math.nan], [0.4, 0.4])
