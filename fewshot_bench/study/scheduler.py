"""The scheduler: claim free work by leases, have it computed, store what comes back, retry what failed.

Any number of processes, on one machine or on many, may run the same command on one folder of results: each takes what
no other holds, and all end when nothing is missing. `Scheduler` is the loop; `MethodRun` uses it for the chunks of a
method, `sweep_run` for the points of a sweep.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from fewshot_bench._io.storage import remove_abandoned
from fewshot_bench.devices import is_out_of_memory
from fewshot_bench.engine.engine import Chunk, Engine, Finished, WorkerPool
from fewshot_bench.episodes import Protocol
from fewshot_bench.errors import FewshotBenchError, OutcomeError, ShapeError, show_traceback
from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.outcomes.frame import check_episodes, check_frame
from fewshot_bench.outcomes.leases import Heartbeat, Leases
from fewshot_bench.progress import Progress, Step
from fewshot_bench.study.chunks import ChunkQueue, ClaimedChunk, MissingEpisodes, Shard, missing_episodes
from fewshot_bench.study.workers import WorkerFactory

_FAILURES_IN_A_ROW = 3
"""Single episodes that fail in a row before failing chunks are cut into episodes instead of halves."""
_HOPELESS = 32
"""Single episodes that fail before a method without any success is tried on one episode of each chunk only."""


class Scheduler(ABC):
    """Works until nothing is missing, and waits for what other processes hold.

    Attributes:
        pause: seconds between two looks at what other processes hold.
    """

    pause = 0.2

    def __init__(self, leases: Sequence[Leases], step: Step) -> None:
        """Claim nothing yet; `step` shows how much is done."""
        self._leases, self._step = leases, step

    def run(self) -> None:
        """Work until nothing is missing that can be computed."""
        with Heartbeat(self._leases):
            try:
                while True:
                    if self.work():
                        continue
                    if self.is_done():
                        return
                    self._step.advance(0, "waiting for other processes")
                    time.sleep(self.pause)
                    self._step.advance(self.drop_stored())
            finally:
                for leases in self._leases:
                    leases.release_all()

    @abstractmethod
    def work(self) -> bool:
        """Compute free work; False if there is none now."""

    @abstractmethod
    def is_done(self) -> bool:
        """Whether nothing is left that other processes hold."""

    @abstractmethod
    def drop_stored(self) -> int:
        """Forget what other processes have stored meanwhile, and count it."""


@dataclass
class RetryState:
    """What the attempts at a method have shown: any success, and how many single episodes have failed."""

    has_succeeded: bool = False
    failed_alone: int = 0

    @property
    def is_hopeless(self) -> bool:
        """Whether trying every episode by itself is a waste of time."""
        return not self.has_succeeded and self.failed_alone >= _HOPELESS


class ChunkRetry:
    """A claimed chunk, computed whole at first and in smaller ones where it fails.

    If the method has ever succeeded, every episode is computed or has failed alone. A chunk that fails completely costs
    at most four times its own time.
    """

    def __init__(self, claimed: ClaimedChunk, state: RetryState) -> None:
        self.claimed = claimed
        self.pending: deque[Chunk] = deque([claimed.chunk])
        self._state = state
        self._running = 0
        self._failed_in_a_row = 0

    @property
    def is_done(self) -> bool:
        """Whether every episode is computed or given up."""
        return not self.pending and not self._running

    def next(self) -> Chunk:
        """The next chunk to compute."""
        self._running += 1
        chunk = self.pending.popleft()
        if self._state.is_hopeless and len(chunk) > 1:
            chunk, rest = _split(chunk, 1)
            self.pending.appendleft(rest)
        return chunk

    def succeeded(self) -> None:
        """Note that a chunk was computed."""
        self._running -= 1
        self._failed_in_a_row = 0
        self._state.has_succeeded = True

    def failed(self, chunk: Chunk, error: Exception) -> list[tuple[NDArray[np.int64], str]]:
        """Note that a chunk failed, and cut it into smaller ones, which come next.

        Returns:
            Episodes that are given up, with the reason; none while smaller chunks are left to try.
        """
        self._running -= 1
        if len(chunk) > 1:
            every = self._failed_in_a_row >= _FAILURES_IN_A_ROW
            cuts = range(1, len(chunk)) if every else [len(chunk) // 2]
            self.pending.extendleft(reversed(_split(chunk, *cuts)))
            return []
        self._failed_in_a_row += 1
        self._state.failed_alone += 1
        reason = reason_of(error)
        given_up = [(chunk.numbers, reason)]
        if self._state.is_hopeless and self.pending:
            rest = np.concatenate([pending.numbers for pending in self.pending])
            given_up.append((rest, f"not tried, as no episode succeeded before: {reason}"))
            self.pending.clear()
        return given_up


def _split(chunk: Chunk, *cuts: int) -> list[Chunk]:
    """The parts of a chunk between several positions."""
    parts = np.split(chunk.numbers, list(cuts))
    return [replace(chunk, numbers=numbers, at_once=min(chunk.at_once, len(numbers))) for numbers in parts]


def reason_of(error: Exception) -> str:
    """Why a computation failed, in one line; errors of other packages are named by their type."""
    text = " ".join(str(error).split())
    kind = "" if isinstance(error, FewshotBenchError) else type(error).__name__
    return ": ".join(word for word in (kind, text) if word)


def is_failure(error: Exception) -> bool:
    """Whether an error before the first episode comes from the method or the machine, not from a bug here."""
    return isinstance(error, FewshotBenchError) or is_out_of_memory(error)


class _ChunkScheduler(Scheduler):
    """Works at the chunks of a method with a pool of workers."""

    def __init__(self, method: MethodRun, pool: WorkerPool, queue: ChunkQueue, step: Step) -> None:
        super().__init__(queue.leases, step)
        self._method, self._pool, self._queue = method, pool, queue
        self._running: dict[Chunk, ChunkRetry] = {}
        self._retries: list[ChunkRetry] = []

    def work(self) -> bool:
        """Keep the pool busy, and store what comes back."""
        while len(self._running) < self._pool.room:
            retry = next((retry for retry in self._retries if retry.pending), None) or self._claim()
            if retry is None:
                break
            chunk = retry.next()
            self._running[chunk] = retry
            self._pool.start(chunk)
        if not self._running:
            return False
        for finished in self._pool.finished():
            self._handle(finished)
        return True

    def is_done(self) -> bool:
        """See `Scheduler`."""
        return self._queue.is_empty

    def drop_stored(self) -> int:
        """See `Scheduler`."""
        return self._queue.drop_stored()

    def _claim(self) -> ChunkRetry | None:
        """A chunk that no other process holds or has stored."""
        while (claimed := self._queue.take()) is not None:
            missing = self._queue.still_missing(claimed.cell, claimed.chunk)
            self._step.advance(len(claimed.chunk) - (len(missing) if missing is not None else 0))
            if missing is not None:
                self._retries.append(ChunkRetry(replace(claimed, chunk=missing), self._method.retry_state))
                return self._retries[-1]
            claimed.lease.release()
            self._step.advance(self._queue.drop_stored())  # where others stored one chunk they stored more
        return None

    def _handle(self, finished: Finished) -> None:
        retry = self._running.pop(finished.chunk)
        cell, run = retry.claimed.cell, finished.chunk.run
        self._method.peak_bytes = max(self._method.peak_bytes, finished.peak_bytes)
        error = finished.error or _problem(finished, cell)
        if error is None:
            retry.succeeded()
            self._store(finished, retry.claimed)
            self._step.advance(len(finished.chunk))
        else:
            show_traceback(error)
            for numbers, reason in retry.failed(finished.chunk, error):
                self._method.record_failure(cell, run, numbers, reason)
                self._step.advance(len(numbers), "failed")
        if retry.is_done:
            self._retries.remove(retry)
            retry.claimed.lease.release()

    def _store(self, finished: Finished, claimed: ClaimedChunk) -> None:
        """Store outcomes, except those of a process that took over the lease and was faster."""
        frame = finished.frame
        assert frame is not None
        if not claimed.lease.is_held():
            self._queue.check_folder(claimed.cell)
            missing = self._queue.still_missing(claimed.cell, finished.chunk)
            frame = frame[frame["episode"].isin([] if missing is None else missing.numbers)]
        if len(frame):
            self._method.store.append_frame(claimed.cell, frame, is_checked=True)


def _problem(finished: Finished, cell: Cell) -> ShapeError | None:
    """What is wrong with outcomes that came back: engine and worker may be third-party code."""
    if finished.frame is None:
        return ShapeError("neither outcomes nor a reason came back.")
    try:
        check_frame(cell, finished.frame)
        check_episodes(finished.frame, finished.chunk.run, finished.chunk.numbers)
    except ShapeError as error:
        return error
    return None


@dataclass
class MethodRun:
    """One method of a study, whose missing episodes can be run in several parts.

    Attributes:
        worker_factory: prepares what makes the workers; called when the first episode is missing.
        planned: the cells, with their protocols.
        store: where the outcomes go.
        engine: who computes them.
        progress: shown one stage for what is missing.
        chunk: episodes of a chunk; decided by the engine by default.
        shard: the part of every run to compute; all of it by default.
        asked_name: what the study calls the method, which may be stored under another name.
        peak_bytes: the most memory that it took, as far as is known.
        failed: how many episodes have failed.
        reason: why the first of them failed.
        retry_state: whether it ever succeeds.
    """

    worker_factory: Callable[[], WorkerFactory]
    planned: list[tuple[Cell, Protocol]]
    store: OutcomeStore
    engine: Engine
    progress: Progress
    chunk: int | None = None
    shard: Shard | None = None
    asked_name: str = ""
    peak_bytes: int = 0
    failed: int = 0
    reason: str = ""
    retry_state: RetryState = field(default_factory=RetryState)
    _given_up: dict[tuple[str, int], NDArray[np.int64]] = field(default_factory=dict)
    _not_begun: list[tuple[Cell, int, NDArray[np.int64]]] = field(default_factory=list)
    _pool: WorkerPool | None = None
    _open: ExitStack = field(default_factory=ExitStack)

    @property
    def name(self) -> str:
        """The name of the method."""
        return self.planned[0][0].method.name

    def run(self, cells: Sequence[tuple[Cell, Protocol]]) -> None:
        """Run the missing episodes of some cells beside other processes, and wait for theirs."""
        missing: list[MissingEpisodes] = []
        for cell, protocol in cells:
            runs = self._missing(cell, protocol)
            if any(map(len, runs)):
                missing.append((cell, protocol, runs))
            else:
                self._clean(cell)
        if not missing:
            return
        try:
            pool = self._workers()
        except Exception as error:
            self._give_up(missing, error)
            return
        for cell, _, _ in missing:
            self.store.open_cell(cell)
        queue = ChunkQueue(self.store, missing, lambda protocol: self.chunk or pool.chunk(protocol))
        with self.progress.step(_description(missing), queue.episodes) as step:
            _ChunkScheduler(self, pool, queue, step).run()
        queue.clean()
        self._check_nothing_vanished(missing)
        for cell, _, _ in missing:
            self.store.open_cell(replace(cell, provenance={**cell.provenance, "peak_bytes": self.peak_bytes}))

    def forget(self) -> None:
        """Release its workers and their embeddings."""
        self._pool = None
        self._open.close()

    def record_failure(self, cell: Cell, run: int, numbers: NDArray[np.int64], reason: str) -> None:
        """Record that episodes of a run failed, for a reason of one line."""
        self.store.record_failure(cell, run, numbers, reason)
        self._note_failure(cell, run, numbers, reason)

    def record_not_begun(self) -> None:
        """Record the failure of a method that could not begin; called late, lest wrong input leaves a folder."""
        for cell, run, numbers in self._not_begun:
            self.store.open_cell(cell)
            self.store.record_failure(cell, run, numbers, self.reason)

    def _missing(self, cell: Cell, protocol: Protocol) -> list[NDArray[np.int64]]:
        """Numbers of the episodes of each run to compute, without those that failed before."""
        missing = missing_episodes(self.store, cell, protocol, self.shard)
        nothing = np.arange(0)
        return [np.setdiff1d(each, self._given_up.get((cell.key, run), nothing)) for run, each in enumerate(missing)]

    def _clean(self, cell: Cell) -> None:
        """Remove what a process left that was killed after it had stored the last outcomes of a cell."""
        folder = self.store.cell_folder(cell)
        Leases(folder).clean()
        remove_abandoned(folder)

    def _check_nothing_vanished(self, missing: Sequence[MissingEpisodes]) -> None:
        """Check that what was stored meanwhile is still there; raises OutcomeError if files have vanished."""
        for cell, protocol, _ in missing:
            if count := sum(map(len, self._missing(cell, protocol))):
                raise OutcomeError(
                    f"{count:,} episodes of {cell.method.name} have vanished from {self.store.cell_folder(cell)} while "
                    "others were computed. Check that the disk is there and that nothing removes files; then run again."
                )

    def _give_up(self, missing: Sequence[MissingEpisodes], error: Exception) -> None:
        """Note that a method cannot begin: its embeddings are not finite, or do not fit into memory.

        Raises:
            Exception: the error, if it is a bug.
        """
        if not is_failure(error):
            raise error
        show_traceback(error)
        for cell, _, runs in missing:
            for run, numbers in enumerate(runs):
                if len(numbers):
                    self._not_begun.append((cell, run, numbers))
                    self._note_failure(cell, run, numbers, reason_of(error))

    def _note_failure(self, cell: Cell, run: int, numbers: NDArray[np.int64], reason: str) -> None:
        before = self._given_up.get((cell.key, run), numbers[:0])
        self._given_up[cell.key, run] = np.union1d(before, numbers)
        self.failed += len(numbers)
        self.reason = self.reason or reason

    def _workers(self) -> WorkerPool:
        if self._pool is None:
            self._pool = self._open.enter_context(self.engine.workers(self.worker_factory()))
        return self._pool


def _description(missing: Sequence[MissingEpisodes]) -> str:
    cell, protocol, _ = missing[0]
    if cell.protocol.is_whole:
        return f"{protocol.split} images, {cell.method.marked_name}"
    shots = ",".join(dict.fromkeys(str(protocol.shot) for _, protocol, _ in missing))
    return f"{protocol.way}-way {shots}-shot, {cell.method.marked_name}"
