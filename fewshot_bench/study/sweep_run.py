"""Run a sweep: its points on the scheduler, then its table and the best configuration.

<sweep>/outcomes/                the usual store
<sweep>/points/<key>.json        the cells of a complete point, and how long it took
<sweep>/leases/                  the points that processes are working on
<sweep>/sweep.csv, best.toml     the table and the best configuration, which `run --setting` reads
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import tomli_w

from fewshot_bench._io.notebooks import html_facts
from fewshot_bench._io.storage import read_bytes, write_atomically
from fewshot_bench._io.versions import installed_versions
from fewshot_bench.arguments import checked_arguments
from fewshot_bench.errors import EpisodeError, FewshotBenchError, OutcomeError, StudyError
from fewshot_bench.outcomes import Cell
from fewshot_bench.outcomes.cell import STANDARD_SAMPLER
from fewshot_bench.outcomes.leases import Leases, PointKey
from fewshot_bench.progress import SILENT, Progress, Step
from fewshot_bench.report import SweptPoint, sweep_frame, write_leaderboard
from fewshot_bench.study.best_configuration import (
    HEADER,
    RULE,
    BestConfiguration,
    method_fields,
)
from fewshot_bench.study.chunks import missing_episodes
from fewshot_bench.study.run import run_study
from fewshot_bench.study.scheduler import Scheduler
from fewshot_bench.study.sweep import Point, Sweep

_LARGEST = 64_000_000  # bytes of a record; each of its cells may list the sizes of many classes


@dataclass(frozen=True)
class FinishedPoint:
    """A complete point: a cell per training and number of shots, and the wall time of the run that completed it."""

    cells: tuple[Cell, ...]
    seconds: float


def finished_point(sweep: Sweep, point: Point) -> FinishedPoint | None:
    """The record of a point if all of its episodes are stored, else None; raises OutcomeError for damage."""
    try:
        record = json.loads(read_bytes(_record_path(sweep, point), _LARGEST).decode())
        cells = tuple(Cell.from_json(json.dumps(cell)) for cell in record["cells"])
        finished = FinishedPoint(cells, float(record["seconds"]))
        # How many disjoint tasks there are depends on the class sizes.
        protocols = point.study.protocols((cells[0].class_sizes if cells else ()) or None)
        planned = list(zip(cells, protocols * len(point.study.seeds_of_trainings), strict=True))
    except (OSError, ValueError, RecursionError, KeyError, TypeError, EpisodeError, OutcomeError):
        return None  # absent or damaged; running the study finds what is stored
    runs = [numbers for cell, protocol in planned for numbers in missing_episodes(sweep.store, cell, protocol)]
    return None if any(map(len, runs)) else finished


def work_through(
    sweep: Sweep, points: Sequence[Point], *, progress: Progress = SILENT, arguments: Sequence[str] = ()
) -> None:
    """Run the points that are not complete, beside other processes that do the same, and wait for theirs.

    A point that fails does not stop the others.

    Args:
        sweep: of the points.
        points: distinct ones, in the order to try.
        progress: shown one unit per point.
        arguments: the command line, to be recorded.

    Raises:
        StudyError: points failed; the sentence has the reason of the first.
        OSError: the folder cannot be written to.
    """
    (sweep.folder / "points").mkdir(parents=True, exist_ok=True)
    with progress.step(f"sweep {sweep.name}", len(points)) as step:
        scheduler = _PointScheduler(sweep, points, step, arguments)
        scheduler.run()
    Leases(sweep.folder).clean()
    if scheduler.failures:
        raise StudyError(
            f"{len(scheduler.failures)} of {len(points)} points failed; the others are stored, and a grid without "
            f"these reuses them. {scheduler.failures[0]}"
        )


class _PointScheduler(Scheduler):
    """Works at the points of a sweep, one at a time; each has a lease."""

    pause = 0.5

    def __init__(self, sweep: Sweep, points: Sequence[Point], step: Step, arguments: Sequence[str]) -> None:
        super().__init__([Leases(sweep.folder)], step)
        self._sweep, self._arguments = sweep, arguments
        self._pending = list(points)
        self.failures: list[str] = []
        step.advance(self.drop_stored())

    def work(self) -> bool:
        """Run the first point that no other process holds."""
        (leases,), pending = self._leases, self._pending
        snapshot = leases.snapshot()
        for point in pending:
            lease = leases.take(PointKey(point.key), snapshot)
            if lease is not None:
                pending.remove(point)
                self._complete(point)
                lease.release()
                self._step.advance(1)
                return True
        return False

    def is_done(self) -> bool:
        """See `Scheduler`."""
        return not self._pending

    def drop_stored(self) -> int:
        """See `Scheduler`."""
        before = len(self._pending)
        self._pending = [point for point in self._pending if finished_point(self._sweep, point) is None]
        return before - len(self._pending)

    def _complete(self, point: Point) -> None:
        """Run a point, unless another process completed it before its lease was taken."""
        try:
            if finished_point(self._sweep, point) is None:
                _run(self._sweep, point, self._step, self._arguments)
        except FewshotBenchError as error:
            self.failures.append(f"{point}: {error}")


def _run(sweep: Sweep, point: Point, step: Step, arguments: Sequence[str]) -> None:
    step.advance(0, str(point))
    result = run_study(point.study, progress=_Notes(step, str(point)), arguments=arguments)
    if result.failures:
        raise StudyError(f"{result.failed:,} episodes failed: {result.failures[0][2]}")
    record = {
        "values": point.values,
        "seconds": round(result.seconds, 3),
        "cells": [json.loads(cell.as_json()) for cell in result.cells],
    }
    content = json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    write_atomically(_record_path(sweep, point), content.encode())


def _record_path(sweep: Sweep, point: Point) -> Path:
    return sweep.folder / "points" / f"{point.key}.json"


class _Notes:
    """Shows the stages of a point as notes beside the bar of the sweep, whose bar would be lost among theirs."""

    def __init__(self, bar: Step, point: str) -> None:
        self._bar, self._point = bar, point

    @contextmanager
    def step(self, description: str, total: int, *, unit: str = "") -> Iterator[Step]:
        """Open a stage."""
        yield _Share(self._bar, f"{self._point}: {description}", total)


class _Share:
    def __init__(self, bar: Step, text: str, total: int) -> None:
        self._bar, self._text, self._total, self._done = bar, text, total, 0

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Show the share of the stage that is done."""
        self._done += amount
        share = f" {self._done / self._total:.0%}" if self._total else ""
        self._bar.advance(0, f"{self._text}{share}")


