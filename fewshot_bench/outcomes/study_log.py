"""What a study is going to do, written down when it begins, so that somebody else can see how far it is.

<results>/studies/<id>.json                     its cells, before anybody knows their keys
<results>/studies/<id>/cell-<number>-<key>      the key of one of them, once it is known; the file is empty
<results>/studies/<id>/process-<owner>.json     a process that works at it: its command, when it began, that it lives,
                                                how it ended

The id is a digest of the content, so processes and restarts of one study share the file. Each fact has a file
of its own, so that none of them writes over another's.
"""

from __future__ import annotations

import hashlib
import json
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

from fewshot_bench.atomic import remove_abandoned, write_atomically
from fewshot_bench.errors import FewshotBenchError, OutcomeError, PlaceError
from fewshot_bench.limits import MOST_CELLS
from fewshot_bench.outcomes.cell import Cell
from fewshot_bench.outcomes.heart import Heart
from fewshot_bench.outcomes.kinds import TEXT, whole
from fewshot_bench.outcomes.lease_file import overwrite
from fewshot_bench.paths import Place
from fewshot_bench.printable import printable
from fewshot_bench.processes import is_gone, owner
from fewshot_bench.stored_files import files_under, is_file, remove

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
            with Heart([said], every=SIGN):
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
