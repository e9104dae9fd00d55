"""What a study plans, written down when it begins, so that others can see how far it is.

<results>/studies/<id>.json                     its cells, before their keys are known
<results>/studies/<id>/cell-<number>-<key>      the key of a cell, once it is known; the file is empty
<results>/studies/<id>/process-<owner>.json     a process that works at it: command, start, last heartbeat, end

The id is a digest of the content, so all processes and restarts of a study share its record. Each fact has a file of
its own, so processes never overwrite each other's. A stranger may have written the files, so readers check them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta, timezone
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, FailFast, Field, Strict, ValidationError

from fewshot_bench._io.locations import Location
from fewshot_bench._io.locks import is_gone, owner
from fewshot_bench._io.storage import files_under, is_file, read_bytes, remove, remove_abandoned, write_atomically
from fewshot_bench._io.text import printable
from fewshot_bench.errors import FewshotBenchError, IrregularFileError, LocationError, OutcomeError
from fewshot_bench.limits import MOST_CELLS
from fewshot_bench.outcomes.cell import Cell
from fewshot_bench.outcomes.leases import Heartbeat, overwrite
from fewshot_bench.outcomes.schema import Flag, Text, first_problem, read_mapping

FOLDER = "studies"
FINISHED = "finished"
"""How a process ended if nothing is left to do."""
DID_ITS_PART = "did its part"
SIGN = 60.0
"""Seconds between two heartbeats of a process, for observers that cannot see the process itself."""
_LONGEST_SILENCE = timedelta(seconds=10 * SIGN)  # more than the clocks of two machines differ by
_LARGEST_STUDY = 8_000_000  # bytes of a study's record
_LARGEST_PROCESS = 100_000  # bytes of a process's record
_LONGEST_COMMAND = 10_000  # characters
_ID = re.compile(r"[0-9a-f]{16}")
_CELL = re.compile(r"cell-(\d{5})-([0-9a-f]{16})")
_PROCESS = re.compile(r"process-([0-9a-f]{12}-\d{1,10}-\w{1,20})\.json")
_Count = Annotated[int, Strict(), Field(ge=1, le=1_000_000_000)]
_ModelT = TypeVar("_ModelT", bound=BaseModel)


@dataclass(frozen=True)
class PlannedCell:
    """A cell as a study plans it; its key is unknown until its base stage is trained.

    Attributes:
        dataset: its name.
        task: dataset, split and size of the tasks, see `ProtocolCard.task`.
        method: name of the method.
        runs: how many are planned.
        episodes: of each run; the maximum if the study stops at a confidence interval.
        is_transductive: whether queries may inform each other's predictions.
    """

    dataset: Text
    task: Text
    method: Text
    runs: _Count
    episodes: _Count
    is_transductive: Flag = False

    def as_dict(self) -> dict[str, Any]:
        """What is written down; `is_transductive` only if it is."""
        return {name: value for name, value in asdict(self).items() if value or name != "is_transductive"}


@dataclass(frozen=True)
class StudyRecord:
    """The record of a study, written by the processes that work at it.

    Attributes:
        results: the folder of results.
        cells: as planned, in the order of computation.
        settings: what else distinguishes this study from others, as plain data.
        stops_early: whether the episodes of a cell are a maximum.
    """

    results: Location
    cells: tuple[PlannedCell, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    stops_early: bool = False

    @cached_property
    def id(self) -> str:
        """16 hexadecimal digits: the digest of what is planned."""
        canonical = json.dumps(self._content(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def write(self) -> None:
        """Write the record; raises OutcomeError if no reader would take it and OSError if it cannot be written."""
        content = (json.dumps(self._content(), indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode(
            "utf-8", "surrogatepass"
        )
        try:
            if len(content) > _LARGEST_STUDY:
                raise OutcomeError(f"it has at most {_LARGEST_STUDY:,} bytes, not {len(content):,}")
            _validated(_StudyFile, content)
        except OutcomeError as error:
            raise OutcomeError(f"the record of the study cannot be written: {error}. Divide or correct it.") from error
        write_atomically(self.results / FOLDER / f"{self.id}.json", content)

    @contextmanager
    def at_work(self, command: str = "", *, is_all: bool = True) -> Iterator[None]:
        """Record that this process works at the study, and in the end how it ended.

        Args:
            command: that started the process, without absolute paths; empty in Python.
            is_all: whether nothing is left to do once it has ended without an error.

        Raises:
            OSError: it cannot be written.
        """
        self._clean()
        process = _ThisProcess(self._folder / f"process-{owner()}.json", printable(command)[:_LONGEST_COMMAND], _now())
        self.write()
        process.write("")
        try:
            with Heartbeat([process], every=SIGN):
                yield
        except BaseException as error:
            with suppress(OSError):  # the first error counts
                process.write("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
                if isinstance(error, FewshotBenchError):
                    self._remove_if_empty()
            raise
        process.write(FINISHED if is_all else DID_ITS_PART)
        self._remove_unfinished()

    def cells_known(self, cells: Sequence[Cell]) -> None:
        """Record the keys of planned cells; cells that were not planned are ignored.

        Args:
            cells: whose methods are known by now.

        Raises:
            OSError: it cannot be written.
        """
        keys = {(cell.protocol.task, cell.method.name): cell.key for cell in cells}
        for number, planned in enumerate(self.cells):
            key = keys.get((planned.task, planned.method))
            location = self._folder / f"cell-{number:05d}-{key}"
            if key is not None and not is_file(location):
                write_atomically(location, b"")

    def _remove_if_empty(self) -> None:
        """Remove the record of a study that could not begin, unless another process works at it."""
        names = files_under(self._folder)
        keys = [match[2] for name in names if (match := _CELL.fullmatch(name)) is not None]
        is_mine = len(names) == len(keys) + 1
        if is_mine and not any(files_under(self.results / "outcomes" / key) for key in keys):
            for name in (f"{self.id}.json", *(f"{self.id}/{name}" for name in names)):
                remove(self.results / FOLDER / name)
            if isinstance(self.results, Path):
                for folder in (self._folder, self._folder.parent, self.results):
                    folder.rmdir()

    def _clean(self) -> None:
        """Remove the records and unfinished files of processes that are known to have ended."""
        self._remove_unfinished()
        with suppress(OSError):
            for name in files_under(self._folder):
                match = _PROCESS.fullmatch(name)
                if match is not None and is_gone(match[1]):
                    remove(self._folder / name)

    def _remove_unfinished(self) -> None:
        with suppress(OSError, LocationError):
            remove_abandoned(self._folder)

    @property
    def _folder(self) -> Location:
        return self.results / FOLDER / self.id

    def _content(self) -> dict[str, Any]:
        return {
            "version": 1,
            "stops_early": self.stops_early,
            "settings": dict(self.settings),
            "cells": [cell.as_dict() for cell in self.cells],
        }


@dataclass(frozen=True)
class _ThisProcess:
    """The record of the process that works at a study.

    Attributes:
        location: of its file.
        command: that started it.
        began: when, as ISO 8601.
    """

    location: Location
    command: str
    began: str

    def write(self, ended: str) -> None:
        """Write the record, with how the process ended if it has; raises OSError if it cannot be written."""
        write_atomically(self.location, self._content(ended))

    def beat(self) -> None:
        """Renew the heartbeat, unless the file was removed; a disk that cannot be reached does not stop the study."""
        with suppress(Exception):  # file systems behind URLs may raise any
            overwrite(self.location, self._content(""))

    def _content(self, ended: str) -> bytes:
        record = {"began": self.began, "heard": _now(), "command": self.command, "ended": ended}
        return (json.dumps(record) + "\n").encode()


def _now() -> str:
    """The time on this machine, always equally long."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True)
