"""Two methods on the same episodes: the paired t-test, with the mean difference and its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from fewshot_bench.statistics.arrays import SMALLEST_P, paired_values, rounding_error


@dataclass(frozen=True)
class PairedTest:
    """Student's t-test of the differences between paired values.

    Attributes:
        n: number of pairs.
        mean_difference: mean of a - b.
        ci_low: lower end of the interval of the mean difference.
        ci_high: upper end.
        t: the statistic; infinite where all differences are the same and not 0.
        p: two-sided probability of a statistic at least as extreme if there were no difference; never 0. Where all
            differences are the same, see `p_of_equal_differences`.
        sd_difference: standard deviation of a - b.
        wins: pairs with a > b.
        losses: pairs with a < b.
        ties: pairs with a = b.
    """

    n: int
    mean_difference: float
    ci_low: float
    ci_high: float
    t: float
    p: float
    sd_difference: float
    wins: int
    losses: int
    ties: int


def paired_t_test(a: ArrayLike, b: ArrayLike, confidence: float = 0.95) -> PairedTest:
    """Test whether a and b differ in the mean.

    Args:
        a: accuracies of one method, [E].
        b: accuracies of the other on the same episodes in the same order, [E].
        confidence: of the interval, between 0 and 1.

    Raises:
        ShapeError: the arrays do not pair up, or hold NaN.
        ComparisonError: there are fewer than two pairs.
    """
    first, second = paired_values(a, b)
    difference = first - second
    wins, losses = int((first > second).sum()), int((first < second).sum())
    counts = {"wins": wins, "losses": losses, "ties": len(difference) - wins - losses}
    mean = float(difference.mean())
    if is_constant(difference, rounding_error(first, second)):
        # SciPy answers 0 / 0 with NaN, and rounding errors that differ with an enormous t and a warning.
        mean = 0.0 if wins == losses == 0 else mean
        t = math.copysign(math.inf, mean) if mean else 0.0
        p = p_of_equal_differences(len(difference)) if mean else 1.0
        return PairedTest(len(difference), mean, mean, mean, t, p, 0.0, **counts)
    test = stats.ttest_rel(first, second)
    interval = test.confidence_interval(confidence)
    return PairedTest(
        n=len(difference),
        mean_difference=mean,
        ci_low=float(interval.low),
        ci_high=float(interval.high),
        t=float(test.statistic),
        p=max(float(test.pvalue), SMALLEST_P),
        sd_difference=float(difference.std(ddof=1)),
        **counts,
    )


def p_of_equal_differences(n: int) -> float:
    """Two-sided p of n differences that are all the same and not 0: 2^(1 - n).

    Without variance Student's t is infinite and its p 0, for two pairs as for two thousand, which no two pairs can
    show. The sign-flip test still has an answer: of the 2^n ways to exchange the methods within pairs, two give a
    difference as large.
    """
    return max(2.0 ** (1 - n), SMALLEST_P)


def is_constant(difference: NDArray[np.float64], rounding: float) -> bool:
    """Whether differences, [E], vary by no more than the rounding of the values themselves."""
    return bool(np.ptp(difference) <= rounding)
