"""What a study is going to do, written down when it begins, so that somebody else can see how far it is.

<results>/studies/<id>.json                     its cells, before anybody knows their keys
<results>/studies/<id>/cell-<number>-<key>      the key of one of them, once it is known; the file is empty
<results>/studies/<id>/process-<owner>.json     a process that works at it: its command, when it began, that it lives,
                                                how it ended

The id is a digest of the content, so processes and restarts of one study share the file. Each fact has a file
of its own, so that none of them writes over another's.

The records of studies as somebody else finds them: checked, since a stranger may have written them.
"""

from __future__ import annotations

import hashlib
import json
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

from fewshot_bench._io.locations import Place
from fewshot_bench._io.locks import is_gone, owner
from fewshot_bench._io.storage import files_under, is_file, read_bytes, remove, remove_abandoned, write_atomically
from fewshot_bench._io.text import printable
from fewshot_bench.errors import FewshotBenchError, IrregularFileError, OutcomeError, PlaceError
from fewshot_bench.limits import MOST_CELLS
from fewshot_bench.outcomes.cell import Cell
from fewshot_bench.outcomes.cell_schema import TEXT, Kind, whole
from fewshot_bench.outcomes.leases import Heartbeat, overwrite

FOLDER = "studies"
CELL = re.compile(r"cell-(\d{5})-([0-9a-f]{16})")
PROCESS = re.compile(r"process-([0-9a-f]{12}-\d{1,10}-\w{1,20})\.json")
VERSION = 1
FINISHED = "finished"
"""How a process ended that has nothing left to do."""
DID_ITS_PART = "did its part"
LARGEST_STUDY = 8_000_000
"""Bytes of the record of a study."""
LARGEST_PROCESS = 100_000
"""Bytes of what a process says of itself."""
_LONGEST_COMMAND = 10_000  # characters
_COUNT = whole(1, 1_000_000_000)
PLANNED = {"dataset": TEXT, "task": TEXT, "method": TEXT, "runs": _COUNT, "episodes": _COUNT}
"""What each field of a `PlannedCell` should be."""
SIGN = 60.0
"""Seconds between two signs of life of a process, for those who cannot see whether it is there."""


@dataclass(frozen=True)
class PlannedCell:
    """A cell as a study plans it: its method is not known by its fingerprint before the base stage is trained.

    Attributes:
        dataset: its name.
        task: dataset, split and size of the tasks, see `ProtocolCard.task`.
        method: name of the method.
        runs: how many there are to be.
        episodes: of each run; the most of them where an interval says when to stop.
        is_transductive: whether queries may inform each other's predictions.
    """

    dataset: str
    task: str
    method: str
    runs: int
    episodes: int
    is_transductive: bool = False

    def as_dict(self) -> dict[str, Any]:
        """What is written down; an inductive method is, as it was before there were others."""
        fields = asdict(self)
        return fields if self.is_transductive else {name: fields[name] for name in PLANNED}


