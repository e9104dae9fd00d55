"""Two methods on the same episodes: the paired t-test, with the mean difference and its interval.

Two methods on the same episodes: three tests, the size of the difference, and what pairing bought.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from fewshot_bench.errors import ShapeError
from fewshot_bench.statistics.intervals import SMALLEST_P, paired_values, rounding_error
from fewshot_bench.statistics.sign_flip import common_unit, sign_flip_p, whole_sign_flip_p


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

    >>> test = paired_t_test([0.71, 0.64, 0.68, 0.73], [0.68, 0.61, 0.67, 0.70])
    >>> f"{test.mean_difference:.3f}, {test.ci_low:.3f} to {test.ci_high:.3f}, p = {test.p:.3f}"
    '0.025, 0.009 to 0.041, p = 0.015'
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


EXACT_RANKS = 50


@dataclass(frozen=True)
class PairedComparison:
    """The t-test of the differences a - b, its cross-checks, and how large the difference is.

    Attributes:
        test: Student's paired t-test, with the mean difference and its interval.
        wilcoxon_p: two-sided Wilcoxon signed-rank test; pairs that are equal take part in the ranking and count for
            neither side (Pratt, 1959), so that many ties speak for no difference instead of being dropped.
        permutation_p: two-sided sign-flip permutation test of the mean difference (Fisher, 1935); see `sign_flip_p`.
        effect_size: Cohen's d_z, mean difference / standard deviation of the differences; infinite where they are all
            the same and not 0, 0 where they are all 0.
        probability_of_improvement: chance that a is better than b on an episode, an equal pair counting half.
        correlation: Pearson's r between a and b; NaN where one of them is constant.
        variance_reduction: (var a + var b) / var(a - b): how many times as many episodes an unpaired comparison of each
            method would need for an interval of this width; infinite where all differences are the same, NaN where
            both methods are constant.
    """

    test: PairedTest
    wilcoxon_p: float
    permutation_p: float
    effect_size: float
    probability_of_improvement: float
    correlation: float
    variance_reduction: float

    @property
    def mean_difference(self) -> float:
        """Mean of a - b."""
        return self.test.mean_difference

    @property
    def wins(self) -> int:
        """Pairs with a > b."""
        return self.test.wins

    @property
    def ties(self) -> int:
        """Pairs with a = b."""
        return self.test.ties

    @property
    def losses(self) -> int:
        """Pairs with a < b."""
        return self.test.losses

    @property
    def smallest_p(self) -> float:
        """The smallest p that the two rank and sign tests could give with so many unequal pairs, 2^(1 - pairs)."""
        return min(1.0, max(2.0 ** (1 - self.wins - self.losses), SMALLEST_P))


def compare_pairs(
    a: ArrayLike, b: ArrayLike, *, queries: int | None = None, confidence: float = 0.95
) -> PairedComparison:
    """Compare two methods on the same episodes.

    Args:
        a: accuracies of one method, [E].
        b: accuracies of the other on the same episodes in the same order, [E].
        queries: per episode, whose correct ones an accuracy counts; None: inferred from the values.
        confidence: of the interval, between 0 and 1.

    Raises:
        ShapeError: the arrays do not pair up, or hold NaN, or accuracies are not multiples of 1 / queries.
        ComparisonError: there are fewer than two pairs.

    >>> comparison = compare_pairs([0.8, 0.6, 0.7, 0.9], [0.6, 0.5, 0.6, 0.8], queries=10)
    >>> round(comparison.test.p, 3), comparison.wilcoxon_p, comparison.permutation_p
    (0.015, 0.125, 0.125)
    """
    test = paired_t_test(a, b, confidence)
    first, second = paired_values(a, b)
    differences, unit = _clean_differences(first, second, queries)
    correlation = _correlation(first, second)
    return PairedComparison(
        test=test,
        wilcoxon_p=wilcoxon_p(differences),
        permutation_p=sign_flip_p(differences, unit),
        effect_size=_ratio(test.mean_difference, test.sd_difference, nothing=0.0),
        probability_of_improvement=(test.wins + test.ties / 2) / test.n,
        correlation=correlation,
        variance_reduction=_ratio(float(_variance(first) + _variance(second)), test.sd_difference**2, nothing=math.nan),
    )


def wilcoxon_p(differences: ArrayLike) -> float:
    """Two-sided p of Wilcoxon's signed-rank test with Pratt's treatment of zeros; 1 where all differences are 0.

    Up to 50 pairs it is exact, ties or not: the test is a sign-flip test of the ranks. Beyond, SciPy's normal
    approximation with its correction for ties is as good, where an exact count over 500,000 ranks is out of reach.

    Args:
        differences: of paired values, [E]; those meant to be equal must be equal to the last bit.

    >>> wilcoxon_p([1, 2, 3, 4, 5, 6])  # all of one sign: 2 of the 2^6 ways to choose them
    0.03125
    """
    values = np.asarray(differences, dtype=np.float64)
    if not values.any():
        return 1.0
    if len(values) <= EXACT_RANKS:
        # Twice the ranks are whole numbers.
        signed_ranks = 2 * stats.rankdata(np.abs(values)) * np.sign(values)
        return whole_sign_flip_p(signed_ranks.astype(np.int64))
    with warnings.catch_warnings():
        # With a handful of unequal pairs some SciPy versions warn that their normal approximation is rough.
        warnings.simplefilter("ignore", UserWarning)
        return min(max(float(stats.wilcoxon(values, zero_method="pratt").pvalue), SMALLEST_P), 1.0)


def _clean_differences(
    first: NDArray[np.float64], second: NDArray[np.float64], queries: int | None
) -> tuple[NDArray[np.float64], float | None]:
    """Differences without rounding errors, which would break ties between ranks, and their unit if they have one.

    Returns:
        Whole numbers and the unit 1 where there is a common unit; otherwise the differences and None.
    """
    differences, rounding = first - second, rounding_error(first, second)
    unit = None if queries is None else 1 / queries
    if queries is not None and not _are_multiples(queries, first, second):
        raise ShapeError(f"accuracies on {queries} queries must be multiples of 1/{queries}; some are not.")
    unit = unit or common_unit(differences, rounding)
    if unit is None:
        differences[np.abs(differences) <= rounding] = 0.0
        return differences, None
    return np.rint(differences / unit), 1.0


def _are_multiples(queries: int, *values: NDArray[np.float64]) -> bool:
    return all(bool((np.abs(x * queries - np.rint(x * queries)) < 1e-6 * queries).all()) for x in values)


def _variance(values: NDArray[np.float64]) -> float:
    return 0.0 if np.ptp(values) <= rounding_error(values) else float(values.var(ddof=1))


def _correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    spread = math.sqrt(_variance(first) * _variance(second))
    if not spread:
        return math.nan
    covariance = float((first - first.mean()) @ (second - second.mean())) / (len(first) - 1)
    return min(max(covariance / spread, -1.0), 1.0)


def _ratio(numerator: float, denominator: float, nothing: float) -> float:
    if denominator:
        return numerator / denominator
    return math.copysign(math.inf, numerator) if numerator else nothing
