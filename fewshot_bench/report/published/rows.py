"""Published numbers beside the cells of a protocol: as rows of the leaderboard, and beside the recipe that gives them.

Their episodes are others, so every test is Welch's unpaired one, from the printed mean and interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fewshot_bench.outcomes import STANDARD_SAMPLER, Cell, ProtocolCard
from fewshot_bench.report.names import BASELINE_KINDS, disambiguated
from fewshot_bench.report.published.tables import PublishedResult
from fewshot_bench.report.scores import TaskScores, task_columns
from fewshot_bench.report.verdicts import verdict
from fewshot_bench.statistics import (
    Correction,
    TrainingSpread,
    WelchTest,
    corrected,
    implied_standard_error,
    mean_interval,
    training_spread,
    welch_from_standard_errors,
)

WELCH = "Welch"
NO_INTERVAL = "no interval reported"
_BASE_SPLIT = "base split of "


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
        published: numbers on whatever tasks, each once.
        baseline: position of the cell that they are tested against; None for no test.
        baseline_name: what it is called.
        correct: how p is corrected.

    Returns:
        Mappings with some of the columns of the leaderboard; the others do not exist for a published number.
    """
    fitting = [result for result in published if _fits(result, scores.protocol)]
    rows = [_row(result, scores.protocol, name) for result, name in zip(fitting, _names(fitting), strict=True)]
    if baseline is None:
        return rows
    tests = [_welch(scores, baseline, result) for result in fitting]
    ps = corrected([math.nan if test is None else test.p for test in tests], correct)
    is_transductive = scores.cells[baseline].method.is_transductive
    for row, result, test, p in zip(rows, fitting, tests, ps, strict=True):
        if test is None:
            continue
        row |= {
            "difference": -test.difference,
            "diff_ci95_low": -test.ci_high,
            "diff_ci95_high": -test.ci_low,
            "p": test.p,
            "p_corrected": float(p),
            "test": WELCH,
            "baseline": baseline_name,
            "correction": correct,
            "verdict": verdict(-test.difference, float(p)),
        }
        if result.is_transductive is not None and result.is_transductive != is_transductive:
            row["flags"] = "; ".join([BASELINE_KINDS[is_transductive], *([row["flags"]] if row["flags"] else [])])
    return rows


def _fits(result: PublishedResult, protocol: ProtocolCard) -> bool:
    if protocol.is_whole:
        return (result.dataset, result.split, result.way) == (protocol.dataset, protocol.split, None)
    task = (protocol.dataset, protocol.split, protocol.way, protocol.shot)
    same = (result.dataset, result.split, result.way, result.shot) == task
    return same and protocol.sampler == STANDARD_SAMPLER and result.queries in (None, protocol.query)


def _names(results: Sequence[PublishedResult]) -> list[str]:
    """Backbone and method, and who measured it or the table where several numbers are called so."""
    names = {str(place): f"{result.backbone} {result.method}" for place, result in enumerate(results)}
    names = disambiguated(names, {str(place): f" ({result.source})" for place, result in enumerate(results)})
    names = disambiguated(names, {str(place): f" ({result.table})" for place, result in enumerate(results)})
    return list(names.values())


def _row(result: PublishedResult, protocol: ProtocolCard, name: str) -> dict[str, Any]:
    half_width = math.nan if result.half_width is None else result.half_width
    return {
        "method": name,
        **task_columns(protocol),
        "episodes": result.episodes,
        "median": result.accuracy,
        "median_ci95": half_width,
        "mean": result.accuracy,
        "ci95": half_width,
        "is_transductive": result.is_transductive,
        "flags": "; ".join(result.flags) or None,
        "source": result.printed_by,
        "backbone": result.backbone,
        "protocol_fingerprint": protocol.fingerprint,
        "note": result.note or None,
    }


def _welch(scores: TaskScores, row: int, result: PublishedResult) -> WelchTest | None:
    """Welch's test of a cell's mean minus a published one, in %; None without an interval of some width."""
    accuracy = 100 * scores.accuracy[row, scores.of(row)]
    if not result.half_width or len(accuracy) < 2:
        return None
    error, df = implied_standard_error(result.half_width, result.episodes)
    own = float(accuracy.std(ddof=1)) / math.sqrt(len(accuracy))
    return welch_from_standard_errors(float(accuracy.mean()), own, len(accuracy) - 1, result.accuracy, error, df)


