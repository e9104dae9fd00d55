"""Methods over several datasets, each dataset counting once: the paper's paired t-test, and Demsar's (2006) ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from fewshot_bench.outcomes import STANDARD_SAMPLER, marked
from fewshot_bench.report.comparisons import TaskComparison
from fewshot_bench.report.task_columns import task_columns
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
        transductive: names of the methods that see all queries of an episode at once.
    """

    task: str
    accuracies: pd.DataFrame
    pairs: dict[tuple[str, str], PairedComparison]
    p_corrected: dict[tuple[str, str], float]
    correction: Correction
    ranks: FriedmanTest | None
    transductive: frozenset[str] = frozenset()

    def shown(self, name: str) -> str:
        """A method's name as people should read it."""
        return marked(name, name in self.transductive)


def over_datasets(tasks: Sequence[TaskComparison]) -> list[OverDatasets]:
    """Test methods over the datasets that they share.

    Args:
        tasks: as `compare_tasks` returns them.

    Returns:
        One result for each size of task that two methods or more were run with on two datasets or more.
    """
    groups: dict[str, list[TaskComparison]] = {}
    for task in tasks:
        groups.setdefault(size_text(task_columns(task.protocol)), []).append(task)
    results = [_tested(size, same) for size, same in groups.items()]
    return [result for result in results if result is not None]


def size_text(row: Mapping[Any, Any]) -> str:
    """The size of the tasks of a row with the columns of `task_columns`, e.g. "5-way 1-shot, 15 queries per class"."""
    split = "" if row["split"] == "novel" else f" ({row['split']} split)"
    sampler = "" if row["sampler"] == STANDARD_SAMPLER else f" {row['sampler']}"
    queries = f", {row['queries']} queries per class" if row["queries"] else ""  # claimed episodes do not say
    return f"{row['way']}-way {row['shot']}-shot{sampler}{split}{queries}"


def accuracies_by_dataset(tasks: Sequence[tuple[str, Mapping[str, float]]]) -> pd.DataFrame | None:
    """The methods that all of the datasets have; a dataset with two seeds counts once, by their mean.

    Args:
        tasks: the dataset and the mean accuracy of each method, by name.

    Returns:
        By dataset and method, [D, A], the methods by their mean rank; None for fewer than two of either.
    """
    table = pd.DataFrame([dict(means) for _, means in tasks], index=[dataset for dataset, _ in tasks])
    table = table.groupby(level=0).mean().dropna(axis=1)
    if len(table) < 2 or table.shape[1] < 2:
        return None
    mean_ranks = table.rank(axis=1, ascending=False).mean()
    return table[mean_ranks.sort_values(kind="stable").index]


def _tested(size: str, tasks: Sequence[TaskComparison]) -> OverDatasets | None:
    table = accuracies_by_dataset([(task.protocol.dataset, task.means) for task in tasks])
    if table is None:
        return None
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
        frozenset[str]().union(*(task.transductive for task in tasks)),
    )