@dataclass(frozen=True, eq=False, repr=False)
class SweepResult:
    """A complete sweep: a row per point and shot, see `sweep_frame`, the best configuration, and their files."""

    frame: pd.DataFrame
    best: BestConfiguration
    csv: Path
    best_path: Path

    def __repr__(self) -> str:
        return f"<SweepResult: {len(self.frame):,} rows in {self.csv}, the best in {self.best_path}>"

    def _repr_html_(self) -> str:
        return html_facts("Sweep", {"rows": len(self.frame), "table": self.csv, "best": self.best_path})


@checked_arguments
def run_sweep(sweep: Sweep, *, progress: Progress = SILENT) -> SweepResult:
    """Run the points that are not complete, choose the best, and write sweep.csv and best.toml.

    Args:
        sweep: of `plan_sweep`.
        progress: shown one unit per point.

    Raises:
        StudyError: a point failed.
        OSError: the folder cannot be written to.

    >>> import fewshot_bench as fb
    >>> study = fb.Study(checkpoints=("glyphs-conv4",), adaptations=("ridge",), episodes=100)
    >>> grid = fb.Grid((fb.Axis("penalty", (0.1, 1.0, 10.0)),))
    >>> fb.run_sweep(fb.plan_sweep(study, grid)).best.chosen  # doctest: +SKIP
    {'penalty': 0.1}
    """
    work_through(sweep, sweep.distinct_points(), progress=progress)
    return conclude(sweep)


def unfinished_points(sweep: Sweep) -> int:
    """How many of the distinct points are not complete."""
    return sum(finished_point(sweep, point) is None for point in sweep.distinct_points())


def conclude(sweep: Sweep) -> SweepResult:
    """Choose the best point and write sweep.csv and best.toml; raises StudyError if a point is incomplete."""
    points = sweep.distinct_points()
    complete = {point.key: done for point in points if (done := finished_point(sweep, point)) is not None}
    if len(complete) < len(points):
        raise StudyError(
            f"{len(points) - len(complete)} of {len(points)} points of the sweep {sweep.name} are not complete. "
            "Run the same command again."
        )
    swept = [SweptPoint(point.values, complete[point.key].cells) for point in sweep.points]
    protocols = sweep.study.protocols(swept[0].cells[0].class_sizes or None)
    episodes, runs = (max(getattr(protocol, field) for protocol in protocols) for field in ("episodes", "runs"))
    frame = sweep_frame(sweep.store, swept, episodes=episodes, runs=runs)
    best = _best_configuration(sweep, frame, complete)
    result = SweepResult(frame, best, sweep.folder / "sweep.csv", sweep.folder / "best.toml")
    write_leaderboard(frame, result.csv)
    write_atomically(result.best_path, (HEADER + tomli_w.dumps(best.model_dump())).encode())
    return result


def _best_configuration(sweep: Sweep, frame: pd.DataFrame, complete: dict[str, FinishedPoint]) -> BestConfiguration:
    rows = frame[frame["is_best"]]
    values = sweep.points[int(rows.index[0]) // len(sweep.study.shots)].values
    protocol = complete[sweep.points[0].key].cells[0].protocol
    return BestConfiguration(
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
            "seconds": round(sum(point.seconds for point in complete.values()), 1),
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
