"""What a study is going to do, written down when it begins, so that somebody else can see how far it is.

<results>/studies/<id>.json                     its cells, before anybody knows their keys
<results>/studies/<id>/cell-<number>-<key>      the key of one of them, once it is known; the file is empty
<results>/studies/<id>/process-<owner>.json     a process that works at it: its command, when it began, how it ended

The id is a digest of the content, so processes and restarts of one study share the file. Each fact has a file
of its own, so that none of them writes over another's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any

from fewshot_bench.atomic import write_atomically
from fewshot_bench.outcomes.cell import Cell
from fewshot_bench.paths import Place
from fewshot_bench.processes import owner

FOLDER = "studies"
VERSION = 1
FINISHED = "finished"
"""How a process ended that has nothing left to do."""


@dataclass(frozen=True)
class PlannedCell:
    """A cell as a study plans it: its method is not known by its fingerprint before the base stage is trained.

    Attributes:
        dataset: its name.
        task: dataset, split and size of the tasks, see `ProtocolCard.task`.
        method: name of the method.
        runs: how many there are to be.
        episodes: of each run; the most of them where an interval says when to stop.
    """

    dataset: str
    task: str
    method: str
    runs: int
    episodes: int


@dataclass(frozen=True)
class StudyRecord:
    """A study that has begun, for the process that works at it.

    Attributes:
        results: the folder of results.
        id: 16 hexadecimal digits.
        cells: as planned, in their order.
        command: that the process was started with; empty for Python.
        began: when, as ISO 8601 in UTC.
    """

    results: Place
    id: str
    cells: tuple[PlannedCell, ...]
    command: str = ""
    began: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))

    @classmethod
    def begin(
        cls,
        results: Place,
        cells: Sequence[PlannedCell],
        *,
        name: str = "",
        settings: Mapping[str, Any] | None = None,
        stops_early: bool = False,
        command: str = "",
    ) -> StudyRecord:
        """Write down what is going to be done, and that this process works at it.

        Args:
            results: the folder of results.
            cells: all of the study's, in the order in which they are done.
            name: of the study, if it has one.
            settings: what else tells this study from others, as plain data.
            stops_early: whether the episodes of a cell are the most that there may be.
            command: that this process was started with, without absolute paths.

        Raises:
            OSError: it cannot be written.
        """
        content = {
            "version": VERSION,
            "name": name,
            "stops_early": stops_early,
            "settings": dict(settings or {}),
            "cells": [asdict(cell) for cell in cells],
        }
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        record = cls(results, hashlib.sha256(canonical.encode()).hexdigest()[:16], tuple(cells), command)
        text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        write_atomically(results / FOLDER / f"{record.id}.json", text.encode())
        record._told("")
        return record

    def cell_known(self, cell: Cell) -> None:
        """Write down which stored cell a planned one is; one that was not planned is passed over.

        Raises:
            OSError: it cannot be written.
        """
        for number, planned in enumerate(self.cells):
            if (planned.task, planned.method) == (cell.protocol.task, cell.method.name):
                place = self._folder / f"cell-{number:05d}-{cell.key}"
                if not place.exists():
                    write_atomically(place, b"")

    def ended(self, reason: str = FINISHED) -> None:
        """Write down that this process has ended.

        Args:
            reason: `FINISHED` where nothing is left to do; otherwise why, in one line.

        Raises:
            OSError: it cannot be written.
        """
        self._told(reason)

    @property
    def _folder(self) -> Place:
        return self.results / FOLDER / self.id

    def _told(self, ended: str) -> None:
        content = {"began": self.began, "command": self.command, "ended": ended}
        write_atomically(self._folder / f"process-{owner()}.json", (json.dumps(content) + "\n").encode())
