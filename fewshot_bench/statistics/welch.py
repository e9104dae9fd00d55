"""Methods known by a published mean and interval only: Welch's unpaired test, and whether the interval can be right."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import stats

from fewshot_bench.errors import ComparisonError, ShapeError
from fewshot_bench.statistics.intervals import SMALLEST_P, require_positive, require_probability

# How much alike two queries of one class in one episode are in being classified correctly (intraclass correlation).
# Values measured and published lie at 0.09 to 0.29 (docs/published.md); at 1, a class is all right or all wrong.
LARGEST_LIKENESS = 0.4
# Classes of an episode are not quite independent, and a standard deviation over 600 episodes is itself 3% uncertain.
SLACK = 1.1


@dataclass(frozen=True)
class WelchTest:
    """Welch's t-test of two means over different episodes (Welch, 1947).

    Attributes:
        difference: mean of a minus mean of b.
        ci_low: lower end of its interval.
        ci_high: upper end.
        t: the statistic; infinite where neither has any spread and they differ.
        df: degrees of freedom of Welch and Satterthwaite; NaN where neither has any spread.
        p: two-sided, never 0; NaN where neither has any spread and they differ, about which t says nothing.
    """

    difference: float
    ci_low: float
    ci_high: float
    t: float
    df: float
    p: float


def implied_sd(half_width: float, episodes: int, confidence: float = 0.95) -> float:
    """Standard deviation over episodes that a published interval implies: half-width * sqrt(n) / quantile.

    Args:
        half_width: of the interval of a mean, the number after ±.
        episodes: that the mean is over.
        confidence: of the interval.

    Raises:
        ShapeError, ComparisonError: as `implied_standard_error`.

    >>> round(implied_sd(0.4, episodes=600), 2)  # of 62.0 ± 0.4 %
    4.99
    """
    return implied_standard_error(half_width, episodes, confidence)[0] * math.sqrt(episodes)


def implied_standard_error(
    half_width: float, episodes: int | None = None, confidence: float = 0.95
) -> tuple[float, float]:
    """Standard error of a mean that its published interval implies: half-width / quantile.

    The quantile is Student's for n - 1 degrees of freedom, as this package computes intervals, and the normal one where
    n is unknown. Papers often take 1.96; from 600 episodes on, the two are less than 0.3% apart, less than the rounding
    of what papers print.

    Args:
        half_width: of the interval of a mean, the number after ±.
        episodes: that the mean is over; None where the paper does not say.
        confidence: of the interval.

    Returns:
        The standard error, and its degrees of freedom: n - 1, infinite where n is unknown.

    Raises:
        ShapeError: the half-width is negative, or the confidence not between 0 and 1.
        ComparisonError: there are fewer than two episodes.

    >>> error, df = implied_standard_error(0.98)
    >>> round(error, 3), df
    (0.5, inf)
    """
    require_probability(confidence=confidence)
    if not 0 <= half_width < math.inf:
        raise ShapeError(f"a half-width must be a finite number of at least 0, not {half_width}.")
    if episodes is not None and episodes < 2:
        raise ComparisonError(f"an interval needs two episodes or more; there are {episodes}.")
    df = math.inf if episodes is None else episodes - 1.0
    return half_width / float(stats.t.ppf((1 + confidence) / 2, df)), df


def welch_from_summaries(
    mean_a: float, sd_a: float, n_a: int, mean_b: float, sd_b: float, n_b: int, confidence: float = 0.95
) -> WelchTest:
    """Test whether two means over different episodes differ, from their standard deviations and numbers of episodes.

    Args:
        mean_a: mean accuracy of one method.
        sd_a: its standard deviation over episodes.
        n_a: its episodes.
        mean_b: of the other.
        sd_b: of the other.
        n_b: of the other.
        confidence: of the interval of the difference.

    Raises:
        ShapeError, ComparisonError: as `welch_from_standard_errors`.

    >>> test = welch_from_summaries(0.62, 0.10, 600, 0.60, 0.11, 600)
    >>> f"{test.difference:.2f}, {test.ci_low:.3f} to {test.ci_high:.3f}, p = {test.p:.4f}"
    '0.02, 0.008 to 0.032, p = 0.0010'
    """
    if min(n_a, n_b) < 2:
        raise ComparisonError(f"Welch's test needs two episodes or more of each method; there are {n_a} and {n_b}.")
    errors = sd_a / math.sqrt(n_a), sd_b / math.sqrt(n_b)
    return welch_from_standard_errors(mean_a, errors[0], n_a - 1, mean_b, errors[1], n_b - 1, confidence)


def welch_from_standard_errors(
    mean_a: float, error_a: float, df_a: float, mean_b: float, error_b: float, df_b: float, confidence: float = 0.95
) -> WelchTest:
    """Test whether two means over different episodes differ, from their standard errors.

    It takes the episodes for independent. Two methods on the same episodes belong into a paired test, which needs the
    outcomes; here they would make p too large.

    Args:
        mean_a: mean accuracy of one method.
        error_a: its standard error.
        df_a: degrees of freedom of that error, one less than the episodes; infinite where their number is unknown.
        mean_b: of the other.
        error_b: of the other.
        df_b: of the other.
        confidence: of the interval of the difference.

    Raises:
        ShapeError: a mean or a standard error is not a finite number, or that is negative.
        ComparisonError: one has less than one degree of freedom.

    >>> error, df = implied_standard_error(0.004, episodes=2000)
    >>> round(welch_from_standard_errors(0.620, error, df, 0.612, error, df).p, 4)
    0.0056
    """
    require_probability(confidence=confidence)
    if not all(map(math.isfinite, (mean_a, mean_b))) or not all(0 <= error < math.inf for error in (error_a, error_b)):
        raise ShapeError("Welch's test needs finite means, and standard deviations of at least 0.")
    if not min(df_a, df_b) >= 1:
        raise ComparisonError(f"Welch's test needs two episodes or more of each method, not {df_a + 1} and {df_b + 1}.")
    difference, error = mean_a - mean_b, math.hypot(error_a, error_b)
    if not error:
        t = math.copysign(math.inf, difference) if difference else 0.0
        return WelchTest(difference, difference, difference, t, math.nan, math.nan if difference else 1.0)
    share_a, share_b = (error_a / error) ** 4 / df_a, (error_b / error) ** 4 / df_b
    df = 1 / (share_a + share_b) if share_a + share_b else math.inf
    half_width = float(stats.t.ppf((1 + confidence) / 2, df)) * error
    p = max(2 * float(stats.t.sf(abs(difference) / error, df)), SMALLEST_P)
    return WelchTest(difference, difference - half_width, difference + half_width, difference / error, df, p)


def plausible_sd_range(accuracy: float, *, way: int = 5, query: int = 15) -> tuple[float, float]:
    """Between which standard deviations over episodes the accuracy of N-way episodes with Q queries per class lies.

    An episode is a cluster sample of N classes with Q queries each. If the classes of an episode fare independently,
    and whether two queries of one class are correct has an intraclass correlation of r, then (Kish, 1965)

        sd^2 = m (1 - m) / (N Q) * (1 + (Q - 1) r)        for a mean accuracy m.

    r = 0, queries that have nothing in common, is the lower end, and r = 0.4, more than has been seen, the upper one;
    10% are added on either side. For m = 0.6 and 5 x 15 queries that is 0.051 to 0.160.

    Args:
        accuracy: mean over episodes, a fraction.
        way: N.
        query: Q, queries per class.

    Returns:
        The lowest and the highest plausible standard deviation, as fractions.

    Raises:
        ShapeError: the accuracy is not between 0 and 1, or there is no query.

    >>> low, high = plausible_sd_range(0.6)
    >>> round(low, 3), round(high, 3)
    (0.051, 0.16)
    """
    if not 0 <= accuracy <= 1:
        raise ShapeError(f"a mean accuracy must be a fraction between 0 and 1, not {accuracy}.")
    require_positive(way=way, query=query)
    binomial = math.sqrt(accuracy * (1 - accuracy) / (way * query))
    return binomial / SLACK, binomial * math.sqrt(1 + (query - 1) * LARGEST_LIKENESS) * SLACK


def is_plausible_sd(sd: float, accuracy: float, *, way: int = 5, query: int = 15, rounding: float = 0.0) -> bool:
    """Whether a standard deviation over episodes is one that such episodes can have; see `plausible_sd_range`.

    Args:
        sd: standard deviation over episodes, a fraction, such as `implied_sd` finds.
        accuracy: mean over episodes, a fraction.
        way: N.
        query: Q, queries per class.
        rounding: how far the sd may be off because its interval was printed with few digits, a fraction.

    >>> is_plausible_sd(0.10, accuracy=0.6), is_plausible_sd(0.01, accuracy=0.6)
    (True, False)
    """
    lowest, highest = plausible_sd_range(accuracy, way=way, query=query)
    return lowest <= sd + rounding and sd - rounding <= highest
