"""Work through the points of a sweep, alone or beside other processes that do the same.

<sweep>/outcomes/                the usual store
<sweep>/points/<key>.json        which cells a complete point has, and how long it took
<sweep>/points/<key>.lock        held by the process that works on it; the system lets go of it when that ends
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from fewshot_bench.atomic import write_atomically
from fewshot_bench.episodes import Protocol
from fewshot_bench.errors import EpisodeError, FewshotBenchError, OutcomeError, StudyError
from fewshot_bench.outcomes import Cell
from fewshot_bench.progress import SILENT, Progress, Step
from fewshot_bench.stored_files import read_bytes
from fewshot_bench.study.chunk_queue import missing_episodes
from fewshot_bench.study.execute import run_study
from fewshot_bench.study.sweep import Point, Sweep

_PAUSE = 0.5  # seconds between two looks at points that others work on
_LARGEST = 64_000_000  # bytes of a record; each of its cells may list the sizes of many classes


@dataclass(frozen=True)
class FinishedPoint:
    """What a complete point has left.

    Attributes:
        cells: one per number of shots, in the order of the study.
        seconds: wall time of the run that completed it, a base stage included.
    """

    cells: tuple[Cell, ...]
    seconds: float


def finished_point(sweep: Sweep, point: Point) -> FinishedPoint | None:
    """What a point has left, if all of its episodes are stored.

    Raises:
        OutcomeError: stored outcomes are damaged.
    """
    try:
        record = json.loads(read_bytes(_place(sweep, point, ".json"), _LARGEST).decode())
        cells = tuple(Cell.from_json(json.dumps(cell)) for cell in record["cells"])
        finished = FinishedPoint(cells, float(record["seconds"]))
        planned = list(zip(cells, _protocols(point, cells), strict=True))
    except (OSError, ValueError, RecursionError, KeyError, TypeError, EpisodeError, OutcomeError):
        return None  # absent, or damaged: the study finds again what is stored
    missing = sum(
        len(numbers) for cell, protocol in planned for numbers in missing_episodes(sweep.store, cell, protocol)
    )
    return None if missing else finished


def _protocols(point: Point, cells: Sequence[Cell]) -> list[Protocol]:
    """The protocols of a point's cells; how many disjoint tasks there are depends on their class sizes."""
    sizes = cells[0].class_sizes if cells else ()
    return point.study.protocols(sizes or None)


def work_through(
    sweep: Sweep, points: Sequence[Point], *, progress: Progress = SILENT, arguments: Sequence[str] = ()
) -> None:
    """Bring points to completion: those that no other process works on, then wait for the others.

    A point that fails does not keep the others from running.

    Args:
        sweep: where they belong.
        points: distinct ones, in the order to try.
        progress: shown one unit per point.
        arguments: of the command line that asks for it, to be recorded.

    Raises:
        StudyError: points failed, the first for the reason that is given.
        OSError: the folder cannot be written to.
    """
    failures: list[str] = []
    (sweep.folder / "points").mkdir(parents=True, exist_ok=True)
    with progress.step(f"sweep {sweep.name}", len(points)) as step:
        pending = list(points)
        while pending:
            left = [point for point in pending if not _is_settled(sweep, point, failures, step, arguments)]
            if len(left) == len(pending):
                step.advance(0, "waiting for other processes")
                time.sleep(_PAUSE)
            pending = left
    if failures:
        raise StudyError(
            f"{len(failures)} of {len(points)} points failed; the others are stored, and a grid without these reuses "
            f"them. {failures[0]}"
        )


def _is_settled(sweep: Sweep, point: Point, failures: list[str], step: Step, arguments: Sequence[str]) -> bool:
    """Run a point unless it is complete; False if another process is at it."""
    if finished_point(sweep, point) is None:
        try:
            with FileLock(_place(sweep, point, ".lock"), timeout=0):
                if finished_point(sweep, point) is None:
                    _run(sweep, point, step, arguments)
        except Timeout:
            return False
        except FewshotBenchError as error:
            failures.append(f"{point}: {error}")
    step.advance(1)
    return True


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
    write_atomically(_place(sweep, point, ".json"), content.encode())


def _place(sweep: Sweep, point: Point, suffix: str) -> Path:
    return sweep.folder / "points" / f"{point.key}{suffix}"


class _Notes:
    """The stages of a point as notes beside the bar of the whole sweep, which would else be lost among theirs."""

    def __init__(self, bar: Step, point: str) -> None:
        self._bar, self._point = bar, point

    @contextmanager
    def step(self, description: str, total: int, *, unit: str = "") -> Iterator[Step]:
        """Show a stage by its share."""
        yield _Share(self._bar, f"{self._point}: {description}", total)


class _Share:
    def __init__(self, bar: Step, text: str, total: int) -> None:
        self._bar, self._text, self._total, self._done = bar, text, total, 0

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Say how far the stage is."""
        self._done += amount
        share = f" {self._done / self._total:.0%}" if self._total else ""
        self._bar.advance(0, f"{self._text}{share}")
