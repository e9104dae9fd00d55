"""The jackknife over groups: Student's interval for a mean, and ends that stay within bounds."""

import math

import numpy as np
import pytest

from fewshot_bench.errors import ShapeError
from fewshot_bench.statistics import jackknife_interval, mean_interval


def leave_out(values, groups, number=np.mean):
    return [number(values[groups != group]) for group in np.unique(groups)]


def test_leaving_out_single_values_of_a_mean_gives_students_interval():
    values = np.random.default_rng(0).normal(size=15)
    interval = mean_interval(values)
    low, high = jackknife_interval(values.mean(), leave_out(values, np.arange(15)), np.ones(15))
    assert (low, high) == pytest.approx((interval.low, interval.high), rel=1e-12)


def test_equal_groups_of_a_mean_give_students_interval_of_their_means():
    values, groups = np.random.default_rng(1).normal(size=24), np.repeat(np.arange(6), 4)
    interval = mean_interval(values.reshape(6, 4).mean(axis=1))
    assert jackknife_interval(values.mean(), leave_out(values, groups), [4] * 6) == pytest.approx(
        (interval.low, interval.high), rel=1e-12
    )


def test_unequal_groups_are_weighted_as_busing_and_others_have_it():
    # By hand: values 0 | 3, 6 | 9, n = 4, m = 1, 2, 1; theta = 4.5, left out 6, 4.5, 3.
    # theta_J = 3 * 4.5 - (3/4 * 6 + 1/2 * 4.5 + 3/4 * 3) = 4.5; pseudo-values 0, 4.5, 9;
    # variance = (1/3 * 20.25 + 1 * 0 + 1/3 * 20.25) / 3 = 4.5
    low, high = jackknife_interval(4.5, [6.0, 4.5, 3.0], [1, 2, 1])
    assert (low, high) == pytest.approx((4.5 - 4.302653 * math.sqrt(4.5), 4.5 + 4.302653 * math.sqrt(4.5)), rel=1e-6)


@pytest.mark.parametrize("bounds", [(0, 1), (-1, 1), (0, math.inf), (-math.inf, 1), (-math.inf, math.inf)])
def test_the_ends_stay_within_the_bounds_and_hold_the_value(bounds):
    low, high = jackknife_interval(0.9, [0.5, 0.99, 0.95, 0.2], [1, 1, 1, 1], bounds=bounds)
    assert bounds[0] <= low < 0.9 < high <= bounds[1]


def test_a_value_at_its_bound_keeps_an_interval():
    assert jackknife_interval(1.0, [1.0] * 20, [3] * 20, bounds=(0, 1)) == (1.0, 1.0)
    low, high = jackknife_interval(1.0, [1.0, 0.9, 1.0], [1, 1, 1], bounds=(0, 1))
    assert (low < 0.9, high) == (True, 1.0)


@pytest.mark.parametrize(
    ("value", "replicates"), [(1.0, [1.0, 2.0]), (1.0, [1.0, math.nan, 2.0]), (math.nan, [1.0] * 3)]
)
def test_what_cannot_be_known_has_no_interval(value, replicates):
    assert all(map(math.isnan, jackknife_interval(value, replicates, [1] * len(replicates))))


def test_replicates_and_groups_must_agree():
    with pytest.raises(ShapeError, match=r"2 for 3"):
        jackknife_interval(1.0, [1.0, 2.0], [1, 1, 1])
