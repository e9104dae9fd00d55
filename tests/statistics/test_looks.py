from __future__ import annotations

import math

import numpy as np
import pytest

from fewshot_bench.errors import ShapeError
from fewshot_bench.statistics import look, mean_interval


def test_a_look_is_enough_when_the_interval_is_as_narrow_as_wanted():
    accuracies = np.random.default_rng(0).binomial(75, 0.6, 600) / 75
    half_width = mean_interval(accuracies).half_width
    assert look(accuracies, half_width).enough
    assert not look(accuracies, half_width * 0.999).enough
    assert look(accuracies, half_width).half_width == half_width
    assert look(accuracies, half_width).episodes == 600


def test_half_the_width_is_expected_to_need_four_times_the_episodes():
    accuracies = np.random.default_rng(1).binomial(75, 0.6, 600) / 75
    assert look(accuracies, mean_interval(accuracies).half_width / 2).expected == pytest.approx(2400, abs=1)


def test_a_wider_confidence_is_enough_later():
    accuracies = np.random.default_rng(2).binomial(75, 0.6, 600) / 75
    half_width = mean_interval(accuracies).half_width
    assert not look(accuracies, half_width, confidence=0.99).enough


def test_a_few_equal_episodes_are_no_reason_to_stop():
    assert not look([1.0] * 99, 0.01).enough
    assert look([1.0] * 100, 0.01).enough
    assert look([1.0] * 10, 0.01, fewest=10).enough


def test_one_episode_is_not_enough():
    first = look([0.5], 0.01, fewest=1)
    assert (first.episodes, first.enough, first.expected) == (1, False, 1)
    assert math.isnan(first.half_width)


@pytest.mark.slow
def test_stopping_at_a_width_keeps_the_coverage():
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(1000):
        accuracies = generator.binomial(75, np.clip(generator.normal(0.6, 0.1, 2000), 0, 1)) / 75
        episodes = next(count for count in range(100, 2001, 100) if look(accuracies[:count], 0.01).enough)
        interval = mean_interval(accuracies[:episodes])
        covered += interval.low <= 0.6 <= interval.high
    assert 0.925 <= covered / 1000 <= 0.97


@pytest.mark.parametrize("bad", [0, -0.1, math.nan, math.inf])
def test_a_width_that_no_interval_has_is_refused(bad):
    with pytest.raises(ShapeError, match="half width must be a finite number greater than 0"):
        look([0.5, 0.6], bad)


def test_nan_is_refused():
    with pytest.raises(ShapeError, match="NaN"):
        look([0.5, math.nan], 0.1)
