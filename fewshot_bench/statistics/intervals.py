"""One method on its own: the mean over episodes, and the median over runs and over episodes, with their intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from fewshot_bench.errors import ShapeError
from fewshot_bench.statistics.arrays import accuracies_of_episodes, require_probability


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval; the half-width is NaN where one value leaves it unknown."""

    mean: float
    half_width: float

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
        high: upper end; NaN likewise.
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
    """Median over runs of their mean accuracies, [R]."""
    return float(np.median(np.asarray(run_means, dtype=np.float64)))


def summarise(accuracies: ArrayLike, runs: ArrayLike, confidence: float = 0.95) -> Summary:
    """Summarise the episodes of one cell.

    Args:
        accuracies: one per episode, [E].
        runs: the run that each episode belongs to, [E].
        confidence: between 0 and 1.

    Raises:
        ShapeError: there is no episode, an accuracy is NaN, or the arrays differ in length.
    """
    values, labels = np.asarray(accuracies, dtype=np.float64), np.asarray(runs)
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
