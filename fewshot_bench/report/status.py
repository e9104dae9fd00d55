"""How far the studies of a results folder are, at one moment.

Look at a results folder, again and again: by the names of files, which is cheap, and never by a lock.

How fast cells are: measured between looks, or by the seconds that their episodes took.

How far studies are, as a table of at most 80 columns.

The table of studies that are under way, shown anew every second.
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

from fewshot_bench._io.locations import Place
from fewshot_bench._io.resuming import command_for, command_in
from fewshot_bench._io.storage import folders_in
from fewshot_bench._io.text import printable
from fewshot_bench.errors import OutcomeError
from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.outcomes.leases import leases_of
from fewshot_bench.outcomes.manifest import read_manifest
from fewshot_bench.outcomes.study_log import DID_ITS_PART, PlannedCell, RecordedStudy, recorded_studies
from fewshot_bench.report.names import marked_names, short_name


@dataclass(frozen=True)
class CellState:
    """How far one cell is.

    Attributes:
        dataset: its name.
        task: dataset, split and size of its tasks.
        method: its name.
        key: of the stored cell; empty where the base stage is still to be trained.
        done: episodes that are stored, of those that were planned.
        planned: of all runs; None where no study says.
        failed: episodes that failed and are not stored.
        workers: processes that hold leases of it.
        rate: episodes per second; None where it is not known.
        stops_early: whether fewer than planned may be enough.
        is_over: whether its study has nothing left to do, although fewer than planned are stored.
        problem: why nobody can say how far it is; empty where there is none.
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
        """For those who are at it, at its rate; None where that is not known."""
        if not self.left:
            return 0.0
        return self.left / self.rate if self.rate else None

    @property
    def seconds_alone(self) -> float | None:
        """For one process; None where no rate is known."""
        return None if self.seconds_left is None else self.seconds_left * max(1, len(self.workers))

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {**asdict(self), "left": self.left, "seconds_left": self.seconds_left}


