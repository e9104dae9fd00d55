"""How many episodes a comparison needs, and what difference it could have seen (Cohen, 1988), by statsmodels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

from fewshot_bench.errors import ComparisonError, ShapeError
from fewshot_bench.statistics.data_interval import (
    Overlap,
    explained_variance,
    extension,
    freedom_left,
    least_variance,
    most_skewed,
    shrunk_skewness,
)
from fewshot_bench.statistics.intervals import paired_values, require_positive, require_probability
from fewshot_bench.statistics.paired import compare_pairs

# Two pairs are the least that a paired t-test takes, and the least per method that an unpaired one takes.
FEWEST = 2
MOST = 1_000_000_000_000
# Quantiles of the skewness of a sample of classes that power is averaged over.
_SKEWNESS_GRID = 32
_LIMITS = np.array([0.05, 0.95])
# Gauss and Legendre's rule over the quantiles of the estimated variance.
_NODES, _DOUBLE_WEIGHTS = np.polynomial.legendre.leggauss(64)
_CHANCES, _WEIGHTS = (_NODES + 1) / 2, _DOUBLE_WEIGHTS / 2


@dataclass(frozen=True)
class Pilot:
    """What a few episodes of two methods say about how many are needed.

    Attributes:
        episodes: of the pilot.
        difference: mean of a - b.
        sd_a: standard deviation of a over episodes.
        sd_b: standard deviation of b.
        correlation: between a and b; NaN where one is constant.
        sd_difference: standard deviation of a - b.
    """

    episodes: int
    difference: float
    sd_a: float
    sd_b: float
    correlation: float
    sd_difference: float

    def paired_episodes(self, difference: float | None = None, *, power: float = 0.8, alpha: float = 0.05) -> int:
        """Episodes that a paired test needs; of the pilot's own difference unless another is given."""
        return paired_episodes_needed(self._target(difference), self.sd_difference, power=power, alpha=alpha)

    def unpaired_episodes(self, difference: float | None = None, *, power: float = 0.8, alpha: float = 0.05) -> int:
        """Episodes of each method that a test on different episodes needs."""
        sd = math.hypot(self.sd_a, self.sd_b) / math.sqrt(2)
        return unpaired_episodes_needed(self._target(difference), sd, power=power, alpha=alpha)

    def _target(self, difference: float | None) -> float:
        return self.difference if difference is None else difference