@dataclass(frozen=True)
class StudyRecord:
    """What is written down of a study, for the processes that work at it.

    Attributes:
        results: the folder of results.
        cells: as planned, in the order in which they are done.
        settings: what else tells this study from others, as plain data.
        stops_early: whether the episodes of a cell are the most that there may be.
    """

    results: Place
    cells: tuple[PlannedCell, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    stops_early: bool = False

    @cached_property
    def id(self) -> str:
        """16 hexadecimal digits: the digest of what is planned."""
        canonical = json.dumps(self._content(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def write(self) -> None:
        """Write down what is going to be done.

        Raises:
            OutcomeError: no reader would take it.
            OSError: it cannot be written.
        """
        for cell in self.cells:
            wrong = next((name for name, kind in PLANNED.items() if not kind.holds(getattr(cell, name))), None)
            if wrong is not None:
                found = reprlib.repr(getattr(cell, wrong))
                raise OutcomeError(f"{wrong} of a study should be {PLANNED[wrong].words}, not {found}.")
        if len(self.cells) > MOST_CELLS:
            raise OutcomeError(
                f"a study has at most {MOST_CELLS:,} cells, and this one {len(self.cells):,}. Divide it."
            )
        text = json.dumps(self._content(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        content = text.encode()
        if len(content) > LARGEST_STUDY:
            raise OutcomeError(f"the record of a study has at most {LARGEST_STUDY:,} bytes. Divide the study.")
        write_atomically(self.results / FOLDER / f"{self.id}.json", content)

    @contextmanager
    def at_work(self, command: str = "", *, is_all: bool = True) -> Iterator[None]:
        """Say that this process works at the study, and in the end how it ended.

        Args:
            command: that the process was started with, without absolute paths; empty for Python.
            is_all: whether nothing is left to do when it has ended by itself.

        Raises:
            OSError: it cannot be written.
        """
        self._clean()
        said = _Said(self._folder / f"process-{owner()}.json", _now(), printable(command)[:_LONGEST_COMMAND])
        self.write()
        said.tell("")
        try:
            with Heartbeat([said], every=SIGN):
                yield
        except BaseException as error:
            with suppress(OSError):  # what went wrong first is what counts
                said.tell("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
                if isinstance(error, FewshotBenchError):
                    self._forget_if_nothing_came_of_it()
            raise
        said.tell(FINISHED if is_all else DID_ITS_PART)
        self._remove_unfinished()

    def cells_known(self, cells: Sequence[Cell]) -> None:
        """Write down which stored cells planned ones are; those that were not planned are passed over.

        Args:
            cells: some of them, whose methods are known by now.

        Raises:
            OSError: it cannot be written.
        """
        keys = {(cell.protocol.task, cell.method.name): cell.key for cell in cells}
        for number, planned in enumerate(self.cells):
            key = keys.get((planned.task, planned.method))
            place = self._folder / f"cell-{number:05d}-{key}"
            if key is not None and not is_file(place):
                write_atomically(place, b"")

    def _forget_if_nothing_came_of_it(self) -> None:
        """Leave nothing of a study that could not begin, unless another process is at it."""
        names = files_under(self._folder)
        keys = [match[2] for name in names if (match := CELL.fullmatch(name)) is not None]
        are_mine = len(names) == len(keys) + 1
        if are_mine and not any(files_under(self.results / "outcomes" / key) for key in keys):
            for name in (f"{self.id}.json", *(f"{self.id}/{name}" for name in names)):
                remove(self.results / FOLDER / name)
            if isinstance(self.results, Path):
                for folder in (self._folder, self._folder.parent, self.results):
                    folder.rmdir()

    def _clean(self) -> None:
        """Remove what processes that are known to have ended said of themselves, whole or not."""
        self._remove_unfinished()
        with suppress(OSError):
            for name in files_under(self._folder):
                match = PROCESS.fullmatch(name)
                if match is not None and is_gone(match[1]):
                    remove(self._folder / name)

    def _remove_unfinished(self) -> None:
        with suppress(OSError, PlaceError):
            remove_abandoned(self._folder)

    @property
    def _folder(self) -> Place:
        return self.results / FOLDER / self.id

    def _content(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "stops_early": self.stops_early,
            "settings": dict(self.settings),
            "cells": [cell.as_dict() for cell in self.cells],
        }


@dataclass(frozen=True)
class _Said:
    """What a process says of itself.

    Attributes:
        place: of its file.
        began: when, as ISO 8601.
        command: that it was started with.
    """

    place: Place
    began: str
    command: str

    def tell(self, ended: str) -> None:
        """Write it down.

        Args:
            ended: how; empty while it is at work.

        Raises:
            OSError: it cannot be written.
        """
        write_atomically(self.place, self._content(ended))

    def beat(self) -> None:
        """Say that it is still at work, unless somebody removed the file; a disk that is away is no reason to stop."""
        with suppress(Exception):  # of a URL's file system it may be any
            overwrite(self.place, self._content(""))

    def _content(self, ended: str) -> bytes:
        told = {"began": self.began, "heard": _now(), "command": self.command, "ended": ended}
        return (json.dumps(told) + "\n").encode()


def _now() -> str:
    """By the clock of this machine, always as long."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


_ID = re.compile(r"[0-9a-f]{16}")
_LONG = timedelta(seconds=10 * SIGN)
"""More than the clocks of two machines differ by; where they do, it is only told wrongly who is at work."""
_FLAG = Kind("true or false", lambda value: isinstance(value, bool))
_CELLS = Kind(
    f"a list of at most {MOST_CELLS:,} cells", lambda value: isinstance(value, list) and len(value) <= MOST_CELLS
)


@dataclass(frozen=True)
class RecordedProcess:
    """A process that has worked at a study.

    Attributes:
        owner: see `processes.owner`.
        began: when, as ISO 8601; a stranger's text.
        command: that it was started with; likewise.
        ended: how; empty where it did not say.
        heard: when it gave its last sign of life, as ISO 8601, by its own clock; likewise. Earlier releases gave none.
    """

    owner: str
    began: str
    command: str
    ended: str
    heard: str = ""

    @property
    def is_there(self) -> bool:
        """Whether it may still be at work: it has not said that it ended, is not known to be gone, and not silent."""
        return not self.ended and not is_gone(self.owner) and not self.is_silent

    @property
    def is_silent(self) -> bool:
        """Whether it has given no sign of life for long: killed on another machine, or with this one."""
        try:
            return datetime.now(timezone.utc) - datetime.fromisoformat(self.heard) > _LONG
        except (ValueError, TypeError):  # no time, or one of nobody knows where
            return False


@dataclass(frozen=True)
class RecordedStudy:
    """A study as it was written down.

    Attributes:
        id: its name on the disk.
        cells: as planned.
        stops_early: whether their episodes are the most that there may be.
        keys: of the stored cells that are known by now, by number of the planned one; more than one where its base
            stage was trained with several results.
        processes: that work at it or did, the one that began last at the end.
    """

    id: str
    cells: tuple[PlannedCell, ...]
    stops_early: bool
    keys: Mapping[int, tuple[str, ...]]
    processes: tuple[RecordedProcess, ...]

    @property
    def is_finished(self) -> bool:
        """Whether a process has said that nothing is left to do."""
        return any(process.ended == FINISHED for process in self.processes)


def recorded_studies(results: Place) -> tuple[list[RecordedStudy], list[str]]:
    """The studies that are written down in a folder of results, with what is known of them by now.

    Args:
        results: the folder.

    Returns:
        The studies, by id; and of each that cannot be read why, in one sentence.
    """
    folder = results / FOLDER
    names: dict[str, list[str]] = {}
    for name in sorted(files_under(folder)):
        study_id, _, rest = name.partition("/")
        names.setdefault(study_id.removesuffix(".json"), []).append(rest)
    found, problems = [], []
    for study_id in names:
        if _ID.fullmatch(study_id):
            try:
                found.append(_study(folder, study_id, names[study_id]))
            except FileNotFoundError:  # somebody removed it, or removes it now
                continue
            except IrregularFileError as error:
                problems.append(str(error))
            except OutcomeError as error:
                problems.append(f"{folder / study_id}.json is damaged ({error}). Delete it; no outcome is lost.")
    return found, problems


def _study(folder: Place, study_id: str, names: Sequence[str]) -> RecordedStudy:
    """One study.

    Raises:
        FileNotFoundError: it is not there.
        OutcomeError: its record is damaged or of a later release.
    """
    content = _content(folder / f"{study_id}.json", LARGEST_STUDY)
    cells = tuple(_planned(cell) for cell in _value(content, "cells", _CELLS))
    stops_early = _value(content, "stops_early", _FLAG)
    return RecordedStudy(study_id, cells, stops_early, _keys(names), _processes(folder / study_id, names))


def _planned(content: Any) -> PlannedCell:
    if not isinstance(content, dict):
        raise OutcomeError(f"a cell should be a mapping, not {reprlib.repr(content)}")
    fields = {name: _value(content, name, kind) for name, kind in PLANNED.items()}
    return PlannedCell(**fields, is_transductive=content.get("is_transductive") is True)


def _value(content: Mapping[str, Any], name: str, kind: Kind) -> Any:
    if not kind.holds(content.get(name)):
        raise OutcomeError(f"{name} should be {kind.words}, not {reprlib.repr(content.get(name))}")
    return content[name]


def _content(place: Place, largest: int) -> dict[str, Any]:
    """The mapping that a file of JSON holds."""
    try:
        content = json.loads(read_bytes(place, largest))
    except (ValueError, RecursionError) as error:
        raise OutcomeError(f"it should be JSON: {error}") from error
    if not isinstance(content, dict):
        raise OutcomeError(f"it should be a mapping, not {reprlib.repr(content)}")
    version = content.get("version", VERSION)
    if version != VERSION:
        raise OutcomeError(f"version {reprlib.repr(version)} is of another release; this one knows {VERSION}")
    return content


def _keys(names: Iterable[str]) -> dict[int, tuple[str, ...]]:
    keys: dict[int, tuple[str, ...]] = {}
    for match in filter(None, map(CELL.fullmatch, names)):
        number = int(match[1])
        keys[number] = (*keys.get(number, ()), match[2])
    return keys


def _processes(folder: Place, names: Iterable[str]) -> tuple[RecordedProcess, ...]:
    """Those whose files can be read: what they say is told and nothing else."""
    found = []
    for match in filter(None, map(PROCESS.fullmatch, names)):
        try:
            content = _content(folder / match[0], LARGEST_PROCESS)
            told = [_value({"heard": "", **content}, name, TEXT) for name in ("began", "command", "ended", "heard")]
        except (FileNotFoundError, OutcomeError):
            continue
        found.append(RecordedProcess(match[1], *told))
    return tuple(sorted(found, key=lambda process: process.began))
