"""Which methods of one protocol are shown to differ, as letters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.report.task_scores import TaskScores
from fewshot_bench.report.wording import SIGNIFICANCE
from fewshot_bench.statistics import Correction, all_pairs, compact_letters, corrected, pairs_with_gaps


def letters_of(scores: TaskScores, correct: Correction = "holm") -> list[str | None]:
    """Compact letters of all pairs, "a" for the best: methods that share one are not shown to differ.

    Args:
        scores: of the methods.
        correct: how the p values of all pairs are corrected for their number.

    Returns:
        For each method its letters; None for all where there is nothing to compare.
    """
    methods = len(scores.cells)
    if methods < 2:
        return [None] * methods
    p = p_of_all_pairs(scores, correct)
    if p is None:
        return [None] * methods
    best_first = np.argsort(-np.nanmean(scores.accuracy, axis=1), kind="stable")
    return [letters or None for letters in compact_letters(p < SIGNIFICANCE, [int(row) for row in best_first])]


def p_of_all_pairs(scores: TaskScores, correct: Correction = "holm") -> NDArray[np.float64] | None:
    """Corrected p of every pair of methods, [A, A]; each pair is tested on the episodes that both have.

    Args:
        scores: of the methods.
        correct: how the p values are corrected for their number.

    Returns:
        1 on the diagonal, NaN where a pair shares fewer than two episodes; None if all pairs do.
    """
    if np.isnan(scores.accuracy).any():
        p = pairs_with_gaps(scores.accuracy)
    elif scores.accuracy.shape[1] > 1:
        p = all_pairs(scores.accuracy).p
    else:
        return None
    upper = np.triu_indices(len(p), 1)
    if np.isnan(p[upper]).all():
        return None
    result = np.ones_like(p)
    result[upper] = corrected(p[upper], correct)
    result.T[upper] = result[upper]
    return result
