"""How far the studies of a results folder are, and the table that shows it.

A folder is read by the names of its files, which is cheap, and never by a lock.
"""

from __future__ import annotations

import math
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.cells import set_cell_size
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from fewshot_bench._io.locations import Location
from fewshot_bench._io.resuming import command_for, resume_command
from fewshot_bench._io.storage import folders_in
from fewshot_bench._io.text import printable
from fewshot_bench.errors import OutcomeError
from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.outcomes.leases import Leases
from fewshot_bench.outcomes.manifest import read_manifest
from fewshot_bench.outcomes.study_log import DID_ITS_PART, PlannedCell, RecordedStudy, recorded_studies
from fewshot_bench.report.names import marked_names, short_name, without_common_prefix
from fewshot_bench.units import duration_text, rate_text

_RATE_WINDOW, _SHORTEST_RATE = 60.0, 2.0  # seconds that a rate is measured over, at most and at least
_KEY = re.compile(r"[0-9a-f]{16}")
_NARROWEST, _WIDEST = 70, 120
_COLUMNS = {"episodes": 15, "%": 3, "failed": 6, "ep/s": 6, "left": 8, "workers": 7}
_OTHER_LINES = 8  # beside those of methods and cells
_REFRESH = 1.0  # seconds
_REFRESH_SHARE = 10
"""How many times as long as a snapshot takes, as at a network disk, the table waits for the next."""


@dataclass(frozen=True)
class CellState:
    """How far one cell is.

    Attributes:
        dataset: its name.
        task: dataset, split and size of its tasks.
        method: its name.
        key: of the stored cell; empty where the base stage is still to be trained.
        done: episodes that are stored, of those that were planned.
        planned: of all runs; None where no study is recorded.
        failed: episodes that failed and are not stored.
        workers: processes that hold leases of it.
        rate: episodes per second; None where it is unknown.
        stops_early: whether fewer than planned may be enough.
        is_over: whether its study has nothing left to do, although fewer than planned are stored.
        problem: why its progress is unknown; empty where it is known.
        is_transductive: whether the method sees all queries of an episode at once.
    """

    dataset: str
    task: str
    method: str
    key: str
    done: int
    planned: int | None
    failed: int = 0
    workers: tuple[str, ...] = ()
    rate: float | None = None
    stops_early: bool = False
    is_over: bool = False
    problem: str = ""
    is_transductive: bool = False

    @property
    def left(self) -> int:
        """Episodes that are still to be done."""
        return 0 if self.planned is None or self.is_over else max(0, self.planned - self.done - self.failed)

    @property
    def seconds_left(self) -> float | None:
        """With its present workers, at its rate; None where that is unknown."""
        if not self.left:
            return 0.0
        return self.left / self.rate if self.rate else None

    @property
    def seconds_alone(self) -> float | None:
        """With one process; None where no rate is known."""
        return None if self.seconds_left is None else self.seconds_left * max(1, len(self.workers))

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {**asdict(self), "left": self.left, "seconds_left": self.seconds_left}


