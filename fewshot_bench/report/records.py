"""The same numbers as plain mappings, for `--json`."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from fewshot_bench.report.comparison import Comparison
from fewshot_bench.report.wording import verdict

_WHOLE = ("way", "shot", "queries", "seed", "episodes", "runs", "paired_episodes")


def leaderboard_records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A leaderboard as one mapping per row; what does not exist is None."""
    return [{str(column): _plain(str(column), value) for column, value in row.items()} for row in _rows(frame)]


def comparison_record(comparison: Comparison) -> dict[str, Any]:
    """A comparison as a mapping; differences are in percentage points, an infinite t is None."""
    test, protocol = comparison.test, comparison.protocol
    return {
        "method_a": comparison.a,
        "method_b": comparison.b,
        "dataset": protocol.dataset,
        "split": protocol.split,
        "way": protocol.way,
        "shot": protocol.shot,
        "queries": protocol.query,
        "seed": protocol.seed,
        "episodes": test.n,
        "left_out_of_a": comparison.left_out_of_a,
        "left_out_of_b": comparison.left_out_of_b,
        "difference": 100 * test.mean_difference,
        "diff_ci95_low": 100 * test.ci_low,
        "diff_ci95_high": 100 * test.ci_high,
        "sd_difference": 100 * test.sd_difference,
        "t": test.t if math.isfinite(test.t) else None,
        "p": test.p,
        "wins": test.wins,
        "losses": test.losses,
        "ties": test.ties,
        "verdict": verdict(test.mean_difference, test.p),
        "dataset_fingerprint": protocol.dataset_fingerprint,
        "protocol_fingerprint": protocol.fingerprint,
    }


def _rows(frame: pd.DataFrame) -> list[dict[Any, Any]]:
    return frame.to_dict("records")


def _plain(column: str, value: Any) -> Any:
    if value is None or value != value:
        return None
    return int(value) if column in _WHOLE else value
