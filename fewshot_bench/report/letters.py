"""Which methods of one protocol are shown to differ, as letters."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.report.task_scores import TaskScores
from fewshot_bench.report.wording import SIGNIFICANCE
from fewshot_bench.statistics import Correction, all_pairs, compact_letters, corrected, paired_t_test

_MOST_BY_PAIR = 100


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
    """Corrected p of every pair of methods, [A, A]; None where they share too few episodes.

    Pairs are tested on the episodes that both have. Of more than 100 methods that do not all have the same episodes,
    only those that all share count: one matrix product instead of thousands of tests.
    """
    common = ~np.isnan(scores.accuracy).any(axis=0)
    if common.all() or len(scores.cells) > _MOST_BY_PAIR:
        return all_pairs(scores.accuracy[:, common]).corrected(correct) if common.sum() > 1 else None
    p = np.full((len(scores.cells),) * 2, np.nan)
    for a, b in combinations(range(len(scores.cells)), 2):
        both = scores.pair(a, b)
        if both.sum() > 1:
            p[a, b] = paired_t_test(scores.accuracy[a, both], scores.accuracy[b, both]).p
    upper = np.triu_indices(len(p), 1)
    result = np.ones_like(p)
    result[upper] = corrected(p[upper], correct)
    result.T[upper] = result[upper]
    return np.nan_to_num(result, nan=1.0)
