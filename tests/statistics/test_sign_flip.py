from __future__ import annotations

import itertools
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fewshot_bench.errors import ShapeError
from fewshot_bench.statistics import sign_flip_p
from fewshot_bench.statistics.sign_flip import common_unit, whole_sign_flip_p

# Darwin's maize as Fisher (1935), "The design of experiments", section 21 gives it: 15 pairs, eighths of an inch.
MAIZE = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]

whole = st.lists(st.integers(-30, 30), min_size=1, max_size=60)


def counted_p(differences: list[int]) -> Fraction:
    """All 2^n signs, counted in whole numbers of any size."""
    ways = Counter({0: 1})
    for size in map(abs, differences):
        further: Counter[int] = Counter()
        for total, count in ways.items():
            further[total + size] += count
            further[total - size] += count
        ways = further
    observed = abs(sum(differences))
    return Fraction(sum(count for total, count in ways.items() if abs(total) >= observed), 2 ** len(differences))


def enumerated_p(differences: list[float]) -> float:
    sums = [
        abs(sum(sign * d for sign, d in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    return float(np.mean([total >= abs(sum(differences)) - 1e-9 for total in sums]))


def test_fishers_own_count_on_darwins_maize():
    # Fisher counts 863 arrangements with a sum of at least 314 eighths, 1726 of 32768 on both sides.
    assert sign_flip_p(MAIZE) == pytest.approx(1726 / 32768, rel=1e-12)


@settings(deadline=None, max_examples=200)
@given(whole)
def test_p_is_what_counting_all_signs_gives(differences):
    expected = counted_p(differences)
    assert whole_sign_flip_p(np.array(differences)) == pytest.approx(float(expected), rel=1e-11)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(-6, 6), min_size=1, max_size=10))
def test_p_is_what_enumerating_all_signs_gives(differences):
    assert sign_flip_p(np.array(differences) / 75) == pytest.approx(enumerated_p(differences), rel=1e-11)


@pytest.mark.parametrize("shift", [3, 8, 20])
def test_a_p_far_below_the_precision_of_a_float_keeps_its_digits(shift):
    differences = np.random.default_rng(shift).integers(shift - 10, shift + 11, 200)
    expected = counted_p(differences.tolist())
    assert whole_sign_flip_p(differences) == pytest.approx(float(expected), rel=1e-11)
    assert 0 < float(expected) < 1e-5


def test_p_is_scipys_permutation_test():
    values = np.random.default_rng(5).normal(0.4, 1, 11)
    scipys = stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_p(values) == pytest.approx(scipys.pvalue, rel=1e-12)


@pytest.mark.slow
def test_p_of_many_differences_without_a_unit_is_that_of_random_flips():
    generator = np.random.default_rng(8)
    values = generator.normal(0.25, 1, 60)
    assert common_unit(values) is None
    flips = generator.choice([-1.0, 1.0], size=(200_000, 60))
    expected = np.mean(np.abs(flips @ values) >= abs(values.sum()))
    assert sign_flip_p(values) == pytest.approx(expected, abs=4 * math.sqrt(expected / 200_000))


def test_rounding_to_a_fine_unit_hardly_moves_p():
    whole_numbers = np.random.default_rng(9).integers(-40, 45, 400)
    blurred = whole_numbers + np.random.default_rng(10).normal(0, 1e-5, 400)
    assert common_unit(blurred) is None
    assert sign_flip_p(blurred) == pytest.approx(whole_sign_flip_p(whole_numbers), rel=0.02)


def test_a_unit_too_fine_for_the_memory_is_rounded():
    whole_numbers = np.random.default_rng(13).integers(-60_000, 60_500, 100_000)
    assert common_unit(whole_numbers) == 1
    assert sign_flip_p(whole_numbers, 1.0) == pytest.approx(stats.ttest_1samp(whole_numbers, 0).pvalue, rel=0.05)


@settings(deadline=None, max_examples=100)
@given(whole)
def test_the_sign_the_unit_and_pairs_that_are_equal_change_nothing(differences):
    values = np.array(differences)
    p = whole_sign_flip_p(values)
    assert whole_sign_flip_p(-values) == p
    assert whole_sign_flip_p(7 * values) == p
    assert whole_sign_flip_p(np.concatenate([values, np.zeros(5, dtype=np.int64)])) == p


@pytest.mark.parametrize("count", [1, 2, 10, 60])
def test_equal_differences_give_the_two_signs_out_of_all(count):
    assert sign_flip_p([0.04] * count) == 2.0 ** (1 - count)


def test_p_is_never_0():
    assert 0 < sign_flip_p([0.04] * 5000) < 1e-300
    assert 0 < sign_flip_p(np.random.default_rng(0).integers(5, 30, 5000)) < 1e-300


def test_no_difference_is_no_evidence():
    assert sign_flip_p([]) == sign_flip_p([0.0, 0.0]) == sign_flip_p([0.2, -0.2]) == 1


@pytest.mark.parametrize("bad", [[[0.1]], [0.1, math.nan]])
def test_what_is_no_array_of_differences_is_refused(bad):
    with pytest.raises(ShapeError, match="sign-flip test needs finite differences"):
        sign_flip_p(bad)


@pytest.mark.slow
def test_chance_alone_gives_a_p_below_5_percent_5_times_in_100():
    generator = np.random.default_rng(12)
    a, b = generator.binomial(75, 0.6, size=(2, 2000, 60))
    assert 0.035 <= np.mean([whole_sign_flip_p(row) < 0.05 for row in a - b]) <= 0.06


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, 75), st.integers(0, 75)), min_size=1, max_size=30),
    st.sampled_from([1.0, 100.0, 0.01]),
)
def test_the_unit_of_accuracies_is_found_in_fractions_and_percent(pairs, scale):
    a, b = np.array(pairs).T
    unit = common_unit(scale * a / 75 - scale * b / 75)
    divisor = int(np.gcd.reduce(np.abs(a - b)))
    assert unit == (None if divisor == 0 else pytest.approx(scale * divisor / 75, rel=1e-9))
