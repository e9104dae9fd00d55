"""One method on its own: the mean over episodes with its interval, and the median over runs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from fewshot_bench.errors import ShapeError


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
class Summary:
    """The outcomes of one cell in a few numbers.

    Attributes:
        episodes: episodes of the shortest run.
        runs: how many runs there are.
        run_means: mean accuracy of each run, in the order of their numbers.
        median: median over the runs of their mean accuracies.
        interval: mean over all episodes of all runs, with its interval.
    """

    episodes: int
    runs: int
    run_means: tuple[float, ...]
    median: float
    interval: Interval


def mean_interval(accuracies: ArrayLike, confidence: float = 0.95) -> Interval:
    """Student's t interval of a mean.

    Args:
        accuracies: one per episode, [E].
        confidence: between 0 and 1.

    Returns:
        The mean and the interval; with one episode the half-width is NaN.

    Raises:
        ShapeError: there is no episode.
    """
    values = np.asarray(accuracies, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ShapeError(f"a mean over episodes needs accuracies [E] of at least one, not {list(values.shape)}.")
    if len(values) == 1:
        return Interval(float(values[0]), math.nan)
    quantile = stats.t.ppf((1 + confidence) / 2, len(values) - 1)
    return Interval(float(values.mean()), float(quantile * stats.sem(values)))


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
        ShapeError: there is no episode, or the arrays differ in length.
    """
    values, labels = np.asarray(accuracies, dtype=np.float64), np.asarray(runs)
    if values.shape != labels.shape:
        raise ShapeError(f"there are {values.size} accuracies, but run numbers of {labels.size} episodes.")
    interval = mean_interval(values, confidence)
    by_run: list[NDArray[np.float64]] = [values[labels == run] for run in np.unique(labels)]
    means = tuple(float(run.mean()) for run in by_run)
    return Summary(min(len(run) for run in by_run), len(by_run), means, median_of_runs(means), interval)
