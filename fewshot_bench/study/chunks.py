"""Divide the missing episodes of a method: chunks that processes claim by leases, and shards of every run."""

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
from fewshot_bench.outcomes.leases import EpisodeRange, Lease, LeaseKey, Leases, LeaseSnapshot


@dataclass(frozen=True)
class Shard:
    """The I-th of N parts, for machines that share nothing but the command.

    Attributes:
        number: I, from 1.
        count: N.
    """

    number: int
    count: int

    @classmethod
    def read(cls, text: str) -> Shard:
        """Read "I/N"; raises StudyError if the text has another form."""
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise StudyError(f"--shard takes I/N with I from 1 to N, such as 1/4, not '{text}'.")
        return cls(int(match[1]), int(match[2]))

    def of(self, episodes: int) -> NDArray[np.int64]:
        """Its episodes of a run of that many: consecutive ones, whatever the chunk size of this machine."""
        return np.arange(episodes * (self.number - 1) // self.count, episodes * self.number // self.count)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


MissingEpisodes: TypeAlias = tuple[Cell, Protocol, list[NDArray[np.int64]]]
"""A cell, its protocol, and the numbers of the missing episodes of each run."""


@dataclass(frozen=True, eq=False)
class CellChunk:
    """A chunk of a cell that this process has not claimed.

    Attributes:
        cell: of the episodes.
        chunk: the missing episodes.
        episodes: the range of the lease, which is the same whichever of its episodes are stored.
    """

    cell: Cell
    chunk: Chunk
    episodes: EpisodeRange

    def between(self, first: int, end: int) -> CellChunk | None:
        """The part from one episode to before another; None if nothing in it is missing."""
        numbers = self.chunk.numbers
        inside = numbers[(numbers >= first) & (numbers < end)]
        part = replace(self.chunk, numbers=inside)
        return CellChunk(self.cell, part, EpisodeRange(self.chunk.run, first, end)) if len(inside) else None


@dataclass(frozen=True, eq=False)
class ClaimedChunk:
    """A chunk of a cell whose lease this process holds."""

    cell: Cell
    chunk: Chunk
    lease: Lease


class ChunkQueue:
    """The missing chunks of several cells, as one process sees them.

    Chunks lie on a grid that depends on their size alone, so that processes of one command cut alike. Where another
    process cuts differently, the ranges that it holds are cut out of the last chunks.
    """

    def __init__(
        self, store: OutcomeStore, missing: Sequence[MissingEpisodes], size: Callable[[Protocol], int]
    ) -> None:
        """Cut missing episodes into chunks.

        Args:
            store: where the outcomes go.
            missing: cells that lack episodes.
            size: how many episodes of a protocol make a chunk.
        """
        self._store = store
        self._leases = {cell.key: Leases(store.cell_folder(cell)) for cell, _, _ in missing}
        self._pending = [
            chunk for cell, protocol, runs in missing for chunk in _cut(cell, protocol, runs, size(protocol))
        ]
        self.episodes = self._count()

    @property
    def leases(self) -> list[Leases]:
        """The leases of each cell."""
        return list(self._leases.values())

    @property
    def is_empty(self) -> bool:
        """Whether this process knows of nothing that is missing and not claimed by itself."""
        return not self._pending

    def take(self) -> ClaimedChunk | None:
        """Claim the first chunk that no other process holds, or else a part of one; None if there is none now.

        Raises:
            OSError: its lease cannot be written.
        """
        snapshots: dict[str, LeaseSnapshot] = {}  # one listing for each cell, made when its first chunk is reached
        partly_held: list[tuple[CellChunk, list[LeaseKey]]] = []
        for pending in self._pending:
            leases, key = self._leases[pending.cell.key], pending.cell.key
            if key not in snapshots:
                snapshots[key] = leases.snapshot()
            held = snapshots[key].held(pending.episodes)
            if held:
                partly_held.append((pending, held))
            elif (lease := leases.take(pending.episodes, snapshots[key])) is not None:
                self._pending.remove(pending)
                return ClaimedChunk(pending.cell, pending.chunk, lease)
        return next(filter(None, (self._take_part(pending, held) for pending, held in partly_held)), None)

    def _take_part(self, whole: CellChunk, held: Sequence[LeaseKey]) -> ClaimedChunk | None:
        """Claim a part between the ranges that others hold; the rest stays pending."""
        parts = _cut_around(whole, held)
        for part in parts:
            if any(part.episodes.overlaps(other) for other in held):
                continue
            lease = self._leases[whole.cell.key].take(part.episodes)
            if lease is not None:
                place = self._pending.index(whole)
                self._pending[place : place + 1] = [other for other in parts if other is not part]
                return ClaimedChunk(part.cell, part.chunk, lease)
        return None

    def still_missing(self, cell: Cell, chunk: Chunk) -> Chunk | None:
        """A chunk without the episodes that others have stored meanwhile; None if nothing is left."""
        return _without(chunk, self._store.done(cell))

    def drop_stored(self) -> int:
        """Forget the episodes that others have stored meanwhile, and count them."""
        before = self._count()
        cells = {pending.cell.key: pending.cell for pending in self._pending}
        stored = {key: self._store.done(cell) for key, cell in cells.items()}
        missing = [(pending, _without(pending.chunk, stored[pending.cell.key])) for pending in self._pending]
        self._pending = [replace(pending, chunk=chunk) for pending, chunk in missing if chunk is not None]
        return before - self._count()

    def check_folder(self, cell: Cell) -> None:
        """Check that the folder of a cell is still there; raises FileNotFoundError if it is gone."""
        self._leases[cell.key].check_folder()

    def clean(self) -> None:
        """Remove the leases of processes that have ended, once nothing is missing."""
        for leases in self.leases:
            leases.clean()

    def _count(self) -> int:
        return sum(len(pending.chunk) for pending in self._pending)


def _cut(cell: Cell, protocol: Protocol, missing: Sequence[NDArray[np.int64]], size: int) -> list[CellChunk]:
    """The missing episodes of a cell in chunks."""
    chunks = []
    for run, numbers in enumerate(missing):
        for start in np.unique(numbers // size) * size:
            inside = numbers[(numbers >= start) & (numbers < start + size)]
            episodes = EpisodeRange(run, int(start), int(start) + size)
            chunks.append(CellChunk(cell, Chunk(protocol, run, inside, size), episodes))
    return chunks


def _cut_around(whole: CellChunk, held: Sequence[LeaseKey]) -> list[CellChunk]:
    """A chunk cut where the ranges that others hold begin and end."""
    first, end = whole.episodes.first, whole.episodes.end
    ranges = [key for key in held if isinstance(key, EpisodeRange)]
    edges = {first, end, *(edge for each in ranges for edge in (each.first, each.end) if first < edge < end)}
    return [part for pair in pairwise(sorted(edges)) if (part := whole.between(*pair)) is not None]


def _without(chunk: Chunk, stored: Mapping[int, NDArray[np.int64]]) -> Chunk | None:
    """A chunk without the episodes of each run that are stored, sorted; None if nothing is left."""
    numbers, done = chunk.numbers, stored.get(chunk.run, chunk.numbers[:0])
    start, stop = np.searchsorted(done, (numbers[0], numbers[-1] + 1))  # few: a study may have thousands of chunks
    if start == stop:
        return chunk
    missing = np.setdiff1d(numbers, done[start:stop])
    return replace(chunk, numbers=missing) if len(missing) else None


def missing_episodes(
    store: OutcomeStore, cell: Cell, protocol: Protocol, shard: Shard | None = None
) -> list[NDArray[np.int64]]:
    """The numbers of the episodes of each run that are not stored.

    Args:
        store: of the outcomes.
        cell: of the episodes.
        protocol: how many there should be.
        shard: the part of every run to count; all of it by default.

    Raises:
        OutcomeError: a part is damaged.
    """
    done = store.done(cell)
    wanted = np.arange(protocol.episodes) if shard is None else shard.of(protocol.episodes)
    return [np.setdiff1d(wanted, done.get(run, wanted[:0])) for run in range(protocol.runs)]