@dataclass(frozen=True)
class BeyondSplit:
    """What a comparison on the episodes of one split can find beyond it: the test of the claim on other classes.

    The test is that of `data_intervals`: Student's with the degrees of freedom that the classes allow, and an arm
    towards 0 that is longer where a sample of classes looks skewed. Classes are taken to be normal, whose skewness is
    independent of their mean and variance, and power is averaged over it.

    Attributes:
        sample_variance: of the mean difference, from the draw of classes and images.
        sd_difference: standard deviation of the differences over episodes, above 0.
        overlap: what the pilot's episodes share.
        variance_limits: lower and upper limit of the sample variance; it is beyond each of them in 5% of pilots.

    >>> from fewshot_bench.statistics import class_overlap
    >>> episodes = np.random.default_rng(0).random((600, 20)).argsort(axis=1)[:, :5]
    >>> beyond = BeyondSplit(0.3**2, 4.6, class_overlap(episodes))
    >>> print(f"no number of episodes finds less than {beyond.floor():.2f} points")
    no number of episodes finds less than 0.91 points
    >>> beyond.episodes_needed(1.5), beyond.episodes_needed(0.5)
    (273, None)
    """

    sample_variance: float
    sd_difference: float
    overlap: Overlap
    variance_limits: tuple[float, float] = (0.0, math.inf)

    def floor(self, *, power: float = 0.8, alpha: float = 0.05) -> float:
        """The smallest true difference that any number of episodes finds with the given probability.

        Returns:
            In the unit of the standard deviation; 0 where the classes show no variance of their own.
        """
        return self._detectable(math.inf, power, alpha)

    def floor_limits(self, *, power: float = 0.8, alpha: float = 0.05) -> tuple[float, float]:
        """The lowest and the highest floor that the pilot allows, a 90% interval."""
        low, high = (replace(self, sample_variance=limit) for limit in self.variance_limits)
        return low.floor(power=power, alpha=alpha), high.floor(power=power, alpha=alpha)

    def detectable(self, episodes: int, *, power: float = 0.8, alpha: float = 0.05) -> float:
        """The smallest true difference that so many episodes find with the given probability.

        Raises:
            ShapeError: a number is out of its range.
            ComparisonError: there are fewer than two episodes.
        """
        if episodes < FEWEST:
            raise ComparisonError(f"a t-test needs two episodes or more; there are {episodes}.")
        return self._detectable(episodes, power, alpha)

    def episodes_needed(self, difference: float, *, power: float = 0.8, alpha: float = 0.05) -> int | None:
        """Episodes that find a true difference with the given probability; None where no number of them does.

        Raises:
            ShapeError: a number is out of its range.
            ComparisonError: the difference is 0, or takes more than a trillion episodes on this split already.
        """
        enough = paired_episodes_needed(difference, self.sd_difference, power=power, alpha=alpha)
        if abs(difference) < self.floor(power=power, alpha=alpha):
            return None
        few = enough - 1  # the interval beyond the split is never narrower than that of the paired test
        while self._power(abs(difference), enough, alpha) < power:
            few, enough = enough, enough * 2
            if enough > MOST:
                return None
        while enough - few > 1:
            middle = (few + enough) // 2
            reached = self._power(abs(difference), middle, alpha) >= power
            few, enough = (few, middle) if reached else (middle, enough)
        return enough

    def _detectable(self, episodes: float, power: float, alpha: float) -> float:
        _check(power, alpha)
        error = self._standard_error(episodes)
        if not 0 < error < math.inf:
            return error
        largest = error
        while self._power(largest, episodes, alpha) < power:
            largest *= 2
        found = optimize.brentq(
            lambda size: self._power(size, episodes, alpha) - power, 0.0, largest, xtol=1e-9 * error
        )
        return float(found)

    def _power(self, difference: float, episodes: float, alpha: float) -> float:
        """Probability that the test finds a difference in the right direction."""
        task = self.sd_difference**2 / episodes
        noisy = self.sample_variance + self.overlap.noise * task
        taken = max(self.sample_variance, float(least_variance(np.array([noisy]), self.overlap)[0])) + task
        left = min(taken / noisy, 1.0) if noisy else 1.0
        freedom = min(float(freedom_left(self.overlap, np.array([left]))[0]), episodes - 1)
        t = float(stats.t.isf(alpha / 2, freedom))
        critical = np.array([t]) if self.overlap.is_fixed else t + extension(self._likely_skewness(left), t)
        # The noncentral t, given the estimate of the variance: SciPy's own takes minutes for few degrees of freedom.
        errors = np.sqrt(special.chdtri(freedom, 1 - _CHANCES) / freedom)
        # The interval may take more variance than there is, see `LEAST_OF_ERROR`.
        error = self._standard_error(episodes)
        found = special.ndtr(difference / error - math.sqrt(taken) / error * np.outer(critical, errors))
        return float((found @ _WEIGHTS).mean())

    def _standard_error(self, episodes: float) -> float:
        return math.sqrt(self.sample_variance + self.sd_difference**2 / episodes)

    def _likely_skewness(self, left: float) -> NDArray[np.float64]:
        """Skewness towards 0 that the means of normal classes appear to have, its quantiles; half of them are 0.

        Where noise is most of what is seen, how much of it the interval takes for skewness varies between samples.
        The most that it takes counts: less would promise too much power, and more episodes could find less.
        """
        classes = self.overlap.sample_size
        if classes < 3:
            return np.zeros(1)
        # The variance of a sample's skewness (Fisher, 1930), that of their mean being 1 / sqrt(C) of it.
        variance = 6 * (classes - 1) / ((classes - 2) * (classes + 1) * (classes + 3))
        chances = (np.arange(_SKEWNESS_GRID) + 0.5) / _SKEWNESS_GRID
        quantiles = math.sqrt(variance) * stats.norm.ppf(chances)
        return np.maximum(shrunk_skewness(quantiles, classes, max(left, most_skewed(classes))), 0)