class RecordedProcess:
    """A process that has worked at a study.

    Attributes:
        owner: see `locks.owner`.
        began: when, as ISO 8601; a stranger's text.
        command: that started it; a stranger's text.
        ended: how; empty if it did not say.
        heard: its last heartbeat, as ISO 8601, by its own clock; empty in earlier releases.
    """

    owner: str
    began: str
    command: str
    ended: str
    heard: str = ""

    @property
    def is_there(self) -> bool:
        """Whether it may still be at work: it has not ended, is not known to be gone, and not silent."""
        return not self.ended and not is_gone(self.owner) and not self.is_silent

    @property
    def is_silent(self) -> bool:
        """Whether its last heartbeat is long ago: it was killed on another machine, or its machine went down."""
        try:
            return datetime.now(timezone.utc) - datetime.fromisoformat(self.heard) > _LONGEST_SILENCE
        except (ValueError, TypeError):  # not a time, or one without a time zone
            return False


@dataclass(frozen=True)
class RecordedStudy:
    """A study as it was recorded.

    Attributes:
        id: its name on the disk.
        cells: as planned.
        stops_early: whether their episodes are a maximum.
        keys: of the stored cells that are known by now, by number of the planned cell; several if its base stage was
            trained with several results.
        processes: that work or worked at it, the latest at the end.
    """

    id: str
    cells: tuple[PlannedCell, ...]
    stops_early: bool
    keys: Mapping[int, tuple[str, ...]]
    processes: tuple[RecordedProcess, ...]

    @property
    def is_finished(self) -> bool:
        """Whether a process has recorded that nothing is left to do."""
        return any(process.ended == FINISHED for process in self.processes)


