"""Published numbers as rows of the leaderboard: beside what was measured, marked, and tested from their summary."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from fewshot_bench.outcomes import STANDARD_SAMPLER, ProtocolCard
from fewshot_bench.report.plausibility import interval_flag
from fewshot_bench.report.published import PublishedResult
from fewshot_bench.report.task_columns import task_columns
from fewshot_bench.report.task_scores import TaskScores
from fewshot_bench.report.verdicts import verdict
from fewshot_bench.statistics import Correction, corrected, implied_standard_error, welch_from_standard_errors

WELCH = "Welch"


def published_rows_of(
    scores: TaskScores,
    published: Sequence[PublishedResult],
    baseline: int | None,
    baseline_name: str | None,
    correct: Correction = "holm",
) -> list[dict[str, Any]]:
    """The rows of the published numbers on tasks like those of a protocol.

    Their episodes are others, so they are tested by Welch's unpaired test, where an interval is printed; p is corrected
    for the number of these tests. A printed mean has no outcomes, so it cannot be compared beyond the split.

    Args:
        scores: of the cells of the protocol.
        published: numbers on whatever tasks.
        baseline: position of the cell that they are tested against; None for no test.
        baseline_name: what it is called.
        correct: how p is corrected.

    Returns:
        Mappings with some of the columns of the leaderboard; the others do not exist for a published number.
    """
    fitting = _without_repeats([result for result in published if _fits(result, scores.protocol)])
    names = _names(fitting)
    tests = [_tested(scores, baseline, result) for result in fitting]
    for test, p in zip(tests, corrected([test.get("p", math.nan) for test in tests], correct), strict=True):
        if "p" in test:
            test |= {"p_corrected": float(p), "test": WELCH, "baseline": baseline_name, "correction": correct}
            test["verdict"] = verdict(test["difference"], float(p))
    return [
        {**_row(result, scores.protocol), "method": name, **test}
        for result, name, test in zip(fitting, names, tests, strict=True)
    ]


def _fits(result: PublishedResult, protocol: ProtocolCard) -> bool:
    task = (protocol.dataset, protocol.split, protocol.way, protocol.shot)
    same = (result.dataset, result.split, result.way, result.shot) == task
    return same and protocol.sampler == STANDARD_SAMPLER and result.queries in (None, protocol.query)


def _without_repeats(results: Sequence[PublishedResult]) -> list[PublishedResult]:
    """Without those that only repeat another table's number and leave its interval out."""
    with_interval = {_number(result) for result in results if result.half_width is not None}
    return [result for result in results if result.half_width is not None or _number(result) not in with_interval]


def _number(result: PublishedResult) -> tuple[str, str, float]:
    return result.backbone, result.method, result.accuracy


def _names(results: Sequence[PublishedResult]) -> list[str]:
    """Backbone and method, and the table where two tables print other numbers for them."""
    names = [f"{result.backbone} {result.method}" for result in results]
    count = Counter(names)
    return [
        name if count[name] == 1 else f"{name} ({result.table})" for name, result in zip(names, results, strict=True)
    ]


def _row(result: PublishedResult, protocol: ProtocolCard) -> dict[str, Any]:
    half_width = math.nan if result.half_width is None else result.half_width
    return {
        **task_columns(protocol),
        "episodes": result.episodes,
        "median": result.accuracy,
        "median_ci95": half_width,
        "mean": result.accuracy,
        "ci95": half_width,
        "flags": interval_flag(result) or None,
        "source": f"{result.source}; {result.table}",
        "backbone": result.backbone,
        "protocol_fingerprint": protocol.fingerprint,
    }


def _tested(scores: TaskScores, baseline: int | None, result: PublishedResult) -> dict[str, Any]:
    """Welch's test of a published mean against the episodes of the baseline; empty where too little is printed.

    An interval of no width, which no accuracy over episodes has, says nothing of their spread.
    """
    if baseline is None or not result.half_width:
        return {}
    accuracy = 100 * scores.accuracy[baseline, scores.of(baseline)]
    if len(accuracy) < 2:
        return {}
    error, df = implied_standard_error(result.half_width, result.episodes)
    own = float(accuracy.std(ddof=1)) / math.sqrt(len(accuracy))
    test = welch_from_standard_errors(result.accuracy, error, df, float(accuracy.mean()), own, len(accuracy) - 1)
    return {"difference": test.difference, "diff_ci95_low": test.ci_low, "diff_ci95_high": test.ci_high, "p": test.p}
