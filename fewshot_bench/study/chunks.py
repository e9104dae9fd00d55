"""The chunks of a method that are not stored yet, divided among any number of processes.

A fixed part of every run, for machines that share nothing but the command.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.engine.engine import Chunk
from fewshot_bench.episodes import Protocol
from fewshot_bench.errors import StudyError
from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.outcomes.leases import Lease, Leases, Look, Stretch


@dataclass(frozen=True)
class Shard:
    """The I-th of N parts.

    Attributes:
        number: I, from 1.
        count: N.
    """

    number: int
    count: int

    @classmethod
    def read(cls, text: str) -> Shard:
        """Read "I/N".

        Raises:
            StudyError: it is no such text.
        """
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise StudyError(f"--shard takes I/N with I from 1 to N, such as 1/4, not '{text}'.")
        return cls(int(match[1]), int(match[2]))

    def of(self, episodes: int) -> NDArray[np.int64]:
        """Its episodes of a run: consecutive ones, whatever the size of a chunk is on this machine.

        Args:
            episodes: of the run.
        """
        return np.arange(episodes * (self.number - 1) // self.count, episodes * self.number // self.count)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


Left: TypeAlias = tuple[Cell, Protocol, list[NDArray[np.int64]]]
"""A cell with its protocol and the episodes of each run that are missing."""
_NONE = np.arange(0)


@dataclass(frozen=True, eq=False)
class Job:
    """A chunk of a cell.

    Attributes:
        cell: whose episodes they are.
        chunk: which.
        stretch: of the lease for it: the same whichever of its episodes are stored already.
    """

    cell: Cell
    chunk: Chunk
    stretch: Stretch

    def between(self, first: int, end: int) -> Job | None:
        """The part of it from one episode to before another; None if nothing of that is missing."""
        numbers = self.chunk.numbers
        some = numbers[(numbers >= first) & (numbers < end)]
        part = replace(self.chunk, numbers=some)
        return Job(self.cell, part, Stretch(self.chunk.run, first, end)) if len(some) else None


@dataclass(frozen=True, eq=False)
class Taken:
    """A job that this process has taken, with its lease."""

    job: Job
    lease: Lease


class ChunkQueue:
    """What is left of some cells, as one process sees it.

    Chunks lie on a grid that depends on their size alone, so that processes of the same command take the same ones.
    Where another process cuts otherwise, what it is at is left out of the last chunks that there are.
    """

    def __init__(
        self,
        store: OutcomeStore,
        left: Sequence[Left],
        size: Callable[[Protocol], int],
    ) -> None:
        """Cut what is missing into chunks.

        Args:
            store: where the outcomes go.
            left: cells that miss episodes.
            size: how many episodes of a protocol make a chunk.
        """
        self._store = store
        self._leases = {cell.key: Leases(store.cell_folder(cell)) for cell, _, _ in left}
        self._waiting = [job for one in left for job in _jobs(*one, size(one[1]))]
        self.episodes = sum(len(job.chunk) for job in self._waiting)

    @property
    def leases(self) -> list[Leases]:
        """Those of each cell, to be kept alive."""
        return list(self._leases.values())

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left that this process knows to be missing."""
        return not self._waiting

    def take(self) -> Taken | None:
        """The first chunk that no other process is at, or else a part of one; None if there is none now.

        Raises:
            OSError: its lease cannot be written.
        """
        looks: dict[str, Look] = {}  # a listing each, made when it comes to a job of that cell
        in_part: list[tuple[Job, list[Stretch]]] = []
        for job in self._waiting:
            key = job.cell.key
            if key not in looks:
                looks[key] = self._leases[key].look()
            held = looks[key].held(job.stretch)
            if held:
                in_part.append((job, held))
            elif (lease := self._leases[key].take(job.stretch, looks[key])) is not None:
                self._waiting.remove(job)
                return Taken(job, lease)
        return next(filter(None, (self._take_part(job, held) for job, held in in_part)), None)

    def _take_part(self, job: Job, held: Sequence[Stretch]) -> Taken | None:
        """What nobody is at of a job of which others hold some; the rest of it waits."""
        parts, free = _cut_around(job, held)
        for part in free:
            lease = self._leases[job.cell.key].take(part.stretch)
            if lease is not None:
                place = self._waiting.index(job)
                self._waiting[place : place + 1] = [one for one in parts if one is not part]
                return Taken(part, lease)
        return None

    def still_missing(self, job: Job) -> Job | None:
        """A job without the episodes that others have stored meanwhile; None if these are all."""
        return _without(job, self._store.done(job.cell))

    def drop_stored(self) -> int:
        """Forget the chunks that others have stored meanwhile; how many episodes these are."""
        before = sum(len(job.chunk) for job in self._waiting)
        stored = {
            cell.key: self._store.done(cell) for cell in {job.cell.key: job.cell for job in self._waiting}.values()
        }
        left = [_without(job, stored[job.cell.key]) for job in self._waiting]
        self._waiting = [job for job in left if job is not None]
        return before - sum(len(job.chunk) for job in self._waiting)

    def check_folder(self, job: Job) -> None:
        """See that the folder of a job's cell is still there.

        Raises:
            FileNotFoundError: it is not.
        """
        self._leases[job.cell.key].check_folder()

    def clean(self) -> None:
        """Remove the leases that processes which have ended left; called when nothing is missing any more."""
        for leases in self._leases.values():
            leases.clean()


def _cut_around(job: Job, held: Sequence[Stretch]) -> tuple[list[Job], list[Job]]:
    """A job cut where the stretches that others hold begin and end: all parts, and those that nobody holds."""
    first, end = job.stretch.first, job.stretch.end
    edges = {first, end, *(edge for one in held for edge in (one.first, one.end) if first < edge < end)}
    parts = [part for pair in pairwise(sorted(edges)) if (part := job.between(*pair)) is not None]
    return parts, [part for part in parts if not any(part.stretch.overlaps(one) for one in held)]


def _without(job: Job, stored: Mapping[int, NDArray[np.int64]]) -> Job | None:
    """A job without the episodes of each run that are stored, sorted; None if these are all."""
    numbers, there = job.chunk.numbers, stored.get(job.chunk.run, _NONE)
    start, stop = np.searchsorted(there, (numbers[0], numbers[-1] + 1))  # few: a study may have thousands of jobs
    if start == stop:
        return job
    left = np.setdiff1d(numbers, there[start:stop])
    return replace(job, chunk=replace(job.chunk, numbers=left)) if len(left) else None


def missing_episodes(
    store: OutcomeStore, cell: Cell, protocol: Protocol, shard: Shard | None = None
) -> list[NDArray[np.int64]]:
    """Numbers of the episodes of each run that are not stored yet.

    Args:
        store: where they would be.
        cell: whose they are.
        protocol: how many there are to be.
        shard: which of them alone count; all by default.

    Raises:
        OutcomeError: a part is damaged.
    """
    done = store.done(cell)
    wanted = np.arange(protocol.episodes) if shard is None else shard.of(protocol.episodes)
    return [np.setdiff1d(wanted, done.get(run, wanted[:0])) for run in range(protocol.runs)]


def _jobs(cell: Cell, protocol: Protocol, missing: Sequence[NDArray[np.int64]], size: int) -> list[Job]:
    jobs = []
    for run, numbers in enumerate(missing):
        for start in np.unique(numbers // size) * size:
            some = numbers[(numbers >= start) & (numbers < start + size)]
            stretch = Stretch(run, int(start), int(start) + size)
            jobs.append(Job(cell, Chunk(protocol, run, some, size), stretch))
    return jobs
