"""The leaderboard as a CSV: the same outcomes give the same bytes."""

from __future__ import annotations

import csv
import io
from typing import Any

import pandas as pd

from fewshot_bench.atomic import write_atomically
from fewshot_bench.paths import Place
from fewshot_bench.report.spreadsheet_text import guarded

TIMING_COLUMNS = ("episodes_per_second", "peak_bytes")
"""What differs between two identical studies; everything else is the same to the byte."""

_DECIMALS = {
    "median": 4,
    "median_ci95": 4,
    "mean": 4,
    "ci95": 4,
    "data_ci95": 4,
    "episode_median": 4,
    "episode_median_low": 4,
    "episode_median_high": 4,
    "difference": 4,
    "diff_ci95_low": 4,
    "diff_ci95_high": 4,
    "diff_data_ci95_low": 4,
    "diff_data_ci95_high": 4,
    "effect_size": 4,
    "wins": 0,
    "ties": 0,
    "losses": 0,
    "paired_episodes": 0,
    "episodes_per_second": 1,
    "peak_bytes": 0,
    "episodes": 0,
    "runs": 0,
}
_EVERY_DIGIT = ("p", "p_corrected", "p_beyond", "p_beyond_corrected")


def write_leaderboard(frame: pd.DataFrame, path: Place) -> None:
    """Write a leaderboard as CSV, all or nothing, with fixed decimals and line ends.

    Text that a spreadsheet would run as a formula gets an apostrophe in front; numbers keep their minus.

    Args:
        frame: as `leaderboard` returns it.
        path: the file; an older one is replaced.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([guarded(str(column)) for column in frame.columns])
    for row in frame.to_dict("records"):
        writer.writerow([_written(str(column), value) for column, value in row.items()])
    write_atomically(path, text.getvalue().encode())


def _written(column: str, value: Any) -> str:
    if value is None or value != value:
        return ""
    if column in _EVERY_DIGIT:
        return repr(float(value))
    if column in _DECIMALS:
        return f"{round(value, _DECIMALS[column]) + 0.0:.{_DECIMALS[column]}f}"  # + 0.0: never "-0.0000"
    return guarded(value) if isinstance(value, str) else str(value)
