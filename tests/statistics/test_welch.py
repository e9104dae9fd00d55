from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fewshot_bench.errors import ComparisonError, ShapeError
from fewshot_bench.statistics import (
    implied_sd,
    implied_standard_error,
    is_plausible_sd,
    mean_interval,
    plausible_sd_range,
    welch_from_standard_errors,
    welch_from_summaries,
)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_welch_from_summaries_is_the_test_of_the_episodes():
    generator = np.random.default_rng(1)
    a, b = generator.normal(0.6, 0.1, 300), generator.normal(0.58, 0.05, 40)
    ours = welch_from_summaries(a.mean(), a.std(ddof=1), 300, b.mean(), b.std(ddof=1), 40)
    theirs = stats.ttest_ind(a, b, equal_var=False)
    interval = theirs.confidence_interval(0.95)
    assert (ours.t, ours.df, ours.p) == pytest.approx((theirs.statistic, theirs.df, theirs.pvalue))
    assert (ours.ci_low, ours.ci_high) == pytest.approx((interval.low, interval.high))
    assert ours.difference == pytest.approx(a.mean() - b.mean())


def test_equal_sizes_and_spreads_worked_by_hand():
    # Standard error sqrt(2 * 0.01 / 50) = 0.02, 98 degrees of freedom, t(0.975, 98) = 1.984467.
    test = welch_from_summaries(0.65, 0.1, 50, 0.6, 0.1, 50, 0.95)
    assert (test.t, test.df) == pytest.approx((2.5, 98))
    assert (test.ci_low, test.ci_high) == pytest.approx((0.05 - 0.02 * 1.984467, 0.05 + 0.02 * 1.984467), abs=1e-8)


summaries = st.tuples(st.floats(0, 1), st.floats(1e-3, 0.5), st.integers(2, 5000))


@settings(deadline=None, max_examples=100)
@given(summaries, summaries)
def test_exchanging_the_methods_turns_the_sign(a, b):
    forward, backward = welch_from_summaries(*a, *b), welch_from_summaries(*b, *a)
    assert (backward.difference, backward.t, backward.ci_low) == pytest.approx(
        (-forward.difference, -forward.t, -forward.ci_high)
    )
    assert (backward.p, backward.df) == pytest.approx((forward.p, forward.df))
    assert 0 < forward.p <= 1
    assert min(a[2], b[2]) - 1 <= forward.df * (1 + 1e-9)


def test_without_any_spread_t_says_nothing_about_a_difference():
    test = welch_from_summaries(1.0, 0, 10, 0.9, 0, 10)
    assert test.t == math.inf
    assert math.isnan(test.p)
    assert welch_from_summaries(1.0, 0, 10, 1.0, 0, 20).p == 1


def test_one_spread_is_enough():
    assert 0 < welch_from_summaries(1.0, 0, 10, 0.9, 0.05, 10).p < 0.001


@pytest.mark.parametrize(
    ("summary", "error"),
    [
        ((math.nan, 0.1, 10), ShapeError),
        ((0.5, -0.1, 10), ShapeError),
        ((0.5, math.nan, 10), ShapeError),
        ((0.5, 0.1, 1), ComparisonError),
    ],
)
def test_a_summary_that_allows_no_test_is_refused(summary, error):
    with pytest.raises(error, match="Welch's test needs"):
        welch_from_summaries(*summary, 0.5, 0.1, 10)
    with pytest.raises(error, match="Welch's test needs"):
        welch_from_summaries(0.5, 0.1, 10, *summary)


def test_a_standard_error_of_unknown_degrees_of_freedom_worked_by_hand():
    # Errors 0.7 / 1.959964 = 0.357149 and 0.4 with 99 degrees of freedom: together 0.536242, and Welch-Satterthwaite
    # df = 0.536242^4 / (0 + 0.4^4 / 99) = 319.8.
    error, df = implied_standard_error(0.7)
    assert (error, df) == (pytest.approx(0.357149, abs=1e-6), math.inf)
    test = welch_from_standard_errors(62.0, error, df, 60.5, 0.4, 99)
    assert test.df == pytest.approx(319.8, abs=0.1)
    assert test.t == pytest.approx(1.5 / 0.536242, abs=1e-5)
    assert test.p == pytest.approx(2 * stats.t.sf(2.797244, 319.77), rel=1e-4)
    assert test.ci_high - 1.5 == pytest.approx(0.536242 * stats.t.ppf(0.975, 319.77), abs=1e-5)


def test_two_errors_of_unknown_degrees_of_freedom_make_a_normal_test():
    test = welch_from_standard_errors(1.96, 0.6, math.inf, 0.0, 0.8, math.inf)
    assert test.df == math.inf
    assert test.p == pytest.approx(2 * stats.norm.sf(1.96))
    assert test.ci_low == pytest.approx(1.96 - stats.norm.ppf(0.975))


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 100_000), st.floats(0.01, 5), st.floats(0.1, 2))
def test_an_unknown_number_of_episodes_is_that_of_very_many(episodes, half_width, own):
    unknown = welch_from_standard_errors(60, *implied_standard_error(half_width), 61, own, 599)
    many = welch_from_standard_errors(60, *implied_standard_error(half_width, 10**8), 61, own, 599)
    assert unknown.p == pytest.approx(many.p, rel=1e-5)
    assert implied_standard_error(half_width, episodes)[0] <= implied_standard_error(half_width)[0]


