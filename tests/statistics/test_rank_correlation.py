"""Spearman's rank correlation against scipy, and what its interval does."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from fewshot_bench.statistics import rank_correlation


@pytest.mark.parametrize("seed", range(3))
def test_it_is_scipys_with_and_without_equal_values(seed):
    generator = np.random.default_rng(seed)
    for x in (generator.normal(size=12), generator.integers(4, size=12)):
        y = x + generator.normal(size=12)
        assert rank_correlation(x, y, resamples=9).rho == pytest.approx(spearmanr(x, y).statistic, abs=1e-9)


def test_a_monotone_relation_is_one_with_an_interval_at_one():
    found = rank_correlation(np.arange(10.0), np.exp(np.arange(10.0)))
    assert (found.rho, found.low, found.high, found.pairs) == (1, pytest.approx(1), pytest.approx(1), 10)


def test_the_interval_holds_the_correlation_and_depends_on_the_seed_alone():
    x = np.arange(15.0)
    y = x + np.random.default_rng(2).normal(size=15) * 6
    found = rank_correlation(x, y)
    assert found.low < found.rho < found.high
    assert found == rank_correlation(x, y)
    assert found.low != rank_correlation(x, y, seed=1).low


@pytest.mark.parametrize(("x", "y"), [([1, 2, 3], [1, 2, 3]), ([1, 1, 1, 1, 1], [1, 2, 3, 4, 5]), ([], [])])
def test_too_few_pairs_and_a_constant_side_have_no_interval(x, y):
    found = rank_correlation(x, y)
    assert np.isnan(found.low)
    assert np.isnan(found.high)
    assert found.pairs == len(x)
    assert found.rho == 1 or np.isnan(found.rho)


def test_sides_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="equally many"):
        rank_correlation([1, 2], [1, 2, 3])