@dataclass(frozen=True)
class StudyState:
    """How far everything in a results folder is.

    Attributes:
        cells: of the studies that are written down there; of a folder without such, those that are stored.
        others: stored cells that belong to none of these studies.
        processes: that are at work, as far as anybody can see.
        command: what goes on with a study that is not finished; empty where nobody knows.
        ended: how the last process ended, where nobody is at work and it was not by finishing.
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
        """Until everything is done, if as many processes go on as are at work; None where nobody knows.

        Cells of which no rate is known yet are taken to be as fast as the others on average.
        """
        waiting = [cell for cell in self.cells if cell.left]
        known = [(cell.left, cell.seconds_alone) for cell in waiting if cell.seconds_alone is not None]
        episodes, seconds = sum(left for left, _ in known), sum(seconds for _, seconds in known)
        if not waiting:
            return 0.0
        if not episodes:
            return None
        return seconds / episodes * sum(cell.left for cell in waiting) / max(1, self.processes)

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {
            **asdict(self),
            "cells": [cell.as_dict() for cell in self.cells],
            "is_complete": self.is_complete,
            "seconds_left": self.seconds_left,
        }


_WINDOW = 60.0  # seconds that a rate is measured over
_ENOUGH = 2.0
"""Seconds that a measurement takes at least."""


class Rates:
    """Episodes per second of each cell."""

    def __init__(self, store: OutcomeStore, now: Callable[[], float]) -> None:
        self._store, self._now = store, now
        self._looks: dict[str, deque[tuple[float, int]]] = {}
        self._recorded: dict[str, float | None] = {}

    def of(self, cell: Cell, state: CellState) -> float | None:
        """The rate of a cell that is not complete; None where nobody knows.

        Args:
            cell: whose.
            state: as it is now.
        """
        now = self._now()
        looks = self._looks.setdefault(cell.key, deque())
        looks.append((now, state.done))
        while len(looks) > 1 and looks[1][0] <= now - _WINDOW:
            looks.popleft()
        seconds, episodes = now - looks[0][0], state.done - looks[0][1]
        if seconds >= _ENOUGH and episodes > 0:
            return episodes / seconds
        return self._by_seconds(cell, state)

    def _by_seconds(self, cell: Cell, state: CellState) -> float | None:
        """From the seconds that its episodes took, which are read once, for as many as work at it."""
        if not state.left or not state.done:
            return None
        if cell.key not in self._recorded:
            mean = float(self._store.read(cell, with_predictions=False)["seconds"].mean())
            self._recorded[cell.key] = 1 / mean if math.isfinite(mean) and mean > 0 else None
        alone = self._recorded[cell.key]
        return None if alone is None else alone * max(1, len(state.workers))


_KEY = re.compile(r"[0-9a-f]{16}")


class Watch:
    """Somebody who looks at a results folder, and remembers what cannot change."""

    def __init__(self, results: Place, *, now: Callable[[], float] = time.monotonic) -> None:
        """Look at nothing yet.

        Args:
            results: the folder.
            now: seconds of a clock that never goes back.
        """
        self.results = results
        self._store = OutcomeStore(results / "outcomes")
        self._described: dict[str, Cell] = {}
        self._complete: dict[tuple[str, int, int], CellState] = {}
        self._rates = Rates(self._store, now)
        self._silent: set[str] = set()

    def look(self) -> StudyState:
        """How far everything is now.

        Raises:
            OutcomeError: there is nothing in the folder to look at.
        """
        studies, problems = recorded_studies(self.results)
        processes = [process for study in studies for process in study.processes]
        there = {process.owner for process in processes if process.is_there}  # at one of its studies
        self._silent = {process.owner for process in processes if process.is_silent} - there
        cells = self._of_studies(studies)
        stored = self._stored(problems)
        known = {cell.key for cell in cells}
        if not studies:
            stored.sort(key=lambda cell: (cell.method.name, cell.protocol.task, cell.key))
            cells = [self._state(_unplanned(cell), cell.key, None) for cell in stored]
        if not cells and not problems:
            raise OutcomeError(
                f"{self.results} has neither outcomes nor studies. Begin one: fewshot-bench run --results "
                f"{self.results}; or name another folder with --results."
            )
        others = sum(cell.key not in known for cell in stored) if studies else 0
        state = _with_processes(StudyState(tuple(cells), others, problems=tuple(problems)), studies)
        did_its_part = state.ended == DID_ITS_PART
        command = command_in(state.command, self.results, did_its_part=did_its_part) if state.command else ""
        return replace(state, command=command)

    def _of_studies(self, studies: list[RecordedStudy]) -> list[CellState]:
        """The cells of all studies, each once: of a cell that several plan, the plan with the most episodes."""
        states: dict[tuple[str, ...], CellState] = {}
        for study in studies:
            for number, planned in enumerate(study.cells):
                for key in study.keys.get(number, ("",)):
                    state = self._state(planned, key, study)
                    name = (key,) if key else (study.id, str(number))
                    before = states.get(name)
                    if before is None or (before.planned or 0) < (state.planned or 0):
                        states[name] = state
        return list(states.values())

    def _stored(self, problems: list[str]) -> list[Cell]:
        """Every cell that is described there, by key."""
        found = []
        for key in filter(_KEY.fullmatch, folders_in(self._store.folder)):
            try:
                cell = self._cell(key)
            except OutcomeError as error:
                problems.append(str(error))
                continue
            found += [] if cell is None else [cell]
        return found

    def _state(self, planned: PlannedCell, key: str, study: RecordedStudy | None) -> CellState:
        count = None if study is None else planned.runs * planned.episodes
        state = CellState(planned.dataset, planned.task, planned.method, key, 0, count)
        state = replace(state, is_transductive=planned.is_transductive)
        if study is not None:
            is_over = study.is_finished and (study.stops_early or not key)
            gave_none = is_over and not key  # its base stage came to nothing
            failed = planned.runs * planned.episodes if gave_none else 0
            state = replace(state, stops_early=study.stops_early, is_over=is_over, failed=failed)
        if not key:
            return state
        name = (key, planned.runs, planned.episodes)
        if name not in self._complete:
            try:
                state = self._seen(state, planned if study is not None else None)
            except OutcomeError as error:
                return replace(state, problem=str(error))
            if state.planned is None or state.done < state.planned:
                return state
            self._complete[name] = state
        return self._complete[name]

    def _seen(self, state: CellState, planned: PlannedCell | None) -> CellState:
        """A cell as its folder shows it.

        Raises:
            OutcomeError: something in it is damaged.
        """
        cell = self._cell(state.key)
        if cell is None:
            return state
        done = _counted(self._store.done(cell), planned)
        failures: dict[int, list[NDArray[np.int64]]] = {}
        for failure in self._store.failures(cell):
            failures.setdefault(failure.run, []).append(failure.episodes)
        failed = _counted({run: np.unique(np.concatenate(numbers)) for run, numbers in failures.items()}, planned)
        owners = sorted({lease.owner for lease in leases_of(self._store.folder / state.key)} - self._silent)
        is_transductive = cell.method.is_transductive
        state = replace(state, done=done, failed=failed, workers=tuple(owners), is_transductive=is_transductive)
        return replace(state, rate=self._rates.of(cell, state))

    def _cell(self, key: str) -> Cell | None:
        """A stored cell; None where there is nothing of it yet."""
        if key not in self._described:
            try:
                self._described[key] = read_manifest(self._store.folder / key).cell
            except FileNotFoundError:
                return None
        return self._described[key]


def _counted(numbers: Mapping[int, NDArray[np.int64]], planned: PlannedCell | None) -> int:
    """How many episodes there are; of a planned cell only those that the plan has count."""
    if planned is None:
        return sum(len(some) for some in numbers.values())
    return sum(int((some < planned.episodes).sum()) for run, some in numbers.items() if run < planned.runs)


def _unplanned(cell: Cell) -> PlannedCell:
    return PlannedCell(cell.protocol.dataset, cell.protocol.task, cell.method.name, 0, 0, cell.method.is_transductive)


def _with_processes(state: StudyState, studies: list[RecordedStudy]) -> StudyState:
    """With who is at work, how to go on, and how it ended."""
    unfinished = [study for study in studies if not study.is_finished]
    there = {process.owner for study in unfinished for process in study.processes if process.is_there}
    there |= {owner for cell in state.cells for owner in cell.workers}
    past = sorted((one for study in unfinished for one in study.processes), key=lambda process: process.began)
    last = past[-1] if past else None
    return replace(
        state,
        processes=len(there),
        command=last.command if last is not None else "",
        ended=last.ended if last is not None and not there else "",
    )


_NARROWEST, _WIDEST = 70, 120
_COLUMNS = {"episodes": 15, "%": 3, "failed": 6, "ep/s": 6, "left": 8, "at work": 7}
_AROUND = 8  # lines beside those of methods and cells


def status_text(state: StudyState, results: str, *, width: int = 80, height: int | None = None) -> Group:
    """A table of the cells, method by method, with a line of totals, then what to do next.

    Args:
        state: at one moment.
        results: the folder, as the user wrote it.
        width: columns of the terminal.
        height: its lines, if only so many may be used: cells where nothing happens are left out first.
    """
    width = min(_WIDEST, max(_NARROWEST, width))
    shown = _fitting(state.cells, height)
    rule = Text("-" * width, "dim")
    parts: list[RenderableType] = [_row("", "", list(_COLUMNS), width), rule]
    for (method, is_transductive), cells in groupby(shown, key=lambda cell: (cell.method, cell.is_transductive)):
        name = printable(method)
        parts.append(Text(marked_names([name], [name] if is_transductive else [], width)[0], "bold"))
        parts += [_row(f"  {cell.task}", _style(cell), _numbers(cell), width) for cell in cells]
    if len(state.cells) > 1:
        parts += [rule, _row("all", "bold", _totals(state), width)]
    lines = _lines(state, results, len(state.cells) - len(shown))
    return Group(*parts, Text(), *(Text(line) for line in lines))


def duration(seconds: float) -> str:
    """A time in its two largest units: "45 s", "12 min", "3 h 20", "2 d 4 h"."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d}" if hours < 48 else f"{hours // 24:,} d {hours % 24} h"


