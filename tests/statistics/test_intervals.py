from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewshot_bench.errors import ShapeError
from fewshot_bench.statistics import mean_interval, median_of_runs, summarise

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
