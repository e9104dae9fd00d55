"""Look at a results folder, again and again: by the names of files, which is cheap, and never by a lock."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.errors import OutcomeError
from fewshot_bench.going_on import command_in
from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.outcomes.leases import leases_of
from fewshot_bench.outcomes.manifest import read_manifest
from fewshot_bench.outcomes.recorded_studies import RecordedStudy, recorded_studies
from fewshot_bench.outcomes.study_record import DID_ITS_PART, PlannedCell
from fewshot_bench.paths import Place
from fewshot_bench.report.status.rate import Rates
from fewshot_bench.report.status.state import CellState, StudyState
from fewshot_bench.stored_files import folders_in

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
