"""All pairs of the methods of a protocol; the best of them are shown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.report.letters import p_of_all_pairs
from fewshot_bench.report.page.content import Pairs
from fewshot_bench.report.task_scores import TaskScores, data_half_widths_of
from fewshot_bench.statistics import Correction

MOST_PAIRED = 25


def pairs_of(scores: TaskScores, names: Sequence[str], correct: Correction = "holm") -> Pairs | None:
    """The best methods against each other, by the tests that stand behind the letters of the leaderboard.

    Args:
        scores: of all methods of the protocol, best first.
        names: of these methods.
        correct: how p is corrected for the number of all pairs, of those not shown too.

    Returns:
        None where no two of the best share two episodes.
    """
    accuracy = scores.accuracy[:MOST_PAIRED]
    difference, episodes = _differences(accuracy)
    p = p_of_all_pairs(scores, correct) if (episodes[np.triu_indices(len(accuracy), 1)] > 1).any() else None
    if p is None:
        return None
    data = data_half_widths_of(scores, accuracy[:1] - accuracy[1:2])
    return Pairs(
        names[:MOST_PAIRED],
        100 * difference,
        np.where(episodes > 1, p[:MOST_PAIRED, :MOST_PAIRED], np.nan),
        episodes,
        correction=correct,
        data_half_width=100 * float(data[0]),
        left_out=len(names) - len(accuracy),
    )


def _differences(accuracy: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Mean differences on the episodes that both of a pair have, NaN for fewer than two, and how many these are."""
    there = ~np.isnan(accuracy)
    episodes = there.astype(np.int64) @ there.T
    sums = np.where(there, accuracy, 0.0) @ there.T
    return np.where(episodes > 1, (sums - sums.T) / np.maximum(episodes, 1), np.nan), episodes