def beyond_split(differences: ArrayLike, overlap: Overlap) -> BeyondSplit:
    """Take from paired differences what planning a claim beyond the split needs.

    Args:
        differences: of two methods on the same episodes, [E].
        overlap: what the episodes share, from `class_overlap` or `image_overlap`.

    Raises:
        ShapeError: the differences do not fit the episodes, do not vary, or the draw of classes cannot be known.

    >>> from fewshot_bench.statistics import class_overlap
    >>> generator = np.random.default_rng(0)
    >>> classes = generator.random((200, 20)).argsort(axis=1)[:, :5]
    >>> differences = 1 + generator.normal(size=20)[classes].mean(axis=1) + generator.normal(size=200)
    >>> round(beyond_split(differences, class_overlap(classes)).floor(), 2)
    0.75
    """
    values = np.asarray(differences, dtype=np.float64)
    if not overlap.strata:
        raise ShapeError(f"the variance beyond the split is unknown: {overlap.why_unknown}.")
    explained, _ = explained_variance(values, overlap)
    sd = float(values.std(ddof=1))
    require_positive(standard_deviation=sd)
    noise = overlap.noise * sd**2 / overlap.episodes
    # With the noise of episodes the variance is that of as many normal numbers as there are classes or images.
    freedom = float(freedom_left(overlap, np.ones(1))[0])
    ratios = freedom / stats.chi2.isf(_LIMITS, freedom)
    low, high = np.maximum(max(explained + noise, 0.0) * ratios - noise, 0.0).tolist()
    return BeyondSplit(max(explained, 0.0), sd, overlap, (low, high))


def pilot(a: ArrayLike, b: ArrayLike) -> Pilot:
    """Take from two methods on the same episodes what planning needs.

    Args:
        a: accuracies of one method, [E].
        b: of the other on the same episodes, [E].

    Raises:
        ShapeError: the arrays do not pair up, or hold NaN.
        ComparisonError: there are fewer than two episodes.

    >>> found = pilot([0.71, 0.64, 0.68, 0.73], [0.68, 0.61, 0.67, 0.70])
    >>> paired_episodes_needed(0.01, found.sd_difference)
    10
    """
    comparison = compare_pairs(a, b)
    first, second = paired_values(a, b)
    return Pilot(
        episodes=comparison.test.n,
        difference=comparison.mean_difference,
        sd_a=float(first.std(ddof=1)),
        sd_b=float(second.std(ddof=1)),
        correlation=comparison.correlation,
        sd_difference=comparison.test.sd_difference,
    )


def sd_of_difference(sd_a: float, sd_b: float, correlation: float) -> float:
    """Standard deviation of a - b: sqrt(sd_a^2 + sd_b^2 - 2 r sd_a sd_b).

    Raises:
        ShapeError: the correlation is not between -1 and 1.

    >>> sd_of_difference(3.0, 4.0, 0.0), sd_of_difference(4.0, 4.0, 1.0)
    (5.0, 0.0)
    """
    if not -1 <= correlation <= 1:
        raise ShapeError(f"a correlation must lie between -1 and 1, not {correlation}.")
    return math.sqrt(max(sd_a**2 + sd_b**2 - 2 * correlation * sd_a * sd_b, 0.0))


def episodes_needed(
    difference: float,
    sd: float,
    *,
    power: float = 0.8,
    alpha: float = 0.05,
    correlation: float | None = None,
    sd_b: float | None = None,
) -> int:
    """Episodes needed to find a difference, in the right direction, with a given probability.

    Args:
        difference: true difference of the means, in the unit of the standard deviations; its sign does not matter.
        sd: standard deviation of the accuracies over episodes, of both methods, or of the first if sd_b is given.
        power: probability of finding it.
        alpha: two-sided significance level.
        correlation: of the methods over the same episodes, for a paired test; None: an unpaired one.
        sd_b: standard deviation of the second method.

    Returns:
        Episodes, which both methods share if paired, and of each method if not.

    Raises:
        ShapeError: a number is out of its range.

    >>> episodes_needed(0.5, sd=8.0), episodes_needed(0.5, sd=8.0, correlation=0.9)
    (4020, 404)
    """
    second = sd if sd_b is None else sd_b
    if not (0 <= sd < math.inf and 0 <= second < math.inf):
        raise ShapeError(f"a standard deviation must be a finite number of at least 0, not {min(sd, second)}.")
    if correlation is None:
        return unpaired_episodes_needed(difference, math.hypot(sd, second) / math.sqrt(2), power=power, alpha=alpha)
    return paired_episodes_needed(difference, sd_of_difference(sd, second, correlation), power=power, alpha=alpha)


