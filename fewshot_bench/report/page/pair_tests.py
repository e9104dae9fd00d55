"""All pairs of the methods of a protocol; the best of them are shown."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.report.page.content import Pairs
from fewshot_bench.report.task_scores import TaskScores, data_intervals_of
from fewshot_bench.report.verdicts import claims_of_all_pairs
from fewshot_bench.statistics import Correction, DataInterval, mean_interval

MOST_PAIRED = 25


def pairs_of(scores: TaskScores, names: Sequence[str], correct: Correction = "holm") -> Pairs | None:
    """The best methods against each other, by the tests that stand behind the letters of the leaderboard.

    Args:
        scores: of all methods of the protocol, inductive ones first, each kind best first.
        names: of these methods.
        correct: how p is corrected for the number of all pairs, of those not shown too.

    Returns:
        None where no two of the best share two episodes.
    """
    best = highest(scores.accuracy, MOST_PAIRED)
    accuracy = scores.accuracy[best]
    difference, episodes = _differences(accuracy)
    has_pairs = bool((episodes[np.triu_indices(len(accuracy), 1)] > 1).any())
    claims = claims_of_all_pairs(scores, correct) if has_pairs else None
    if claims is None:
        return None
    split, beyond = (np.where(episodes > 1, p[np.ix_(best, best)], np.nan) for p in claims)
    best_two, task = _best_two(scores, accuracy[0] - accuracy[1])
    return Pairs(
        [names[row] for row in best],
        100 * difference,
        split,
        beyond,
        episodes,
        correction=correct,
        best_two=best_two,
        best_two_task=task,
        left_out=len(names) - len(accuracy),
    )


def highest(accuracy: NDArray[np.float64], most: int) -> list[int]:
    """The rows with the highest means, at most so many, in their order.

    Args:
        accuracy: [A, E], NaN where a method lacks an episode.
        most: how many.
    """
    return sorted(np.argsort(-np.nanmean(accuracy, axis=1), kind="stable")[:most].tolist())


def _best_two(scores: TaskScores, difference: NDArray[np.float64]) -> tuple[DataInterval | None, float]:
    """The data interval of the first two methods' difference and the half-width over episodes, in points."""
    there = ~np.isnan(difference)
    (found,) = data_intervals_of(scores, 100 * difference[None])
    return found, mean_interval(100 * difference[there]).half_width if there.any() else math.nan


def _differences(accuracy: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Mean differences on the episodes that both of a pair have, NaN for fewer than two, and how many these are."""
    there = ~np.isnan(accuracy)
    episodes = there.astype(np.int64) @ there.T
    sums = np.where(there, accuracy, 0.0) @ there.T
    return np.where(episodes > 1, (sums - sums.T) / np.maximum(episodes, 1), np.nan), episodes
