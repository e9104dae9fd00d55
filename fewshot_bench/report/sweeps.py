"""The points of a sweep as rows: accuracies with intervals, and the paired test of each against the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from fewshot_bench.errors import OutcomeError
from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.report.task_scores import task_scores
from fewshot_bench.statistics import paired_t_test, summarise

SWEEP_COLUMNS = (
    "shot",
    "median",
    "mean",
    "ci95",
    "episodes",
    "runs",
    "difference",
    "diff_ci95_low",
    "diff_ci95_high",
    "p",
    "paired_episodes",
    "is_best",
    "method",
    "method_fingerprint",
    "is_transductive",
)
_NUMBERS = ("difference", "diff_ci95_low", "diff_ci95_high", "p")


@dataclass(frozen=True)
class SweptPoint:
    """A setting and its cells, one per number of shots."""

    values: Mapping[str, Any]
    cells: Sequence[Cell]


def sweep_frame(store: OutcomeStore, points: Sequence[SweptPoint], *, episodes: int, runs: int) -> pd.DataFrame:
    """Summarise a sweep. Accuracies are in %, differences to the best point in percentage points.

    The best point has the highest mean over the shots of its mean accuracies; of equal ones it is the first.

    Args:
        store: where the outcomes are.
        points: in the order of the grid, all with the same axes and shots.
        episodes: of each run that count, the first ones.
        runs: that count, the first ones.

    Returns:
        A row per point and shot, in that order: the value on each axis, then `SWEEP_COLUMNS`. The test is empty for
        the best point itself, and where fewer than two episodes are there.

    Raises:
        OutcomeError: nothing is stored for a cell, a part is damaged, or there are no points.
    """
    if not points:
        raise OutcomeError("a sweep without points has nothing to show.")
    frames: dict[str, pd.DataFrame] = {}
    for cell in (cell for point in points for cell in point.cells):
        if cell.key not in frames:
            stored = store.read(cell, with_predictions=False)
            frames[cell.key] = stored[(stored["run"] < runs) & (stored["episode"] < episodes)]
    best = _best(points, frames)
    rows = [
        {**_axes(point.values), **_row(cell, frames, best_cell), "is_best": point is best}
        for point in points
        for cell, best_cell in zip(point.cells, best.cells, strict=True)
    ]
    return pd.DataFrame(rows, columns=[*_axes(points[0].values), *SWEEP_COLUMNS])


def _best(points: Sequence[SweptPoint], frames: Mapping[str, pd.DataFrame]) -> SweptPoint:
    def mean_over_shots(point: SweptPoint) -> float:
        return sum(float(frames[cell.key]["accuracy"].mean()) for cell in point.cells) / len(point.cells)

    return max(points, key=mean_over_shots)


def _axes(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values by the name of their column; a name that a column has already gets an underscore."""
    return {f"{name}_" if name in SWEEP_COLUMNS else name: value for name, value in values.items()}


def _row(cell: Cell, frames: Mapping[str, pd.DataFrame], best: Cell) -> dict[str, Any]:
    frame = frames[cell.key]
    summary = summarise(frame["accuracy"], frame["run"])
    scores = task_scores([frame, frames[best.key]], [cell, best])
    both = scores.pair(0, 1)
    tested: dict[str, Any] = dict.fromkeys(_NUMBERS)
    if cell.key != best.key and both.sum() > 1:
        test = paired_t_test(*scores.accuracy[:, both])
        ends = (test.mean_difference, test.ci_low, test.ci_high)
        tested = dict(zip(_NUMBERS, (*(100 * end for end in ends), test.p), strict=True))
    return {
        "shot": cell.protocol.shot,
        "median": 100 * summary.median,
        "mean": 100 * summary.interval.mean,
        "ci95": 100 * summary.interval.half_width,
        "episodes": summary.episodes,
        "runs": summary.runs,
        **tested,
        "paired_episodes": int(both.sum()) if tested["p"] is not None else None,
        "method": cell.method.name,
        "method_fingerprint": cell.method.fingerprint,
        "is_transductive": cell.method.is_transductive,
    }