class _StudyFile(BaseModel):
    version: Literal[1] = 1
    stops_early: Flag
    cells: Annotated[tuple[PlannedCell, ...], Field(max_length=MOST_CELLS), FailFast()]


class _ProcessFile(BaseModel):
    began: Text
    command: Text
    ended: Text
    heard: Text = ""


def recorded_studies(results: Location) -> tuple[list[RecordedStudy], list[str]]:
    """The studies that are recorded in a folder of results.

    Args:
        results: the folder.

    Returns:
        The studies, by id; and one sentence about each that cannot be read.
    """
    folder = results / FOLDER
    names: dict[str, list[str]] = {}
    for name in sorted(files_under(folder)):
        study_id, _, rest = name.partition("/")
        names.setdefault(study_id.removesuffix(".json"), []).append(rest)
    found, problems = [], []
    for study_id in filter(_ID.fullmatch, names):
        try:
            found.append(_read_study(folder, study_id, names[study_id]))
        except FileNotFoundError:  # removed before or just now
            continue
        except IrregularFileError as error:
            problems.append(str(error))
        except OutcomeError as error:
            problems.append(f"{folder / study_id}.json is damaged ({error}). Delete it; no outcome is lost.")
    return found, problems


def _read_study(folder: Location, study_id: str, names: Sequence[str]) -> RecordedStudy:
    """One study; raises FileNotFoundError if it is absent, OutcomeError if damaged or of a later release."""
    record = _validated(_StudyFile, read_bytes(folder / f"{study_id}.json", _LARGEST_STUDY))
    keys: dict[int, tuple[str, ...]] = {}
    for match in filter(None, map(_CELL.fullmatch, names)):
        keys[int(match[1])] = (*keys.get(int(match[1]), ()), match[2])
    return RecordedStudy(study_id, record.cells, record.stops_early, keys, _read_processes(folder / study_id, names))


def _read_processes(folder: Location, names: Iterable[str]) -> tuple[RecordedProcess, ...]:
    """The processes whose files can be read, the latest at the end."""
    found = []
    for match in filter(None, map(_PROCESS.fullmatch, names)):
        with suppress(FileNotFoundError, OutcomeError):
            process = _validated(_ProcessFile, read_bytes(folder / match[0], _LARGEST_PROCESS))
            found.append(RecordedProcess(match[1], **dict(process)))
    return tuple(sorted(found, key=lambda process: process.began))


def _validated(model: type[_ModelT], content: bytes) -> _ModelT:
    """The content of a JSON file as a model; raises OutcomeError if it is not JSON, or a value is invalid."""
    try:
        return model.model_validate(read_mapping(content))
    except ValidationError as error:
        raise OutcomeError(first_problem(error)) from error
