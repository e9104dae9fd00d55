"""One method on its own: the mean over episodes, and the median over runs and over episodes, with their intervals.

Here too: when to stop drawing episodes, for intervals of a width fixed beforehand (Chow & Robbins, 1965), and the
checks of arrays that all statistics share.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from fewshot_bench.arrays import as_array, as_floats
from fewshot_bench.errors import ComparisonError, ShapeError

# The smallest positive number in full precision: no test can show a probability of 0, only one too small to write down.
SMALLEST_P = sys.float_info.min
# How far rounding moves a value, relative to the largest one: accuracies come from a division, differences from two.
ROUNDING = 64 * sys.float_info.epsilon
# How far a fraction may lie above 1 where a file was written in single precision.
ABOVE_ONE = 1e-6


def accuracies_of_episodes(accuracies: ArrayLike) -> NDArray[np.float64]:
    """Accuracies, [E], as finite float64.

    Raises:
        ShapeError: there is no episode, or an accuracy is NaN or infinite.
    """
    values = as_floats(accuracies)
    if values.ndim != 1 or not len(values):
        raise ShapeError(f"a mean over episodes needs accuracies [E] of at least one, not {list(values.shape)}.")
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise ShapeError(
            f"accuracies must be finite numbers; {bad} of {len(values)} are NaN or infinite. Run those episodes again."
        )
    return values


def paired_values(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two arrays of paired values, [E], as finite float64.

    Raises:
        ShapeError: the arrays do not pair up, hold NaN or what is not a number.
        ComparisonError: there are fewer than two pairs.
    """
    first, second = as_floats(a), as_floats(b)
    if first.ndim != 1 or first.shape != second.shape:
        raise ShapeError(f"paired values must be two arrays [E], not {list(first.shape)} and {list(second.shape)}.")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ShapeError("paired values must be finite numbers; some are NaN or infinite.")
    if len(first) < 2:
        raise ComparisonError(f"a paired t-test needs two episodes or more; there are {len(first)} in common.")
    return first, second


