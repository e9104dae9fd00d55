"""Methods over several datasets, each dataset counting once: the paper's paired t-test, and Demsar's (2006) ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from fewshot_bench.report.comparisons import TaskComparison
from fewshot_bench.statistics import (
    Correction,
    FriedmanTest,
    PairedComparison,
    corrected,
    friedman,
    paired_over_datasets,
)


@dataclass(frozen=True, eq=False)
class OverDatasets:
    """Methods that were run on tasks of one size over several datasets.

    Attributes:
        task: the size, e.g. "5-way 1-shot".
        accuracies: mean accuracy (as a fraction) by dataset and method, [D, A]; methods come by their mean rank.
        pairs: the paired comparison of A with B over the datasets, by their names.
        p_corrected: of the t-test of each pair, corrected for their number.
        correction: how.
        ranks: Friedman's test with Nemenyi's critical difference; None for two methods.
    """

    task: str
    accuracies: pd.DataFrame
    pairs: dict[tuple[str, str], PairedComparison]
    p_corrected: dict[tuple[str, str], float]
    correction: Correction
    ranks: FriedmanTest | None


def over_datasets(tasks: Sequence[TaskComparison]) -> list[OverDatasets]:
    """Test methods over the datasets that they share.

    Args:
        tasks: as `compare_tasks` returns them.

    Returns:
        One result for each size of task that two methods or more were run with on two datasets or more.
    """
    groups: dict[str, list[TaskComparison]] = {}
    for task in tasks:
        groups.setdefault(_size(task), []).append(task)
    results = [_tested(size, same) for size, same in groups.items()]
    return [result for result in results if result is not None]


def _size(task: TaskComparison) -> str:
    card = task.protocol
    split = "" if card.split == "novel" else f" ({card.split} split)"
    sampler = "" if card.sampler == "standard" else f" {card.sampler}"
    return f"{card.way}-way {card.shot}-shot{sampler}{split}, {card.query} queries per class"


def _tested(size: str, tasks: Sequence[TaskComparison]) -> OverDatasets | None:
    """The tests of the methods that all of the datasets have; a dataset with two seeds counts once, by their mean."""
    table = pd.DataFrame([{"dataset": task.protocol.dataset, **task.means} for task in tasks])
    table = table.groupby("dataset").mean().dropna(axis=1)
    if len(table) < 2 or table.shape[1] < 2:
        return None
    mean_ranks = table.rank(axis=1, ascending=False).mean()
    table = table[mean_ranks.sort_values(kind="stable").index]
    wanted = dict.fromkeys((pair.a, pair.b) for task in tasks for pair in task.comparisons)
    pairs = {(a, b): paired_over_datasets(table[a], table[b]) for a, b in wanted if {a, b} <= set(table.columns)}
    p = corrected([paired.test.p for paired in pairs.values()], tasks[0].correction)
    return OverDatasets(
        size,
        table,
        pairs,
        dict(zip(pairs, map(float, p), strict=True)),
        tasks[0].correction,
        friedman(table.to_numpy()) if table.shape[1] > 2 else None,
    )