def _row(about: str, style: str, texts: Sequence[str], width: int) -> Text:
    """A line of the table: what it is about, as far as the numbers leave room, and a text for every column."""
    numbers = "".join(f" {text:>{columns}}" for text, columns in zip(texts, _COLUMNS.values(), strict=True))
    room = max(0, width - len(numbers))
    return Text.assemble((set_cell_size(short_name(printable(about), room), room), style), numbers, no_wrap=True)


def _style(cell: CellState) -> str:
    if cell.problem or cell.failed:
        return "red"
    return "green" if cell.workers else "" if cell.left else "dim"


def _numbers(cell: CellState) -> list[str]:
    if cell.problem:
        return ["damaged", "", "", "", "", ""]
    workers = str(len(cell.workers)) if cell.workers else ""
    if cell.planned is None:
        return [f"{cell.done:,}", "", _count(cell.failed), "", "", workers]
    of_them = f"{cell.done:,}/{'<=' if cell.stops_early and cell.left else ''}{cell.planned:,}"
    rate = "" if cell.rate is None or not cell.left else _rate(cell.rate)
    left = "" if not cell.left else "?" if cell.seconds_left is None else duration(cell.seconds_left)
    return [of_them, _percent(cell.done, cell.planned), _count(cell.failed), rate, left, workers]


