"""One method of a study: whichever of its episodes are not stored yet, from images to outcomes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.atomic import remove_abandoned
from fewshot_bench.engine.engine import Crew, Engine, Finished
from fewshot_bench.episodes import Protocol
from fewshot_bench.errors import OutcomeError
from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.outcomes.leases import Heart, Leases
from fewshot_bench.progress import Progress, Step
from fewshot_bench.study.chunk_queue import ChunkQueue, Job, Left, Taken, missing_episodes
from fewshot_bench.study.pieces import Experience, Pieces, is_failure, reason_of
from fewshot_bench.study.shard import Shard
from fewshot_bench.study.worker import WorkerRecipe

_PAUSE = 0.2  # seconds between two looks at chunks that others work on


@dataclass
class MethodRun:
    """One method of a study, which can be run a part of its episodes at a time.

    Attributes:
        recipe: makes what makes its workers; called when the first episode is missing.
        planned: its cells, with their protocols.
        store: where the outcomes go.
        engine: who computes them.
        progress: shown one stage for what is missing.
        chunk: episodes of a chunk; as many as the engine wants by default.
        shard: the part of every run that is to be computed here; all of it by default.
        peak_bytes: the most memory that it took, as far as is known.
        failed: how many episodes have failed.
        reason: why the first of these did.
        experience: whether it ever succeeds.
    """

    recipe: Callable[[], WorkerRecipe]
    planned: list[tuple[Cell, Protocol]]
    store: OutcomeStore
    engine: Engine
    progress: Progress
    chunk: int | None = None
    shard: Shard | None = None
    peak_bytes: int = 0
    failed: int = 0
    reason: str = ""
    _given_up: dict[tuple[str, int], NDArray[np.int64]] = field(default_factory=dict)
    _not_begun: list[tuple[Cell, int, NDArray[np.int64]]] = field(default_factory=list)
    experience: Experience = field(default_factory=Experience)
    _crew: Crew | None = None
    _open: ExitStack = field(default_factory=ExitStack)

    @property
    def name(self) -> str:
        """What people call the method."""
        return self.planned[0][0].method.name

    def run(self, some: Sequence[tuple[Cell, Protocol]]) -> None:
        """Run the missing episodes of some cells, beside other processes that do the same; wait for theirs."""
        left = [(cell, protocol, self._missing(cell, protocol)) for cell, protocol in some]
        for cell, _, missing in left:
            if not any(map(len, missing)):
                self._clean(cell)
        left = [one for one in left if any(map(len, one[2]))]
        if not left:
            return
        try:
            crew = self._workers()
        except Exception as error:
            self._give_up(left, error)
            return
        for cell, _, _ in left:
            self.store.open_cell(cell)
        queue = ChunkQueue(self.store, left, lambda protocol: self.chunk or crew.chunk(protocol))
        with self.progress.step(_described(left), queue.episodes) as step, Heart(queue.leases):
            _Shift(self, crew, queue, step).work()
        queue.clean()
        self._check_all_is_there(left)
        for cell, _, _ in left:
            self.store.open_cell(replace(cell, provenance={**cell.provenance, "peak_bytes": self.peak_bytes}))

    def forget(self) -> None:
        """Let its workers and their embeddings go."""
        self._crew = None
        self._open.close()

    def _missing(self, cell: Cell, protocol: Protocol) -> list[NDArray[np.int64]]:
        """Numbers of the episodes of each run that are to be computed: those that failed before are not tried again."""
        missing = missing_episodes(self.store, cell, protocol, self.shard)
        nothing = np.arange(0)
        return [np.setdiff1d(some, self._given_up.get((cell.key, run), nothing)) for run, some in enumerate(missing)]

    def _clean(self, cell: Cell) -> None:
        """Remove what a process has left of a complete cell that was killed after it had stored its last outcomes."""
        folder = self.store.cell_folder(cell)
        Leases(folder).clean()
        remove_abandoned(folder)

    def _check_all_is_there(self, left: Sequence[Left]) -> None:
        """See that what was stored meanwhile still is.

        Raises:
            OutcomeError: files have vanished.
        """
        for cell, protocol, _ in left:
            if count := sum(map(len, self._missing(cell, protocol))):
                raise OutcomeError(
                    f"{count:,} episodes of {cell.method.name} have vanished from {self.store.cell_folder(cell)} while "
                    "others were computed. See that the disk is there and nothing removes files; then run again."
                )

    def _give_up(self, left: Sequence[Left], error: Exception) -> None:
        """Note that a method cannot even begin: its embeddings are no numbers, or do not fit into the memory.

        Raises:
            Exception: the error, where it is of another kind.
        """
        if not is_failure(error):
            raise error
        for cell, _, missing in left:
            for run, numbers in enumerate(missing):
                if len(numbers):
                    self._not_begun.append((cell, run, numbers))
                    self._note(cell, run, numbers, reason_of(error))

    def record_not_begun(self) -> None:
        """Record the failure of a method that could not begin; later than others, lest wrong input leave a folder."""
        for cell, run, numbers in self._not_begun:
            self.store.open_cell(cell)
            self.store.record_failure(cell, run, numbers, self.reason)

    def failed_on(self, cell: Cell, run: int, numbers: NDArray[np.int64], reason: str) -> None:
        """Record that episodes failed.

        Args:
            cell: whose they are.
            run: number of the run.
            numbers: which, [E].
            reason: one line.
        """
        self.store.record_failure(cell, run, numbers, reason)
        self._note(cell, run, numbers, reason)

    def _note(self, cell: Cell, run: int, numbers: NDArray[np.int64], reason: str) -> None:
        before = self._given_up.get((cell.key, run), numbers[:0])
        self._given_up[cell.key, run] = np.union1d(before, numbers)
        self.failed += len(numbers)
        self.reason = self.reason or reason

    def _workers(self) -> Crew:
        if self._crew is None:
            self._crew = self._open.enter_context(self.engine.method(self.recipe()))
        return self._crew


class _Shift:
    """One stretch of work at a queue: takes chunks, stores what comes back, tries again what failed."""

    def __init__(self, method: MethodRun, crew: Crew, queue: ChunkQueue, step: Step) -> None:
        self._method, self._crew, self._queue, self._step = method, crew, queue, step
        self._under_way: dict[int, Pieces] = {}
        self._pieces: list[Pieces] = []

    def work(self) -> None:
        """Until nothing is missing that can be computed."""
        try:
            while True:
                self._fill()
                if self._under_way:
                    for finished in self._crew.finished():
                        self._settle(finished)
                elif self._queue.is_empty:
                    return
                else:
                    self._wait_for_others()
        finally:
            for pieces in self._pieces:
                pieces.taken.lease.release()

    def _fill(self) -> None:
        """Have as many chunks under way as there is room for; what is left of a failed one comes first."""
        while len(self._under_way) < self._crew.room:
            pieces = next((one for one in self._pieces if one.waiting), None) or self._take()
            if pieces is None:
                return
            chunk = pieces.next()
            self._under_way[id(chunk)] = pieces
            self._crew.start(chunk)

    def _take(self) -> Pieces | None:
        """A chunk that nobody has stored or is at."""
        while (taken := self._queue.take()) is not None:
            left = self._queue.still_missing(taken.job)
            self._step.advance(len(taken.job.chunk) - (len(left.chunk) if left is not None else 0))
            if left is not None:
                self._pieces.append(Pieces(Taken(left, taken.lease), self._method.experience))
                return self._pieces[-1]
            taken.lease.release()
            self._step.advance(self._queue.drop_stored())  # where there is one that others stored there are more
        return None

    def _settle(self, finished: Finished) -> None:
        pieces = self._under_way.pop(id(finished.chunk))
        self._method.peak_bytes = max(self._method.peak_bytes, finished.peak_bytes)
        job = pieces.taken.job
        if finished.frame is not None:
            self._store(pieces, job, finished)
            self._step.advance(len(finished.chunk))
        else:
            for numbers, reason in pieces.failed(finished):
                self._method.failed_on(job.cell, job.chunk.run, numbers, reason)
                self._step.advance(len(numbers), "failed")
        if pieces.is_done:
            self._pieces.remove(pieces)
            pieces.taken.lease.release()

    def _store(self, pieces: Pieces, job: Job, finished: Finished) -> None:
        """Store outcomes, but for those of a process that took this one for lost and was faster."""
        pieces.succeeded()
        frame = finished.frame
        assert frame is not None
        if not pieces.taken.lease.is_held():
            self._queue.check_folder(job)
            left = self._queue.still_missing(replace(job, chunk=finished.chunk))
            frame = frame[frame["episode"].isin([] if left is None else left.chunk.numbers)]
        if len(frame):
            self._method.store.append_frame(job.cell, frame)

    def _wait_for_others(self) -> None:
        self._step.advance(0, "waiting for other processes")
        time.sleep(_PAUSE)
        self._step.advance(self._queue.drop_stored())


def _described(left: Sequence[Left]) -> str:
    cell, protocol, _ = left[0]
    shots = ",".join(dict.fromkeys(str(protocol.shot) for _, protocol, _ in left))
    return f"{protocol.way}-way {shots}-shot, {cell.method.name}"