def test_the_papers_interval_implies_22_points():
    assert implied_sd(0.80, 3000) == pytest.approx(22.35, abs=0.01)
    assert implied_sd(0.36, 3000) == pytest.approx(10.06, abs=0.01)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 75), min_size=2, max_size=50), st.sampled_from([0.9, 0.95, 0.99]))
def test_the_implied_sd_is_the_way_back_from_an_interval(correct, confidence):
    accuracies = np.array(correct) / 75
    half_width = mean_interval(accuracies, confidence).half_width
    assert implied_sd(half_width, len(accuracies), confidence) == pytest.approx(accuracies.std(ddof=1), abs=1e-12)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((-0.1, 600), ShapeError),
        ((math.nan, 600), ShapeError),
        ((0.7, 600, 95), ShapeError),
        ((0.7, 1), ComparisonError),
    ],
)
def test_an_interval_that_implies_nothing_is_refused(arguments, error):
    with pytest.raises(error):
        implied_sd(*arguments)


def test_the_range_of_a_usual_protocol_worked_by_hand():
    # sqrt(0.24 / 75) / 1.1, and 1.1 sqrt(1 + 14 * 0.4) times that root.
    assert plausible_sd_range(0.6) == pytest.approx((0.0565685 / 1.1, 0.0565685 * 1.1 * math.sqrt(6.6)), abs=1e-6)
    assert plausible_sd_range(0.6, way=2, query=1) == pytest.approx((math.sqrt(0.12) / 1.1, math.sqrt(0.12) * 1.1))
    assert plausible_sd_range(0.0) == plausible_sd_range(1.0) == (0, 0)


@pytest.mark.parametrize(
    ("accuracy", "half_width", "episodes", "query", "plausible"),
    [
        # Long et al. (2023), table 1: BEiT-3 with CE and with SCHaNe on CIFAR-FS and miniImageNet, 3,000 episodes.
        (83.68, 0.80, 3000, 15, False),
        (87.00, 0.70, 3000, 15, False),
        (93.01, 0.38, 3000, 15, False),
        (96.78, 0.23, 3000, 15, False),
        # Snell et al. (2017), table 2: prototypical networks on miniImageNet, 600 episodes of 15 queries per class.
        (49.42, 0.78, 600, 15, True),
        (68.20, 0.66, 600, 15, True),
        # Finn et al. (2017), table 1: MAML on miniImageNet, 600 tasks with as many queries as shots.
        (48.70, 1.84, 600, 1, True),
        (63.11, 0.92, 600, 5, True),
        # Measured here: results/cifar-fs-conv4-finetune.
        (59.96, 0.95, 600, 15, True),
        # Five times too narrow, as if the 45,000 queries were 45,000 episodes.
        (60.0, 0.02, 3000, 15, False),
    ],
)
def test_published_intervals_are_told_apart(accuracy, half_width, episodes, query, plausible):
    sd = implied_sd(half_width / 100, episodes)
    rounding = implied_sd(0.005 / 100, episodes)
    assert is_plausible_sd(sd, accuracy / 100, query=query, rounding=rounding) == plausible


@settings(deadline=None, max_examples=20)
@given(st.floats(0.3, 0.95), st.floats(0.02, 0.39), st.integers(2, 10), st.integers(2, 30), st.integers(0, 99))
def test_episodes_of_independent_classes_are_plausible(accuracy, likeness, way, query, seed):
    generator = np.random.default_rng(seed)
    # Beta-distributed chances of a class have the intraclass correlation 1 / (alpha + beta + 1).
    size = 1 / likeness - 1
    chances = generator.beta(accuracy * size, (1 - accuracy) * size, (4000, way))
    accuracies = generator.binomial(query, chances).mean(axis=1) / query
    sd = float(accuracies.std(ddof=1))
    expected = math.sqrt(accuracy * (1 - accuracy) / (way * query) * (1 + (query - 1) * likeness))
    assert sd == pytest.approx(expected, rel=0.1)
    assert is_plausible_sd(sd, float(accuracies.mean()), way=way, query=query)


@pytest.mark.parametrize("accuracy", [-0.1, 60, math.nan])
def test_an_accuracy_in_percent_is_refused(accuracy):
    with pytest.raises(ShapeError, match="must be a fraction between 0 and 1"):
        plausible_sd_range(accuracy)


def test_episodes_without_queries_are_refused():
    with pytest.raises(ShapeError, match="query must be a finite number greater than 0"):
        is_plausible_sd(0.1, 0.5, query=0)
