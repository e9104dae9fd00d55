"""Time the comparison of methods from their accuracies: two methods on many episodes, and many methods at once.

    python benchmarks/comparing.py
    python benchmarks/comparing.py --repeats 9

Accuracies are made up: 75 queries per episode, a difficulty that the methods share, standard deviation 10 points.
Beside all pairs stands what SciPy takes for the same p values with one call per pair.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import numpy as np
import scipy
from numpy.typing import NDArray
from scipy import stats

from fewshot_bench.statistics import all_pairs, compact_letters, compare_pairs, episode_median, sign_flip_p, summarise

QUERIES = 75


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"scipy {scipy.__version__}, numpy {np.__version__}, Python {platform.python_version()}; {cores} cores\n")
    print("| what | outcomes | median s | SciPy, pair by pair, s |\n| --- | ---: | ---: | ---: |")
    a, b = made_up(2, 500_000)
    row("compare_pairs: three tests and all effect sizes", 2 * a.size, repeats, lambda: compare_pairs(a, b), None)
    row("of these, the exact sign-flip test", 2 * a.size, repeats, lambda: sign_flip_p(a - b), None)
    row("summarise and episode_median of each", 2 * a.size, repeats, lambda: [alone(a), alone(b)], None)
    for methods, episodes in ((100, 9000), (500, 3000)):
        table = made_up(methods, episodes)
        row(
            f"all_pairs of {methods} methods, Holm, letters",
            table.size,
            repeats,
            partial(everything, table),
            partial(one_by_one, table) if methods == 100 else None,
        )


def row(
    what: str, outcomes: int, repeats: int, ours: Callable[[], object], theirs: Callable[[], object] | None
) -> None:
    """Time a call, and SciPy's way once, and print a row."""
    ours()
    seconds = median(timed(ours) for _ in range(repeats))
    print(f"| {what} | {outcomes:,} | {seconds:.3f} | {'' if theirs is None else f'{timed(theirs):.2f}'} |", flush=True)


def timed(call: Callable[[], object]) -> float:
    """Seconds of a call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def made_up(methods: int, episodes: int) -> NDArray[np.float64]:
    """Accuracies of methods that share the episodes' difficulty and differ by up to three points, [A, E]."""
    generator = np.random.default_rng(methods)
    difficulty = generator.normal(0.6, 0.08, episodes)
    skill = generator.uniform(0, 0.03, (methods, 1))
    chances = np.clip(difficulty + skill + generator.normal(0, 0.02, (methods, episodes)), 0, 1)
    return generator.binomial(QUERIES, chances) / QUERIES


def alone(accuracies: NDArray[np.float64]) -> object:
    """Everything about one method: three runs, mean and both medians with their intervals."""
    return summarise(accuracies, np.arange(len(accuracies)) % 3), episode_median(accuracies)


def everything(accuracies: NDArray[np.float64]) -> list[str]:
    """All pairs, corrected, as letters."""
    significant = all_pairs(accuracies).corrected("holm") < 0.05
    order = np.argsort(-accuracies.mean(axis=1))
    return compact_letters(significant, order.tolist())


def one_by_one(accuracies: NDArray[np.float64]) -> list[float]:
    """The same p values from one call of SciPy per pair."""
    pairs = zip(*np.triu_indices(len(accuracies), 1), strict=True)
    return [float(stats.ttest_rel(accuracies[i], accuracies[j]).pvalue) for i, j in pairs]


if __name__ == "__main__":
    main()
