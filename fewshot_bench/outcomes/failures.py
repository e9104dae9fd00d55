"""Episodes whose computation failed, with the reason: small files beside the parts; outcomes override them.

<cell>/failures/run=0-episodes-00000-00512.json
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, Strict, ValidationError

from fewshot_bench._io.locations import Location
from fewshot_bench._io.storage import read_bytes, write_atomically
from fewshot_bench._io.text import printable
from fewshot_bench.errors import IrregularFileError, OutcomeError
from fewshot_bench.outcomes.frame import consecutive
from fewshot_bench.outcomes.schema import first_problem, read_mapping

FOLDER = "failures"
LONGEST_REASON = 1_000  # characters
_LARGEST_FILE = 100_000  # bytes
_MOST_EPISODES = 100_000  # of one file, whose name can claim any number
_NAME = re.compile(rf"{FOLDER}/run=(\d{{1,5}})-episodes-(\d{{5,9}})-(\d{{5,9}})\.json")


@dataclass(frozen=True, eq=False)
class Failure:
    """Episodes of a run that failed.

    Attributes:
        run: number of the run, from 0.
        episodes: their numbers, sorted, [E].
        reason: why, in one line.
    """

    run: int
    episodes: NDArray[np.int64]
    reason: str


def record(folder: Location, run: int, numbers: NDArray[np.int64], reason: str) -> None:
    """Record why episodes have no outcomes; a later reason for the same ones replaces an earlier one.

    Args:
        folder: of the cell.
        run: number of the run, from 0.
        numbers: of the episodes, [E].
        reason: any text; it is kept as one line.
    """
    line = printable(" ".join(reason.split()))[:LONGEST_REASON]
    unique = np.unique(numbers)
    for start, stop in consecutive(unique):
        for first in range(start, stop, _MOST_EPISODES):
            last = min(first + _MOST_EPISODES, stop) - 1
            name = f"{FOLDER}/run={run}-episodes-{unique[first]:05d}-{unique[last] + 1:05d}.json"
            if _NAME.fullmatch(name) is None:
                raise OutcomeError(f"{name} cannot be recorded: runs have 1 to 5 digits, and episodes 5 to 9.")
            write_atomically(folder / name, (json.dumps({"reason": line}, ensure_ascii=False) + "\n").encode())


def recorded(folder: Location, names: Iterable[str]) -> dict[str, Failure]:
    """Every recorded failure, by the name of its file; those of few episodes come first.

    A file that has vanished is skipped: a compaction removed it, because its episodes have outcomes now.

    Args:
        folder: of the cell.
        names: of its files, relative to it.

    Raises:
        OutcomeError: a file is damaged.
    """
    names = list(names)
    if FOLDER in names:
        raise IrregularFileError(folder / FOLDER, "no folder", "a folder")
    found = {name: match for name in names if (match := _NAME.fullmatch(name)) is not None}
    failures = {}
    for name, match in found.items():
        with suppress(FileNotFoundError):
            failures[name] = _read(folder / name, *map(int, match.groups()))
    return dict(sorted(failures.items(), key=lambda item: (item[1].run, len(item[1].episodes), item[0])))


def still_open(failures: Iterable[Failure], done: Mapping[int, NDArray[np.int64]]) -> list[Failure]:
    """The failures of episodes that have no outcomes; each episode is in one of them.

    Args:
        failures: the first one of an episode counts.
        done: the stored episodes, by run.
    """
    known: dict[int, NDArray[np.int64]] = {run: np.asarray(numbers) for run, numbers in done.items()}
    remaining = []
    for failure in failures:
        before = known.get(failure.run, failure.episodes[:0])
        episodes = np.setdiff1d(failure.episodes, before)
        known[failure.run] = np.union1d(before, episodes)
        if len(episodes):
            remaining.append(Failure(failure.run, episodes, failure.reason))
    return sorted(remaining, key=lambda failure: (failure.run, int(failure.episodes[0])))


class _FailureFile(BaseModel):
    reason: Annotated[str, Strict(), Field(max_length=LONGEST_REASON)]


def _read(place: Location, run: int, first: int, end: int) -> Failure:
    try:
        record = _FailureFile.model_validate(read_mapping(read_bytes(place, _LARGEST_FILE)))
        if not 0 < end - first <= _MOST_EPISODES:
            raise OutcomeError("its name says too many episodes, or none")
    except IrregularFileError:
        raise
    except (ValidationError, OutcomeError) as error:
        finding = first_problem(error) if isinstance(error, ValidationError) else error
        raise OutcomeError(f"{place} is damaged ({finding}). Delete that file; no outcome is lost.") from error
    return Failure(run, np.arange(first, end), printable(record.reason))
