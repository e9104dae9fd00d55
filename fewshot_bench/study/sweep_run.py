"""The end of a sweep: its table, the setting it chooses, and both on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fewshot_bench.errors import StudyError
from fewshot_bench.outcomes.cell import STANDARD_SAMPLER
from fewshot_bench.progress import SILENT, Progress
from fewshot_bench.report import SweptPoint, sweep_frame, write_leaderboard
from fewshot_bench.study.setting import RULE, Setting, method_fields, write_setting
from fewshot_bench.study.sweep import Sweep
from fewshot_bench.study.sweep_points import FinishedPoint, finished_point, work_through
from fewshot_bench.versions import installed_versions


@dataclass(frozen=True)
class SweepResult:
    """A complete sweep.

    Attributes:
        frame: a row per point and shot, see `sweep_frame`.
        setting: what was chosen.
        csv: where the frame is written.
        setting_path: where the setting is written.
    """

    frame: pd.DataFrame
    setting: Setting
    csv: Path
    setting_path: Path


def run_sweep(sweep: Sweep, *, progress: Progress = SILENT) -> SweepResult:
    """Run every point that is not complete yet, choose the best, and write sweep.csv and best.toml.

    Args:
        sweep: as `plan_sweep` lays it out.
        progress: shown one unit per point.

    Raises:
        StudyError: a point failed.
        OSError: the folder cannot be written to.
    """
    work_through(sweep, sweep.distinct_points(), progress=progress)
    return conclude(sweep)


def unfinished_points(sweep: Sweep) -> int:
    """How many of the distinct points are not complete."""
    return sum(finished_point(sweep, point) is None for point in sweep.distinct_points())


def conclude(sweep: Sweep) -> SweepResult:
    """Summarise a complete sweep, choose the best point, and write sweep.csv and best.toml.

    Raises:
        StudyError: a point is not complete.
    """
    finished = {point.key: finished_point(sweep, point) for point in sweep.distinct_points()}
    complete = {key: left for key, left in finished.items() if left is not None}
    if len(complete) < len(finished):
        raise StudyError(
            f"{len(finished) - len(complete)} of {len(finished)} points of the sweep {sweep.name} are not complete. "
            "Run the same command again."
        )
    swept = [SweptPoint(point.values, complete[point.key].cells) for point in sweep.points]
    protocols = sweep.study.protocols(swept[0].cells[0].class_sizes or None)
    episodes, runs = (max(getattr(protocol, field) for protocol in protocols) for field in ("episodes", "runs"))
    frame = sweep_frame(sweep.store, swept, episodes=episodes, runs=runs)
    result = SweepResult(
        frame, _setting(sweep, frame, complete), sweep.folder / "sweep.csv", sweep.folder / "best.toml"
    )
    write_leaderboard(frame, result.csv)
    write_setting(result.setting, result.setting_path)
    return result


def _setting(sweep: Sweep, frame: pd.DataFrame, complete: dict[str, FinishedPoint]) -> Setting:
    rows = frame[frame["is_best"]]
    values = sweep.points[int(rows.index[0]) // len(sweep.study.shots)].values
    protocol = complete[sweep.points[0].key].cells[0].protocol
    return Setting(
        sweep=sweep.name,
        rule=RULE,
        chosen=values,
        method=method_fields(sweep.study, values),
        accuracy={f"{row['shot']}-shot": _rounded(row) for row in rows.to_dict("records")},
        budget={
            "shots": list(sweep.study.shots),
            "episodes": int(rows["episodes"].max()),
            "runs": int(rows["runs"].max()),
            "points": len(sweep.points),
            "points_run": len(complete),
            "seconds": round(sum(left.seconds for left in complete.values()), 1),
        },
        grid={axis.name: list(axis.values) for axis in sweep.grid.axes},
        protocol={
            "dataset": protocol.dataset,
            "dataset_fingerprint": protocol.dataset_fingerprint,
            "split": protocol.split,
            "way": protocol.way,
            "query": protocol.query,
            "seed": protocol.seed,
            "sampler_version": protocol.sampler_version,
            **({"sampler": protocol.sampler} if protocol.sampler != STANDARD_SAMPLER else {}),
            **protocol.sampler_settings,
        },
        versions=installed_versions(),
    )


def _rounded(row: dict[Any, Any]) -> dict[str, float]:
    return {name: round(float(row[name]), 4) for name in ("mean", "ci95", "median") if row[name] == row[name]}
