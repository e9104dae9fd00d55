"""How many episodes a comparison needs, and what difference it could have seen (Cohen, 1988), by statsmodels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from numpy.typing import ArrayLike
from scipy import optimize

from fewshot_bench.errors import ComparisonError, ShapeError
from fewshot_bench.statistics.arrays import paired_values, require_positive, require_probability
from fewshot_bench.statistics.comparison import compare_pairs

# Two pairs are the least that a paired t-test takes, and the least per method that an unpaired one takes.
FEWEST = 2
MOST = 1_000_000_000_000


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


def pilot(a: ArrayLike, b: ArrayLike) -> Pilot:
    """Take from two methods on the same episodes what planning needs.

    Args:
        a: accuracies of one method, [E].
        b: of the other on the same episodes, [E].

    Raises:
        ShapeError: the arrays do not pair up, or hold NaN.
        ComparisonError: there are fewer than two episodes.
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
    """
    second = sd if sd_b is None else sd_b
    if not (0 <= sd < math.inf and 0 <= second < math.inf):
        raise ShapeError(f"a standard deviation must be a finite number of at least 0, not {min(sd, second)}.")
    if correlation is None:
        return unpaired_episodes_needed(difference, math.hypot(sd, second) / math.sqrt(2), power=power, alpha=alpha)
    return paired_episodes_needed(difference, sd_of_difference(sd, second, correlation), power=power, alpha=alpha)


def paired_episodes_needed(difference: float, sd_difference: float, *, power: float = 0.8, alpha: float = 0.05) -> int:
    """Episodes that a paired t-test needs, from the standard deviation of the differences; see `episodes_needed`."""
    return _solve(difference, sd_difference, power, alpha, is_paired=True)


def unpaired_episodes_needed(difference: float, sd: float, *, power: float = 0.8, alpha: float = 0.05) -> int:
    """Episodes of each method that an unpaired t-test needs, from the (pooled) standard deviation."""
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
