"""The chunks of a method that are not stored yet, divided among any number of processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.engine.engine import Chunk
from fewshot_bench.episodes import Protocol
from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.outcomes.lease_file import Stretch
from fewshot_bench.outcomes.leases import Lease, Leases
from fewshot_bench.study.shard import Shard

Left: TypeAlias = tuple[Cell, Protocol, list[NDArray[np.int64]]]
"""A cell with its protocol and the episodes of each run that are missing."""


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


@dataclass(frozen=True, eq=False)
class Taken:
    """A job that this process has taken, with its lease."""

    job: Job
    lease: Lease


class ChunkQueue:
    """What is left of some cells, as one process sees it.

    Chunks lie on a grid that depends on their size alone, so that processes of the same command take the same ones.
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
        """The first chunk that no other process is at; None if there is none now.

        Raises:
            OSError: its lease cannot be written.
        """
        seen = {key: leases.generations() for key, leases in self._leases.items()}
        for place, job in enumerate(self._waiting):
            lease = self._leases[job.cell.key].take(job.stretch, seen[job.cell.key])
            if lease is not None:
                del self._waiting[place]
                return Taken(job, lease)
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


def _without(job: Job, stored: Mapping[int, NDArray[np.int64]]) -> Job | None:
    """A job without the episodes of each run that are stored; None if these are all."""
    numbers = np.setdiff1d(job.chunk.numbers, stored.get(job.chunk.run, ()))
    return replace(job, chunk=replace(job.chunk, numbers=numbers)) if len(numbers) else None


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
        OutcomeError: a part is damaged, or the method is stored under another name.
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
