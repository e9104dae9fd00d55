"""One cell as one row: its numbers, its test against the baseline, and what identifies it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from fewshot_bench.outcomes import Cell
from fewshot_bench.report.comparison import accuracies_of, pair_episodes
from fewshot_bench.statistics import paired_t_test, summarise

COLUMNS = (
    "method",
    "dataset",
    "split",
    "way",
    "shot",
    "queries",
    "seed",
    "episodes",
    "runs",
    "median",
    "mean",
    "ci95",
    "baseline",
    "difference",
    "diff_ci95_low",
    "diff_ci95_high",
    "p",
    "paired_episodes",
    "episodes_per_second",
    "dataset_fingerprint",
    "method_fingerprint",
    "protocol_fingerprint",
    "versions",
)


def summary_row(
    cell: Cell, name: str, frame: pd.DataFrame, baseline_name: str | None = None, baseline: pd.DataFrame | None = None
) -> dict[str, Any]:
    """Summarise a cell; accuracies are in %, differences in percentage points.

    Args:
        cell: the method and the protocol.
        name: what to call the method.
        frame: the cell's episodes.
        baseline_name: what to call the baseline of this protocol; None if it has none.
        baseline: the baseline's episodes; None for the baseline itself, which is not tested against itself.

    Returns:
        A value for each of `COLUMNS`; None or NaN for what does not exist.
    """
    protocol = cell.protocol
    summary = summarise(frame["accuracy"], frame["run"])
    return {
        "method": name,
        "dataset": protocol.dataset,
        "split": protocol.split,
        "way": protocol.way,
        "shot": protocol.shot,
        "queries": protocol.query,
        "seed": protocol.seed,
        "episodes": summary.episodes,
        "runs": summary.runs,
        "median": 100 * summary.median,
        "mean": 100 * summary.interval.mean,
        "ci95": 100 * summary.interval.half_width,
        "baseline": baseline_name,
        **_test(frame, baseline),
        "episodes_per_second": _episodes_per_second(frame),
        "dataset_fingerprint": protocol.dataset_fingerprint,
        "method_fingerprint": cell.method.fingerprint,
        "protocol_fingerprint": protocol.fingerprint,
        "versions": _versions(cell.versions),
    }


def _test(frame: pd.DataFrame, baseline: pd.DataFrame | None) -> dict[str, Any]:
    pairs = None if baseline is None else pair_episodes(frame, baseline)
    if pairs is None or len(pairs) < 2:
        missing = ("difference", "diff_ci95_low", "diff_ci95_high", "p", "paired_episodes")
        return dict.fromkeys(missing, math.nan)
    test = paired_t_test(*accuracies_of(pairs))
    return {
        "difference": 100 * test.mean_difference,
        "diff_ci95_low": 100 * test.ci_low,
        "diff_ci95_high": 100 * test.ci_high,
        "p": test.p,
        "paired_episodes": test.n,
    }


def _episodes_per_second(frame: pd.DataFrame) -> float:
    seconds = float(frame["seconds"].sum(skipna=False))
    return len(frame) / seconds if seconds > 0 else math.nan


def _versions(versions: Mapping[str, str]) -> str:
    return "; ".join(f"{package} {versions[package]}" for package in sorted(versions))