def paired_episodes_needed(difference: float, sd_difference: float, *, power: float = 0.8, alpha: float = 0.05) -> int:
    """Episodes that a paired t-test needs, from the standard deviation of the differences; see `episodes_needed`.

    >>> paired_episodes_needed(0.5, 4.0)
    505
    """
    return _solve(difference, sd_difference, power, alpha, is_paired=True)


def unpaired_episodes_needed(difference: float, sd: float, *, power: float = 0.8, alpha: float = 0.05) -> int:
    """Episodes of each method that an unpaired t-test needs, from the (pooled) standard deviation.

    >>> unpaired_episodes_needed(0.5, 8.0)
    4020
    """
    return _solve(difference, sd, power, alpha, is_paired=False)


def detectable_difference(
    episodes: int, sd_difference: float, *, power: float = 0.8, alpha: float = 0.05, paired: bool = True
) -> float:
    """The smallest true difference that a test of so many episodes finds with the given probability.

    Args:
        episodes: that both methods share, or of each method if not paired.
        sd_difference: standard deviation of the differences; of the accuracies themselves if not paired.
        power: probability of finding it.
        alpha: two-sided significance level.
        paired: whether both methods saw the same episodes.

    Returns:
        The difference, in the unit of the standard deviation; 0 where that is 0.

    Raises:
        ShapeError: a number is out of its range.
        ComparisonError: there are fewer than two episodes.

    >>> round(detectable_difference(600, 4.0), 2), round(detectable_difference(600, 8.0, paired=False), 2)
    (0.46, 1.3)
    """
    _check(power, alpha)
    if episodes < FEWEST:
        raise ComparisonError(f"a t-test needs two episodes or more; there are {episodes}.")
    if sd_difference == 0:
        return 0.0
    require_positive(standard_deviation=sd_difference)
    reached = _power_of(alpha, is_paired=paired)
    largest = 1.0
    while reached(largest, episodes) < power:
        largest *= 2
    return float(optimize.brentq(lambda effect: reached(effect, episodes) - power, 0.0, largest)) * sd_difference


def _solve(difference: float, sd: float, power: float, alpha: float, *, is_paired: bool) -> int:
    _check(power, alpha)
    if difference == 0:
        raise ComparisonError("no number of episodes can find a difference of 0. Name the smallest one that matters.")
    require_positive(difference=abs(difference))
    if sd == 0:
        # Equal differences have the p of `p_of_equal_differences`, 2^(1 - n), which must fall below alpha.
        return max(FEWEST, math.floor(2 - math.log2(alpha))) if is_paired else FEWEST
    require_positive(standard_deviation=sd)
    reached, effect = _power_of(alpha, is_paired=is_paired), abs(difference) / sd
    enough = FEWEST
    while reached(effect, enough) < power:
        enough *= 2
        if enough > MOST:
            raise ComparisonError(
                f"a difference of {abs(difference):g} at a standard deviation of {sd:g} needs more than a trillion "
                "episodes. Name a difference that matters."
            )
    # statsmodels' own solver stops within a ten-thousandth, and gives up where two episodes are more than enough.
    few = enough // 2
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if reached(effect, middle) >= power else (middle, enough)
    return max(FEWEST, enough)


def _power_of(alpha: float, *, is_paired: bool) -> Callable[[float, int], float]:
    """Probability that a two-sided test is significant in the right direction, of effect size and episodes."""
    from statsmodels.stats.power import TTestIndPower, TTestPower

    test = TTestPower() if is_paired else TTestIndPower()

    def reached(effect: float, episodes: int) -> float:
        # One tail: the other one's chance is next to nothing, and SciPy answers it with NaN for large effects.
        found = float(test.power(effect, episodes, alpha / 2, alternative="larger"))
        return 1.0 if math.isnan(found) else found  # where the effect is so large that it is 1 to the last digit

    return reached


def _check(power: float, alpha: float) -> None:
    require_probability(power=power, alpha=alpha)
    if power <= alpha:
        raise ShapeError(f"power must be greater than alpha, which any test reaches; {power} is not above {alpha}.")
