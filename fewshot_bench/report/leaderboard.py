"""The leaderboard: every stored cell as a row of one table, and as a CSV that only outcomes can change."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fewshot_bench.atomic import write_atomically
from fewshot_bench.errors import OutcomeError
from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.report.method_names import cells_of_method, shown_names, the_only
from fewshot_bench.report.summary import COLUMNS, summary_row

TIMING_COLUMNS = ("episodes_per_second",)
"""What differs between two identical studies; everything else is the same to the byte."""

_DECIMALS = {
    "median": 4,
    "mean": 4,
    "ci95": 4,
    "difference": 4,
    "diff_ci95_low": 4,
    "diff_ci95_high": 4,
    "paired_episodes": 0,
    "episodes_per_second": 1,
}
_PROTOCOL = ["dataset", "split", "way", "shot", "queries", "seed", "protocol_fingerprint"]


def leaderboard(
    store: OutcomeStore, baseline: str | None = None, *, cells: Sequence[Cell] | None = None
) -> pd.DataFrame:
    """Summarise cells, each tested against the baseline's cell of the same protocol.

    All stored episodes count. Where runs differ in length, `episodes` is that of the shortest, and the median over
    the runs is that of the means of what each run has.

    Args:
        store: where the outcomes are.
        baseline: name of the method that the others are tested against, a part that no other name has, or a label.
        cells: which cells; all that are stored by default.

    Returns:
        A row per cell with the columns `summary.COLUMNS`, sorted by protocol, then from the best mean to the worst.
        The test is empty for the baseline itself, and on protocols that have no baseline or several of its name.

    Raises:
        OutcomeError: nothing is stored, or a part is damaged.
        UnknownNameError: no method is called like the baseline.
        ComparisonError: the baseline's name fits several methods.
    """
    cells = store.cells() if cells is None else list(cells)
    if not cells:
        raise OutcomeError(f"there are no outcomes in {store.folder}. Make some with: fewshot-bench run")
    baselines = _baselines(cells, baseline) if baseline is not None else {}
    names = shown_names(cells)
    by_protocol: dict[str, list[Cell]] = {}
    for cell in cells:
        by_protocol.setdefault(cell.protocol.fingerprint, []).append(cell)
    rows: list[dict[str, Any]] = []
    for protocol, same in by_protocol.items():
        rows += _rows(store, same, names, baselines.get(protocol))
    return sorted_rows(pd.DataFrame(rows, columns=list(COLUMNS)))


def write_leaderboard(frame: pd.DataFrame, path: Path) -> None:
    """Write a leaderboard as CSV, all or nothing, with fixed decimals and line ends.

    Args:
        frame: as `leaderboard` returns it.
        path: the file; an older one is replaced.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(frame.columns)
    for row in frame.to_dict("records"):
        writer.writerow([_written(str(column), value) for column, value in row.items()])
    write_atomically(path, text.getvalue().encode())


def _baselines(cells: Sequence[Cell], wanted: str) -> dict[str, Cell]:
    """The baseline's cell on each protocol where its name means one method."""
    found = cells_of_method(cells, wanted)
    clear = {protocol: same[0] for protocol, same in found.items() if len(same) == 1}
    return clear or {protocol: the_only(same) for protocol, same in found.items()}


def _rows(
    store: OutcomeStore, cells: Sequence[Cell], names: dict[str, str], baseline: Cell | None
) -> list[dict[str, Any]]:
    """The rows of the cells of one protocol."""
    if baseline is None:
        return [summary_row(cell, names[cell.key], store.read(cell)) for cell in cells]
    reference = store.read(baseline)
    return [
        summary_row(cell, names[cell.key], reference, names[baseline.key])
        if cell.key == baseline.key
        else summary_row(cell, names[cell.key], store.read(cell), names[baseline.key], reference)
        for cell in cells
    ]


def sorted_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows by protocol, then from the best mean to the worst."""
    keys = [*_PROTOCOL, "mean", "method", "method_fingerprint"]
    return frame.sort_values(keys, ascending=[key != "mean" for key in keys], kind="stable", ignore_index=True)


def _written(column: str, value: Any) -> str:
    if value is None or value != value:
        return ""
    if column == "p":
        return f"{value:.6g}"
    if column in _DECIMALS:
        return f"{round(value, _DECIMALS[column]) + 0.0:.{_DECIMALS[column]}f}"  # + 0.0: never "-0.0000"
    return str(value)
