from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fewshot_bench.errors import ShapeError
from fewshot_bench.statistics import episode_median, mean_interval, median_of_runs, summarise

# Quantiles of Student's t from printed tables (two-sided 95% and 99%, 3 and 9 degrees of freedom).
T_3, T_9, T_9_99 = 3.182446, 2.262157, 3.249836

accuracies = st.lists(st.integers(0, 75).map(lambda correct: correct / 75), min_size=2, max_size=40)


def test_the_interval_of_four_values_worked_by_hand():
    # mean 0.75, squared deviations 0.0225 + 0.0025 + 0.0025 + 0.0225 = 0.05, standard error sqrt(0.05 / 3 / 4)
    interval = mean_interval([0.6, 0.8, 0.7, 0.9])
    assert interval.mean == pytest.approx(0.75)
    assert interval.half_width == pytest.approx(T_3 * math.sqrt(0.05 / 12), rel=1e-6)
    assert interval.low == pytest.approx(0.75 - interval.half_width)
    assert interval.high == pytest.approx(0.75 + interval.half_width)


@pytest.mark.parametrize(("confidence", "quantile"), [(0.95, T_9), (0.99, T_9_99)])
def test_the_interval_uses_the_quantile_of_the_confidence(confidence, quantile):
    # 0..9: variance 82.5 / 9
    interval = mean_interval(np.arange(10), confidence)
    assert interval.half_width == pytest.approx(quantile * math.sqrt(82.5 / 9 / 10), rel=1e-6)


def test_equal_values_have_an_interval_of_no_width():
    interval = mean_interval([0.5] * 10)
    assert (interval.low, interval.mean, interval.high) == (0.5, 0.5, 0.5)


def test_one_episode_leaves_the_width_unknown():
    interval = mean_interval([0.4])
    assert interval.mean == 0.4
    assert math.isnan(interval.half_width)


@pytest.mark.parametrize("nothing", [[], [[0.5, 0.5]]])
def test_no_episode_has_no_mean(nothing):
    with pytest.raises(ShapeError, match="needs accuracies"):
        mean_interval(nothing)


@settings(deadline=None, max_examples=50)
@given(accuracies, st.randoms(use_true_random=False))
def test_the_order_of_episodes_does_not_matter(values, random):
    shuffled = list(values)
    random.shuffle(shuffled)
    one, other = mean_interval(values), mean_interval(shuffled)
    assert one.mean == pytest.approx(other.mean)
    assert one.half_width == pytest.approx(other.half_width, abs=1e-12)


@settings(deadline=None, max_examples=50)
@given(accuracies)
def test_percent_are_a_hundred_times_fractions(values):
    fractions, percent = mean_interval(values), mean_interval([100 * value for value in values])
    assert percent.mean == pytest.approx(100 * fractions.mean)
    assert percent.half_width == pytest.approx(100 * fractions.half_width, abs=1e-9)


@pytest.mark.slow
def test_95_of_100_intervals_hold_the_truth():
    generator = np.random.default_rng(2024)
    # Episode accuracies as they are: correct answers out of 75, with a difficulty of their own.
    truth = 0.6
    chance = np.clip(generator.normal(truth, 0.1, size=(2000, 30)), 0, 1)
    studies = generator.binomial(75, chance) / 75
    intervals = [mean_interval(study) for study in studies]
    covered = np.mean([interval.low <= truth <= interval.high for interval in intervals])
    assert 0.935 <= covered <= 0.965  # 0.95 plus or minus three standard errors


@pytest.mark.parametrize(("means", "median"), [([0.7], 0.7), ([0.9, 0.1, 0.5], 0.5), ([0.4, 0.2, 0.1, 0.3], 0.25)])
def test_the_median_of_runs(means, median):
    assert median_of_runs(means) == pytest.approx(median)


def test_a_summary_takes_the_median_over_runs_and_the_mean_over_episodes():
    summary = summarise([0.2, 0.4, 0.9, 0.9, 0.6], [0, 0, 2, 2, 1])
    assert summary.run_means == pytest.approx((0.3, 0.6, 0.9))
    assert summary.median == pytest.approx(0.6)
    assert summary.interval.mean == pytest.approx(0.6)
    assert (summary.episodes, summary.runs) == (1, 3)


