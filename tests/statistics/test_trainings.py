"""Intervals over trainings cover the mean over all trainings as often as they say, with three trainings too."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fewshot_bench.errors import ShapeError
from fewshot_bench.statistics import training_difference, training_p_of_all_pairs, training_spread

SIMULATIONS = 1500


def test_the_spread_is_students_interval_over_the_means():
    means = [0.55, 0.60, 0.58, 0.61]
    spread = training_spread(means)
    low, high = stats.t.interval(0.95, 3, np.mean(means), stats.sem(means))
    assert (spread.trainings, spread.sd) == (4, pytest.approx(np.std(means, ddof=1)))
    assert (spread.mean - spread.half_width, spread.mean + spread.half_width) == pytest.approx((low, high))


def test_one_training_has_no_spread_and_no_interval():
    spread = training_spread([0.6])
    assert np.isnan([spread.sd, spread.half_width]).all()
    assert training_difference([0.6], [0.5]) is None
    assert training_difference(0.6, 0.5) is None


@pytest.mark.parametrize("counts", [(3, 3), (3, 5)])
def test_the_difference_is_welchs_test_of_the_means(counts):
    generator = np.random.default_rng(1)
    a, b = (generator.normal(0.6, 0.02, count) for count in counts)
    expected = stats.ttest_ind(a, b, equal_var=False)
    result = training_difference(a, b)
    assert result.p == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval(0.95)
    assert (result.low, result.high) == pytest.approx((interval.low, interval.high))
    assert (result.trainings_a, result.trainings_b, result.is_paired) == (*counts, False)


def test_the_same_networks_are_paired_and_a_given_network_has_no_spread():
    a, b = np.array([0.61, 0.64, 0.59]), np.array([0.60, 0.62, 0.58])
    assert training_difference(a, b, is_paired=True).p == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert training_difference(a, 0.5).p == pytest.approx(stats.ttest_1samp(a, 0.5).pvalue)
    turned = training_difference(0.5, a)
    assert (turned.difference, turned.trainings_a, turned.trainings_b) == (pytest.approx(0.5 - a.mean()), 0, 3)


def test_equal_means_of_all_trainings_show_nothing_and_differing_ones_no_p():
    assert training_difference([0.6, 0.6], [0.6, 0.6]).p == 1
    assert np.isnan(training_difference([0.6, 0.6], [0.5, 0.5]).p)


def test_all_pairs_at_once_are_tested_as_each_pair_alone():
    generator = np.random.default_rng(3)
    means = [*generator.normal(0.6, 0.02, (4, 3)), generator.normal(0.5, 0.03, 5), np.array([0.6]), 0.55, 0.5]
    means += [np.array([0.6, 0.6]), np.array([0.6, 0.6]), np.array([0.55, 0.55])]
    networks = ["x", "x", "y", "x", "z", None, None, None, "v", "w", "u"]
    p = training_p_of_all_pairs(means, networks)
    for a in range(len(means)):
        for b in range(a):
            is_paired = networks[a] is not None and networks[a] == networks[b]
            test = training_difference(means[a], means[b], is_paired=is_paired)
            assert (p[a, b], p[b, a]) == pytest.approx([np.nan if test is None else test.p] * 2, nan_ok=True)
    assert np.isnan(p[5]).all()


@pytest.mark.parametrize("means", [[], [[0.1, 0.2]], [0.5, np.nan]])
def test_what_is_no_mean_of_each_training_is_refused(means):
    with pytest.raises(ShapeError, match="one finite mean accuracy each"):
        training_spread(means)
    with pytest.raises(ShapeError, match="as many"):
        training_difference([0.5, 0.6], [0.5, 0.6, 0.7], is_paired=True)


def accuracies(generator, effects, episodes):
    """Accuracies of trainings with such effects on shared episodes, each with noise of its own, [k, E]."""
    difficulty = generator.normal(0, 0.1, episodes)
    return 0.6 + effects[:, None] + difficulty + generator.normal(0, 0.05, (len(effects), episodes))


@pytest.mark.slow
@pytest.mark.parametrize(("sd_a", "sd_b"), [(0.01, 0.01), (0.01, 0.03)])
def test_intervals_of_three_trainings_cover_what_new_ones_would_give(sd_a, sd_b):
    generator = np.random.default_rng(7)
    spread = welch = task = 0
    for _ in range(SIMULATIONS):
        effects = np.r_[generator.normal(0, sd_a, 3), generator.normal(0, sd_b, 3)]
        values = accuracies(generator, effects, 50)
        a, b = values[:3], values[3:]
        difference = training_difference(a.mean(axis=1), b.mean(axis=1))
        welch += difference.low <= 0 <= difference.high
        paired = training_spread((a - b).mean(axis=1))
        spread += abs(paired.mean) <= paired.half_width
        task += stats.ttest_1samp((a - b).mean(axis=0), 0).pvalue >= 0.05
    assert 0.935 <= spread / SIMULATIONS <= 0.965
    assert 0.935 <= welch / SIMULATIONS <= 0.985
    assert task / SIMULATIONS < 0.85  # an interval over episodes does not cover new trainings
