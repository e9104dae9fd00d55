"""The records of studies as somebody else finds them: checked, since a stranger may have written them."""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from fewshot_bench.errors import IrregularFileError, OutcomeError
from fewshot_bench.limits import MOST_CELLS
from fewshot_bench.outcomes.kinds import TEXT, Kind
from fewshot_bench.outcomes.study_record import (
    CELL,
    FINISHED,
    FOLDER,
    LARGEST_PROCESS,
    LARGEST_STUDY,
    PLANNED,
    PROCESS,
    SIGN,
    VERSION,
    PlannedCell,
)
from fewshot_bench.paths import Place
from fewshot_bench.processes import is_gone
from fewshot_bench.stored_files import files_under, read_bytes

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