def _totals(state: StudyState) -> list[str]:
    done, failed = sum(cell.done for cell in state.cells), sum(cell.failed for cell in state.cells)
    workers = str(state.processes) if state.processes else ""
    if any(cell.planned is None for cell in state.cells):
        return [f"{done:,}", "", _count(failed), "", "", workers]
    planned = sum(cell.planned or 0 for cell in state.cells)
    seconds = state.seconds_left
    left = "" if state.is_complete else "?" if seconds is None else duration(seconds)
    return [f"{done:,}/{planned:,}", _percent(done, planned), _count(failed), "", left, workers]


def _lines(state: StudyState, results: str, left_out: int) -> Iterator[str]:
    if left_out:
        yield f"not shown for want of room: {left_out} cells where nothing happens; --once shows all"
    for cell in state.cells:
        if cell.problem:
            yield printable(f"{cell.key}: {cell.problem}")
    yield from map(printable, state.problems)
    if state.others:
        yield f"{state.others} more stored cells belong to no study that is written down here"
    yield from _next(state, results)


def _next(state: StudyState, results: str) -> Iterator[str]:
    """How it stands, and what to type."""
    command = command_for(["leaderboard"], results)
    if all(cell.planned is None for cell in state.cells):
        yield "how many there are to be is not written down here"
    elif state.is_complete:
        failed = sum(cell.failed for cell in state.cells)
        yield f"complete, but {failed:,} episodes failed: run tries them again" if failed else "complete"
    elif state.processes:
        yield "1 process is at work" if state.processes == 1 else f"{state.processes} processes are at work"
    else:
        how = f"; the last process: {state.ended}" if state.ended else ""
        yield printable(f"nobody is at work{how}")
        command = state.command or f"the same {command_for(['run'], results)}"
    yield printable(f"next         {command}")


def _fitting(cells: Sequence[CellState], height: int | None) -> Sequence[CellState]:
    """Those that there is room for, in their order: where somebody is at work first, then what is not complete."""
    methods = len(list(groupby(cells, key=lambda cell: cell.method)))
    if height is None or len(cells) + methods + _AROUND <= height:
        return cells
    by_interest = sorted(cells, key=lambda cell: (not cell.workers, not cell.problem, not cell.left))
    room = max(1, (height - _AROUND) // 2)  # half the lines may be names of methods
    chosen = {id(cell) for cell in by_interest[:room]}
    return [cell for cell in cells if id(cell) in chosen]


def _percent(done: int, planned: int) -> str:
    """Rounded down, since 100 means that everything is there."""
    return f"{100 * done // planned}" if planned else ""


def _count(count: int) -> str:
    return f"{count:,}" if count else ""


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}" if rate >= 0.1 else f"{rate:.2g}"


_EVERY = 1.0  # seconds between two looks
_SHARE = 10
"""A look that takes long, as at a network disk, is taken so many times more seldom."""


def show_live(watch: Watch, results: str, console: Console) -> None:
    """Show how far everything is until it is complete, or somebody stops it.

    Args:
        watch: looks.
        results: the folder, as the user wrote it.
        console: of a terminal.

    Raises:
        OutcomeError: there is nothing in the folder to look at.
    """
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            began = time.monotonic()
            state = watch.look()
            height = None if state.is_complete else console.height
            live.update(status_text(state, results, width=console.width, height=height), refresh=True)
            if state.is_complete:
                return
            time.sleep(max(_EVERY, _SHARE * (time.monotonic() - began)))