def accuracies_as_fractions(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Accuracies of two methods, [E], both in percent or both as fractions; a value above 1 makes both percentages.

    Raises:
        ShapeError: they do not pair up, hold NaN, are out of range, or one seems to be in percent and the other not.
        ComparisonError: there are fewer than two pairs.

    >>> ours, theirs = accuracies_as_fractions([71.0, 64.5], [68.0, 61.0])
    >>> ours.tolist(), theirs.tolist()
    ([0.71, 0.645], [0.68, 0.61])
    """
    first, second = paired_values(a, b)
    lowest, highest = min(first.min(), second.min()), max(first.max(), second.max())
    if lowest < 0 or highest > 100:
        raise ShapeError(
            f"accuracies lie between 0 and 1, or 0 and 100%, not at {lowest if lowest < 0 else highest:g}."
        )
    if highest <= 1 + ABOVE_ONE:
        return np.minimum(first, 1.0), np.minimum(second, 1.0)
    for values in (first, second):
        small = (values > 0) & (values <= 1)
        if small.any():
            raise ShapeError(
                f"accuracies mix percent and fractions: {highest:g} is a percentage, and {values[small][0]:g} is not. "
                "Convert one of them."
            )
    return first / 100, second / 100


def rounding_error(*values: NDArray[np.float64]) -> float:
    """How much of a difference between such values may be rounding."""
    return ROUNDING * max(float(np.abs(array).max()) for array in values)


def require_positive(**numbers: float) -> None:
    """Refuse numbers that are not finite and greater than 0; their keywords name them in the message.

    Raises:
        ShapeError: one of them is not.
    """
    for name, number in numbers.items():
        if not 0 < number < np.inf:
            raise ShapeError(f"{name.replace('_', ' ')} must be a finite number greater than 0, not {number}.")


def require_probability(**numbers: float) -> None:
    """Refuse numbers that do not lie between 0 and 1, without the ends; their keywords name them in the message.

    Raises:
        ShapeError: one of them does not.
    """
    for name, number in numbers.items():
        if not 0 < number < 1:
            raise ShapeError(f"{name.replace('_', ' ')} must lie between 0 and 1, not {number}.")


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval; the half-width is NaN where one value leaves it unknown.

    >>> low, high = Interval(0.75, 0.25)
    >>> low, high
    (0.5, 1.0)
    """

    mean: float
    half_width: float

    def __iter__(self) -> Iterator[float]:
        return iter((self.low, self.high))

    @property
    def low(self) -> float:
        """The lower end."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """The upper end."""
        return self.mean + self.half_width


@dataclass(frozen=True)
class MedianInterval:
    """The median over episodes and its interval between two of the values.

    Attributes:
        median: of the values.
        low: lower end; NaN where there are too few values for the confidence.
        high: upper end; NaN in the same cases.
        coverage: how often such an interval holds the median of what the episodes are drawn from, or more often where
            values are equal; at least the confidence asked for, or NaN.
    """

    median: float
    low: float
    high: float
    coverage: float


@dataclass(frozen=True)
class Summary:
    """The outcomes of one cell in a few numbers.

    Attributes:
        episodes: episodes of the shortest run.
        runs: how many runs there are.
        run_means: mean accuracy of each run, in the order of their numbers.
        median: median over the runs of their mean accuracies.
        interval: mean over all episodes of all runs, with its interval.
        median_run: number of the run whose mean is the median; with an even number of runs, of the lower of the two.
        median_interval: the median over runs, with Student's t interval of the episodes of the run whose mean it is;
            with an even number of runs, of the episodes of both runs that it lies between.
    """

    episodes: int
    runs: int
    run_means: tuple[float, ...]
    median: float
    interval: Interval
    median_run: int
    median_interval: Interval


def mean_interval(accuracies: ArrayLike, confidence: float = 0.95) -> Interval:
    """Student's t interval of a mean.

    Args:
        accuracies: one per episode, [E].
        confidence: between 0 and 1.

    Returns:
        The mean and the interval; with one episode the half-width is NaN.

    Raises:
        ShapeError: there is no episode, or an accuracy is NaN.

    >>> interval = mean_interval([0.70, 0.74, 0.72, 0.76])
    >>> f"{interval.mean:.2f} ± {interval.half_width:.3f}"
    '0.73 ± 0.041'
    """
    require_probability(confidence=confidence)
    values = accuracies_of_episodes(accuracies)
    if len(values) == 1:
        return Interval(float(values[0]), math.nan)
    quantile = stats.t.ppf((1 + confidence) / 2, len(values) - 1)
    return Interval(float(values.mean()), float(quantile * stats.sem(values)))


def episode_median(accuracies: ArrayLike, confidence: float = 0.95) -> MedianInterval:
    """Exact interval of the median over episodes, from the order of the values alone.

    The interval reaches from the d-th smallest value to the d-th largest one, with the largest d for which a binomial
    number of tries with chance 1/2 leaves both tails small enough (Thompson, 1936).

    Args:
        accuracies: one per episode, [E].
        confidence: between 0 and 1.

    Raises:
        ShapeError: there is no episode, or an accuracy is NaN.

    >>> interval = episode_median([0.60, 0.62, 0.64, 0.66, 0.68, 0.70])
    >>> interval.low, interval.high, interval.coverage
    (0.6, 0.7, 0.96875)
    """
    require_probability(confidence=confidence)
    values = np.sort(accuracies_of_episodes(accuracies))
    median, count = float(np.median(values)), len(values)
    tail = (1 - confidence) / 2
    rank = int(stats.binom.ppf(tail, count, 0.5))
    if stats.binom.cdf(rank, count, 0.5) <= tail:
        rank += 1
    if rank < 1:
        return MedianInterval(median, math.nan, math.nan, math.nan)
    coverage = 1 - 2 * float(stats.binom.cdf(rank - 1, count, 0.5))
    return MedianInterval(median, float(values[rank - 1]), float(values[count - rank]), coverage)


def median_of_runs(run_means: ArrayLike) -> float:
    """Median over runs of their mean accuracies, [R].

    >>> median_of_runs([0.61, 0.64, 0.62])
    0.62
    """
    return float(np.median(np.asarray(run_means, dtype=np.float64)))


def summarise(accuracies: ArrayLike, runs: ArrayLike, confidence: float = 0.95) -> Summary:
    """Summarise the episodes of one cell.

    Args:
        accuracies: one per episode, [E].
        runs: the run that each episode belongs to, [E].
        confidence: between 0 and 1.

    Raises:
        ShapeError: there is no episode, an accuracy is NaN, or the arrays differ in length.

    >>> summary = summarise([0.70, 0.74, 0.72, 0.76], runs=[0, 0, 1, 1])
    >>> f"{summary.interval.mean:.2f} ± {summary.interval.half_width:.3f}"
    '0.73 ± 0.041'
    >>> [round(mean, 2) for mean in summary.run_means], round(summary.median, 2)
    ([0.72, 0.74], 0.73)
    """
    values, labels = as_floats(accuracies), as_array(runs)
    if values.shape != labels.shape:
        raise ShapeError(f"there are {values.size} accuracies, but run numbers of {labels.size} episodes.")
    interval = mean_interval(values, confidence)
    numbers = np.unique(labels)
    by_run: list[NDArray[np.float64]] = [values[labels == run] for run in numbers]
    means = np.array([run.mean() for run in by_run])
    median, middle = median_of_runs(means), _middle(means)
    half_width = mean_interval(np.concatenate([by_run[index] for index in middle]), confidence).half_width
    return Summary(
        episodes=min(len(run) for run in by_run),
        runs=len(by_run),
        run_means=tuple(means.tolist()),
        median=median,
        interval=interval,
        median_run=int(numbers[middle[0]]),
        median_interval=Interval(median, half_width),
    )


def _middle(means: NDArray[np.float64]) -> list[int]:
    """Which run's mean is the median, or which two it lies between."""
    order = np.argsort(means, kind="stable")
    return [int(index) for index in order[(len(means) - 1) // 2 : len(means) // 2 + 1]]


# A few dozen episodes can be equal by chance, and a first interval of no width would end the study.
FEWEST_EPISODES = 100


@dataclass(frozen=True)
class Look:
    """The state of the stopping rule after the episodes so far.

    Attributes:
        episodes: so far.
        half_width: of the interval of their mean; NaN for one episode.
        enough: whether to stop here.
        expected: how many episodes will have been needed, judging from their spread so far; at least the fewest.
    """

    episodes: int
    half_width: float
    enough: bool
    expected: int


def look(accuracies: ArrayLike, half_width: float, *, confidence: float = 0.95, fewest: int = FEWEST_EPISODES) -> Look:
    """Say whether the interval of the mean is narrow enough.

    Only the width decides, never a difference or a p: see docs/power.md on what repeated looks do to each.

    Args:
        accuracies: of all episodes so far, [E].
        half_width: wanted, in the unit of the accuracies.
        confidence: of the interval.
        fewest: episodes before which no look is enough.

    Raises:
        ShapeError: there is no episode, an accuracy is NaN, or the half-width is not above 0.

    >>> so_far = look([0.70, 0.74, 0.72, 0.76], half_width=0.02, fewest=3)
    >>> so_far.enough, so_far.expected
    (False, 17)
    """
    require_positive(half_width=half_width)
    interval = mean_interval(accuracies, confidence)
    episodes = np.size(accuracies)
    enough = episodes >= fewest and interval.half_width <= half_width
    if math.isnan(interval.half_width):
        return Look(episodes, math.nan, False, fewest)
    expected = max(fewest, math.ceil(episodes * (interval.half_width / half_width) ** 2))
    return Look(episodes, interval.half_width, enough, expected)