def test_a_summary_needs_the_run_of_every_episode():
    with pytest.raises(ShapeError, match="3 accuracies, but run numbers of 2"):
        summarise([0.1, 0.2, 0.3], [0, 0])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_outcome_that_is_no_number_is_refused(bad):
    for refuses in (mean_interval, episode_median, lambda values: summarise(values, [0, 0, 1])):
        with pytest.raises(ShapeError, match="1 of 3 are NaN or infinite"):
            refuses([0.5, bad, 0.5])


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_a_confidence_in_percent_is_refused(confidence):
    for refuses in (mean_interval, episode_median):
        with pytest.raises(ShapeError, match=f"confidence must lie between 0 and 1, not {confidence}"):
            refuses([0.5, 0.6], confidence)


def test_the_median_runs_interval_is_that_of_its_episodes_alone():
    runs = {4: [0.1, 0.9], 2: [0.55, 0.57, 0.62], 7: [0.9, 0.95]}
    summary = summarise(np.concatenate(list(runs.values())), np.repeat(list(runs), [len(run) for run in runs.values()]))
    # Means 0.58, 0.5, 0.925 of runs 2, 4 and 7.
    assert summary.median_run == 2
    assert summary.median_interval.mean == summary.median == pytest.approx(0.58)
    assert summary.median_interval.half_width == mean_interval(runs[2]).half_width


def test_with_an_even_number_of_runs_the_median_lies_between_two_and_both_count():
    values = np.array([0.1, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    summary = summarise(values, [3, 3, 1, 1, 0, 0, 2, 2])
    assert summary.median_run == 1
    assert summary.median_interval.mean == summary.median == pytest.approx((0.45 + 0.65) / 2)
    assert summary.median_interval.half_width == pytest.approx(mean_interval(values[2:6]).half_width)


def test_one_run_of_one_episode_has_numbers_without_widths():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        summary = summarise([0.4], [5])
    assert (summary.median, summary.median_run, summary.runs, summary.episodes) == (0.4, 5, 1, 1)
    assert math.isnan(summary.median_interval.half_width)
    assert math.isnan(summary.interval.half_width)


def test_one_run_is_its_own_median():
    summary = summarise([0.2, 0.4, 0.9], [0, 0, 0])
    assert summary.median_interval == summary.interval


@pytest.mark.parametrize(
    ("count", "low", "high", "coverage"),
    # Printed tables of order statistics, such as Conover (1999), table A3: ranks for 95%.
    [(6, 1, 6, 0.96875), (10, 2, 9, 0.978516), (20, 6, 15, 0.958611), (100, 40, 61, 0.964800)],
)
def test_the_median_over_episodes_lies_between_the_ranks_of_the_tables(count, low, high, coverage):
    shuffled = np.random.default_rng(3).permutation(np.arange(1, count + 1))
    interval = episode_median(shuffled)
    assert (interval.low, interval.high) == (low, high)
    assert interval.coverage == pytest.approx(coverage, abs=1e-6)
    assert interval.median == (count + 1) / 2


@pytest.mark.parametrize("count", [1, 5])
def test_too_few_episodes_for_the_confidence_leave_the_ends_open(count):
    interval = episode_median([0.5] * count)
    assert interval.median == 0.5
    assert all(map(math.isnan, (interval.low, interval.high, interval.coverage)))


def test_a_tail_that_is_met_exactly_is_used():
    # Of two values one is below and one above the median with probability 1/2.
    interval = episode_median([0.1, 0.2], confidence=0.5)
    assert (interval.low, interval.high, interval.coverage) == (0.1, 0.2, 0.5)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 75), min_size=6, max_size=200), st.sampled_from([0.8, 0.95]))
def test_the_median_interval_is_scipys(correct, confidence):
    ours = episode_median(np.array(correct) / 75, confidence)
    theirs = stats.quantile_test(np.array(correct) / 75, p=0.5).confidence_interval(confidence)
    assert (ours.low, ours.high) == (theirs.low, theirs.high)
    assert ours.low <= ours.median <= ours.high
    assert ours.coverage >= confidence