@dataclass(frozen=True)
class StudyState:
    """How far everything in a results folder is.

    Attributes:
        cells: of the recorded studies; without any, those that are stored.
        others: stored cells that belong to none of these studies.
        processes: running ones, as far as leases and records show.
        command: resumes a study that is not finished; empty where it is unknown.
        ended: how the last process ended, where none runs and the study is not finished.
        problems: records that cannot be read.
    """

    cells: tuple[CellState, ...]
    others: int = 0
    processes: int = 0
    command: str = ""
    ended: str = ""
    problems: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to do."""
        return not any(cell.left or cell.problem for cell in self.cells)

    @property
    def seconds_left(self) -> float | None:
        """Seconds with as many processes as now, at the mean rate where a cell has none; None if unknown."""
        unfinished = [cell for cell in self.cells if cell.left]
        known = [(cell.left, cell.seconds_alone) for cell in unfinished if cell.seconds_alone is not None]
        episodes, seconds = sum(left for left, _ in known), sum(seconds for _, seconds in known)
        if not unfinished:
            return 0.0
        if not episodes:
            return None
        return seconds / episodes * sum(cell.left for cell in unfinished) / max(1, self.processes)

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {
            **asdict(self),
            "cells": [cell.as_dict() for cell in self.cells],
            "is_complete": self.is_complete,
            "seconds_left": self.seconds_left,
        }


class Watch:
    """Takes snapshots of a results folder, and remembers what cannot change."""

    def __init__(self, results: Location, *, now: Callable[[], float] = time.monotonic) -> None:
        """Read nothing yet; `now` gives seconds of a clock that never goes back."""
        self.results, self._now = results, now
        self._store = OutcomeStore(results / "outcomes")
        self._described: dict[str, Cell] = {}
        self._complete: dict[tuple[str, int, int], CellState] = {}
        self._counts: dict[str, deque[tuple[float, int]]] = {}
        self._recorded_rates: dict[str, float | None] = {}
        self._silent: set[str] = set()

    def look(self) -> StudyState:
        """Take a snapshot; raises OutcomeError if the folder has neither outcomes nor studies."""
        studies, problems = recorded_studies(self.results)
        processes = [process for study in studies for process in study.processes]
        present = {process.owner for process in processes if process.is_there}  # at one of its studies
        self._silent = {process.owner for process in processes if process.is_silent} - present
        cells = self._planned_cells(studies)
        stored = self._stored_cells(problems)
        known = {cell.key for cell in cells}
        if not studies:
            stored.sort(key=lambda cell: (cell.method.name, cell.protocol.task, cell.key))
            cells = [self._state(_unplanned(cell), cell.key, None) for cell in stored]
        if not cells and not problems:
            raise OutcomeError(
                f"{self.results} has neither outcomes nor studies. Start one: fewshot-bench run --results "
                f"{self.results}; or name another folder with --results."
            )
        others = sum(cell.key not in known for cell in stored) if studies else 0
        state = _with_processes(StudyState(tuple(cells), others, problems=tuple(problems)), studies)
        did_its_part = state.ended == DID_ITS_PART
        command = resume_command(state.command, self.results, did_its_part=did_its_part) if state.command else ""
        return replace(state, command=command)

    def _planned_cells(self, studies: list[RecordedStudy]) -> list[CellState]:
        """The cells of all studies, each once: of a cell that several plan, the plan with the most episodes."""
        states: dict[tuple[str, ...], CellState] = {}
        for study in studies:
            for number, planned in enumerate(study.cells):
                for key in study.keys.get(number, ("",)):
                    state = self._state(planned, key, study)
                    name = (key,) if key else (study.id, str(number))
                    known = states.get(name)
                    if known is None or (known.planned or 0) < (state.planned or 0):
                        states[name] = state
        return list(states.values())

    def _stored_cells(self, problems: list[str]) -> list[Cell]:
        """Every cell with a description, by key."""
        cells = []
        for key in filter(_KEY.fullmatch, folders_in(self._store.folder)):
            try:
                cell = self._cell(key)
            except OutcomeError as error:
                problems.append(str(error))
            else:
                cells += [] if cell is None else [cell]
        return cells

    def _state(self, planned: PlannedCell, key: str, study: RecordedStudy | None) -> CellState:
        count = None if study is None else planned.runs * planned.episodes
        state = CellState(planned.dataset, planned.task, planned.method, key, 0, count)
        state = replace(state, is_transductive=planned.is_transductive)
        if study is not None:
            is_over = study.is_finished and (study.stops_early or not key)
            failed = count or 0 if is_over and not key else 0  # its base stage failed
            state = replace(state, stops_early=study.stops_early, is_over=is_over, failed=failed)
        if not key:
            return state
        name = (key, planned.runs, planned.episodes)
        if name not in self._complete:
            try:
                state = self._stored_state(state, planned if study is not None else None)
            except OutcomeError as error:
                return replace(state, problem=str(error))
            if state.planned is None or state.done < state.planned:
                return state
            self._complete[name] = state
        return self._complete[name]

    def _stored_state(self, state: CellState, planned: PlannedCell | None) -> CellState:
        """A cell as its folder shows it; raises OutcomeError if something in it is damaged."""
        cell = self._cell(state.key)
        if cell is None:
            return state
        failures: dict[int, list[NDArray[np.int64]]] = {}
        for failure in self._store.failures(cell):
            failures.setdefault(failure.run, []).append(failure.episodes)
        failed = {run: np.unique(np.concatenate(numbers)) for run, numbers in failures.items()}
        owners = {*Leases(self._store.folder / state.key).owners().values()} - self._silent
        state = replace(
            state,
            done=_count(self._store.done(cell), planned),
            failed=_count(failed, planned),
            workers=tuple(sorted(owners)),
            is_transductive=cell.method.is_transductive,
        )
        return replace(state, rate=self._rate(cell, state))

    def _cell(self, key: str) -> Cell | None:
        """A stored cell; None where nothing of it is stored yet."""
        if key not in self._described:
            try:
                self._described[key] = read_manifest(self._store.folder / key).cell
            except FileNotFoundError:
                return None
        return self._described[key]

    def _rate(self, cell: Cell, state: CellState) -> float | None:
        """Episodes per second, between snapshots or else by the recorded seconds; None where both are unknown."""
        now, counts = self._now(), self._counts.setdefault(cell.key, deque())
        counts.append((now, state.done))
        while len(counts) > 1 and counts[1][0] <= now - _RATE_WINDOW:
            counts.popleft()
        seconds, episodes = now - counts[0][0], state.done - counts[0][1]
        if seconds >= _SHORTEST_RATE and episodes > 0:
            return episodes / seconds
        if not state.left or not state.done:
            return None
        if cell.key not in self._recorded_rates:
            mean = float(self._store.read(cell, with_predictions=False)["seconds"].mean())
            self._recorded_rates[cell.key] = 1 / mean if math.isfinite(mean) and mean > 0 else None
        rate = self._recorded_rates[cell.key]
        return None if rate is None else rate * max(1, len(state.workers))


def _count(numbers: Mapping[int, NDArray[np.int64]], planned: PlannedCell | None) -> int:
    """How many episodes there are, by run; of a planned cell only those that the plan has."""
    if planned is None:
        return sum(len(episodes) for episodes in numbers.values())
    return sum(int((episodes < planned.episodes).sum()) for run, episodes in numbers.items() if run < planned.runs)


def _unplanned(cell: Cell) -> PlannedCell:
    return PlannedCell(cell.protocol.dataset, cell.protocol.task, cell.method.name, 0, 0, cell.method.is_transductive)


def _with_processes(state: StudyState, studies: list[RecordedStudy]) -> StudyState:
    """With the running processes, the resume command, and how the last process ended."""
    processes = [process for study in studies if not study.is_finished for process in study.processes]
    running = {process.owner for process in processes if process.is_there}
    running |= {owner for cell in state.cells for owner in cell.workers}
    last = max(processes, key=lambda process: process.began, default=None)
    if last is None:
        return replace(state, processes=len(running))
    return replace(state, processes=len(running), command=last.command, ended="" if running else last.ended)


def show_live(watch: Watch, results: str, console: Console) -> None:
    """Show how far everything is, every second, until it is complete or the user stops it; raises as `look`."""
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            began = time.monotonic()
            state = watch.look()
            height = None if state.is_complete else console.height
            live.update(status_text(state, results, width=console.width, height=height), refresh=True)
            if state.is_complete:
                return
            time.sleep(max(_REFRESH, _REFRESH_SHARE * (time.monotonic() - began)))


def status_text(state: StudyState, results: str, *, width: int = 80, height: int | None = None) -> Group:
    """A table of the cells, method by method, with a line of totals, then what to do next.

    Args:
        state: at one moment.
        results: the folder, as the user wrote it.
        width: columns of the terminal.
        height: its lines, if only so many may be used: idle cells are left out first.
    """
    room, width = max(_NARROWEST, width), min(_WIDEST, max(_NARROWEST, width))
    shown = _fitting(state.cells, height)
    rule = Text("-" * width, "dim")
    methods = list(dict.fromkeys(printable(cell.method) for cell in shown))
    shared, shortened = without_common_prefix(methods)
    heading = f"{shared}…" if shared else ""
    if len(heading) > width - sum(1 + columns for columns in _COLUMNS.values()):
        heading, shortened = "", methods
    short = dict(zip(methods, shortened, strict=True))
    parts: list[RenderableType] = [_row(heading, "", list(_COLUMNS), width), rule]
    for (method, is_transductive), cells in groupby(shown, key=lambda cell: (cell.method, cell.is_transductive)):
        name = short[printable(method)]
        parts.append(Text(marked_names([name], [name] if is_transductive else [], room)[0], "bold"))
        parts += [_row(f"  {cell.task}", _style(cell), _numbers(cell), width) for cell in cells]
    if len(state.cells) > 1:
        parts += [rule, _row("all", "bold", _totals(state), width)]
    lines = _lines(state, results, len(state.cells) - len(shown))
    return Group(*parts, Text(), *(Text(printable(line)) for line in lines))


def _row(label: str, style: str, texts: Sequence[str], width: int) -> Text:
    """A line of the table: its label, as far as the numbers leave room, and a text for every column."""
    numbers = "".join(f" {text:>{columns}}" for text, columns in zip(texts, _COLUMNS.values(), strict=True))
    room = max(0, width - len(numbers))
    return Text.assemble((set_cell_size(short_name(printable(label), room), room), style), numbers, no_wrap=True)


def _style(cell: CellState) -> str:
    if cell.problem or cell.failed:
        return "red"
    return "green" if cell.workers else "" if cell.left else "dim"


def _numbers(cell: CellState) -> list[str]:
    if cell.problem:
        return ["damaged", "", "", "", "", ""]
    failed, workers = _or_nothing(cell.failed), _or_nothing(len(cell.workers))
    if cell.planned is None:
        return [f"{cell.done:,}", "", failed, "", "", workers]
    episodes = f"{cell.done:,}/{'<=' if cell.stops_early and cell.left else ''}{cell.planned:,}"
    rate = "" if cell.rate is None or not cell.left else rate_text(cell.rate)
    return [
        episodes,
        _percent(cell.done, cell.planned),
        failed,
        rate,
        _time_left(cell.left, cell.seconds_left),
        workers,
    ]


def _totals(state: StudyState) -> list[str]:
    done, failed = sum(cell.done for cell in state.cells), _or_nothing(sum(cell.failed for cell in state.cells))
    workers = _or_nothing(state.processes)
    if any(cell.planned is None for cell in state.cells):
        return [f"{done:,}", "", failed, "", "", workers]
    planned = sum(cell.planned or 0 for cell in state.cells)
    left = _time_left(not state.is_complete, state.seconds_left)
    return [f"{done:,}/{planned:,}", _percent(done, planned), failed, "", left, workers]


def _lines(state: StudyState, results: str, left_out: int) -> Iterator[str]:
    """What is below the table: problems, the state of the study, and what to type."""
    if left_out:
        yield f"{left_out} idle cells not shown; --once shows all"
    yield from (f"{cell.key}: {cell.problem}" for cell in state.cells if cell.problem)
    yield from state.problems
    if state.others:
        yield f"{state.others} more stored cells belong to no recorded study"
    command = command_for(["leaderboard"], results)
    if all(cell.planned is None for cell in state.cells):
        yield "no study is recorded, so the planned number of episodes is unknown"
    elif state.is_complete:
        failed = sum(cell.failed for cell in state.cells)
        yield f"complete, but {failed:,} episodes failed: run tries them again" if failed else "complete"
    elif state.processes:
        yield f"{state.processes} process{'' if state.processes == 1 else 'es'} running"
    else:
        yield f"no process running{f'; the last one: {state.ended}' if state.ended else ''}"
        command = state.command or f"the same {command_for(['run'], results)}"
    yield f"next         {command}"


def _fitting(cells: Sequence[CellState], height: int | None) -> Sequence[CellState]:
    """Those that there is room for, in their order: running cells first, then what is not complete."""
    methods = len(list(groupby(cells, key=lambda cell: cell.method)))
    if height is None or len(cells) + methods + _OTHER_LINES <= height:
        return cells
    by_interest = sorted(cells, key=lambda cell: (not cell.workers, not cell.problem, not cell.left))
    room = max(1, (height - _OTHER_LINES) // 2)  # half the lines may be names of methods
    chosen = {id(cell) for cell in by_interest[:room]}
    return [cell for cell in cells if id(cell) in chosen]


def _percent(done: int, planned: int) -> str:
    """Rounded down, since 100 means that everything is there."""
    return f"{100 * done // planned}" if planned else ""


def _or_nothing(count: int) -> str:
    return f"{count:,}" if count else ""


def _time_left(left: int, seconds: float | None) -> str:
    return "" if not left else "?" if seconds is None else duration_text(seconds)