@dataclass(frozen=True)
class PublishedComparison:
    """A measured method beside the number that its recipe is published with.

    Attributes:
        cell: of the method.
        name: what the method is called.
        result: the published number.
        episodes: that were measured, over all runs.
        mean: measured accuracy over them, in %.
        half_width: of its 95% interval over episodes; NaN for a single episode.
        test: Welch's test of measured minus reported, in points; None without a printed interval.
        p_corrected: p of the test, corrected for the number of such tests on the protocol.
        correction: how p is corrected.
        spread: over the trainings of the method; None for one.
    """

    cell: Cell
    name: str
    result: PublishedResult
    episodes: int
    mean: float
    half_width: float
    test: WelchTest | None
    p_corrected: float = math.nan
    correction: Correction = "holm"
    spread: TrainingSpread | None = None

    @property
    def difference(self) -> float:
        """Measured minus reported, in points."""
        return self.mean - self.result.accuracy

    @property
    def verdict(self) -> str:
        """Where the measured mean lies: "within", "above" or "below the reported interval", or `NO_INTERVAL`."""
        if self.result.half_width is None:
            return NO_INTERVAL
        side = "above" if self.difference > 0 else "below"
        is_within = abs(self.difference) <= self.result.half_width + 1e-9  # the ends count, despite rounding
        return f"{'within' if is_within else side} the reported interval"

    def columns(self) -> dict[str, Any]:
        """The leaderboard's columns about the published number; NaN for what does not exist."""
        test = self.test
        return {
            "reported": self.result.accuracy,
            "reported_ci95": math.nan if self.result.half_width is None else self.result.half_width,
            "reported_by": self.result.printed_by,
            "reported_difference": self.difference,
            "reported_diff_ci95_low": math.nan if test is None else test.ci_low,
            "reported_diff_ci95_high": math.nan if test is None else test.ci_high,
            "reported_p": math.nan if test is None else test.p,
            "reported_p_corrected": self.p_corrected,
            "reported_verdict": self.verdict,
        }


def published_comparisons_of(
    scores: TaskScores,
    names: Mapping[str, str],
    published: Sequence[PublishedResult],
    correct: Correction = "holm",
) -> list[PublishedComparison]:
    """The cells of a protocol beside the numbers that their recipes are published with.

    A number belongs to a cell whose method has the number's recipe as a stage of its name, whatever settings follow, or
    as its backbone and a stage, the number's adaptation, if it names one, and its kind, inductive or transductive, if
    it says so. A network that was trained on the base split of another dataset has no published number.

    Args:
        scores: of the cells.
        names: what to call each method, by the key of its cell.
        published: numbers on whatever tasks, each once.
        correct: how p is corrected, for the number of these tests.

    Returns:
        For each cell in order one comparison per number, in the order of the tables: a recipe's own number first.
    """
    found = [
        _comparison(scores, row, names[cell.key], result)
        for row, cell in enumerate(scores.cells)
        for result in published
        if is_about(result, cell)
    ]
    ps = corrected([math.nan if pair.test is None else pair.test.p for pair in found], correct)
    return [replace(pair, p_corrected=float(p), correction=correct) for pair, p in zip(found, ps, strict=True)]


def is_about(result: PublishedResult, cell: Cell) -> bool:
    """Whether a published number is about a cell; see `published_comparisons_of`."""
    if not result.recipe or not _fits(result, cell.protocol):
        return False
    parts = [stage.partition("@")[0] for stage in cell.method.name.split("/")[:-1]]
    stages = parts[1:] + [f"{parts[0]}/{stage}" for stage in parts[1:]]
    corpora = [corpus.strip() for corpus in str(cell.provenance.get("pretraining") or "").split(",")]
    trained_on = {corpus.removeprefix(_BASE_SPLIT) for corpus in corpora if corpus.startswith(_BASE_SPLIT)}
    if not set(result.recipes) & set(stages) or (trained_on and trained_on != {cell.protocol.dataset}):
        return False
    if result.adaptation not in ("", cell.method.adaptation):
        return False
    return result.is_transductive in (None, cell.method.is_transductive)


def _comparison(scores: TaskScores, row: int, name: str, result: PublishedResult) -> PublishedComparison:
    accuracy = 100 * scores.accuracy[row, scores.of(row)]
    interval = mean_interval(accuracy)
    several = scores.trainings[row] if scores.trainings else None
    return PublishedComparison(
        scores.cells[row],
        name,
        result,
        len(accuracy),
        interval.mean,
        interval.half_width,
        _welch(scores, row, result),
        spread=None if several is None else training_spread(100 * several.means(scores.of(row))),
    )
