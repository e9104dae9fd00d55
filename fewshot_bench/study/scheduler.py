"""One method of a study: whichever of its episodes are not stored yet, from images to outcomes.

The loop over chunks: take one that is missing, have it computed, store what comes back, try again what failed.

A chunk that failed, tried again in smaller pieces until what fails is known.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from fewshot_bench._io.storage import remove_abandoned
from fewshot_bench.engine.engine import Chunk, Crew, Engine, Finished
from fewshot_bench.episodes import Protocol
from fewshot_bench.errors import FewshotBenchError, OutcomeError, ShapeError, show_traceback
from fewshot_bench.finetuning.memory import is_out_of_memory
from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.outcomes.frame import check_episodes, check_frame
from fewshot_bench.outcomes.leases import Heart, Leases
from fewshot_bench.progress import Progress, Step
from fewshot_bench.study.chunks import ChunkQueue, Job, Left, Shard, Taken, missing_episodes
from fewshot_bench.study.workers import WorkerFactory

_IN_A_ROW = 3
"""Single episodes that fail one after the other before pieces that fail are tried episode by episode, not in halves."""
_HOPELESS = 32
"""Single episodes that fail before a method of which none has succeeded is tried on one episode of each chunk only."""


@dataclass
class Experience:
    """What is known of a method so far.

    Attributes:
        has_succeeded: whether any episode was computed.
        failed_alone: how many single episodes have failed.
    """

    has_succeeded: bool = False
    failed_alone: int = 0

    @property
    def is_hopeless(self) -> bool:
        """Whether trying every episode by itself is a waste of time."""
        return not self.has_succeeded and self.failed_alone >= _HOPELESS


class Pieces:
    """What is to be computed of one chunk that this process has taken.

    Of a method that has ever succeeded, every episode is computed or has failed alone. Where all of a chunk fails that
    costs at most four times the chunk.
    """

    def __init__(self, taken: Taken, experience: Experience) -> None:
        self.taken = taken
        self.waiting: deque[Chunk] = deque([taken.job.chunk])
        self._experience = experience
        self._under_way = 0
        self._in_a_row = 0

    @property
    def is_done(self) -> bool:
        """Whether every episode is computed or given up."""
        return not self.waiting and not self._under_way

    def next(self) -> Chunk:
        """The next piece to compute."""
        self._under_way += 1
        chunk = self.waiting.popleft()
        if self._experience.is_hopeless and len(chunk) > 1:
            chunk, rest = _cut(chunk, 1)
            self.waiting.appendleft(rest)
        return chunk

    def succeeded(self) -> None:
        """Take note that a piece was computed."""
        self._under_way -= 1
        self._in_a_row = 0
        self._experience.has_succeeded = True

    def failed(self, finished: Finished) -> list[tuple[NDArray[np.int64], str]]:
        """Take note that a piece failed; its parts are tried next, the first one first.

        Returns:
            Episodes that are given up, each with the reason; none where smaller pieces are still to be tried.
        """
        self._under_way -= 1
        chunk = finished.chunk
        if len(chunk) > 1:
            cuts = range(1, len(chunk)) if self._in_a_row >= _IN_A_ROW else [len(chunk) // 2]
            self.waiting.extendleft(reversed(_cut(chunk, *cuts)))
            return []
        assert finished.error is not None
        self._in_a_row += 1
        self._experience.failed_alone += 1
        reason = reason_of(finished.error)
        given_up = [(chunk.numbers, reason)]
        if self._experience.is_hopeless and self.waiting:
            rest = np.concatenate([piece.numbers for piece in self.waiting])
            given_up.append((rest, f"not tried, as no episode succeeded before: {reason}"))
            self.waiting.clear()
        return given_up


def reason_of(error: Exception) -> str:
    """Why a computation failed, in one line; of what is no error of this project the type is told too."""
    text = " ".join(str(error).split())
    kind = "" if isinstance(error, FewshotBenchError) else type(error).__name__
    return ": ".join(word for word in (kind, text) if word)


def is_failure(error: Exception) -> bool:
    """Whether an error before the first episode is the method's or the machine's, and not a defect of this program."""
    return isinstance(error, FewshotBenchError) or is_out_of_memory(error)


def _cut(chunk: Chunk, *cuts: int) -> list[Chunk]:
    """The parts of a chunk between some places in it."""
    parts = np.split(chunk.numbers, list(cuts))
    return [replace(chunk, numbers=numbers, at_once=min(chunk.at_once, len(numbers))) for numbers in parts]


_PAUSE = 0.2  # seconds between two looks at chunks that others work on


class Shift:
    """One stretch of work at a queue: takes chunks, stores what comes back, tries again what failed."""

    def __init__(self, method: MethodRun, crew: Crew, queue: ChunkQueue, step: Step) -> None:
        self._method, self._crew, self._queue, self._step = method, crew, queue, step
        self._under_way: dict[Chunk, Pieces] = {}
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
            for leases in self._queue.leases:
                leases.release_all()

    def _fill(self) -> None:
        """Have as many chunks under way as there is room for; what is left of a failed one comes first."""
        while len(self._under_way) < self._crew.room:
            pieces = next((one for one in self._pieces if one.waiting), None) or self._take()
            if pieces is None:
                return
            chunk = pieces.next()
            self._under_way[chunk] = pieces
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
        pieces = self._under_way.pop(finished.chunk)
        self._method.peak_bytes = max(self._method.peak_bytes, finished.peak_bytes)
        job = pieces.taken.job
        finished = _checked(finished, job.cell)
        if finished.error is not None:
            show_traceback(finished.error)
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
            self._method.store.append_frame(job.cell, frame, is_checked=True)

    def _wait_for_others(self) -> None:
        self._step.advance(0, "waiting for other processes")
        time.sleep(_PAUSE)
        self._step.advance(self._queue.drop_stored())


def _checked(finished: Finished, cell: Cell) -> Finished:
    """What came back; as a failure where it is not what was asked for, since engine and worker may be anybody's."""
    try:
        if finished.frame is not None:
            check_frame(cell, finished.frame)
            check_episodes(finished.frame, finished.chunk.run, finished.chunk.numbers)
        elif finished.error is None:
            raise ShapeError("neither outcomes nor a reason came back.")
    except ShapeError as error:
        return replace(finished, frame=None, error=error)
    return finished


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
        asked_name: what the study calls the method; it may be stored under another name.
        peak_bytes: the most memory that it took, as far as is known.
        failed: how many episodes have failed.
        reason: why the first of these did.
        experience: whether it ever succeeds.
    """

    recipe: Callable[[], WorkerFactory]
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
            Shift(self, crew, queue, step).work()
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
        show_traceback(error)
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


def _described(left: Sequence[Left]) -> str:
    cell, protocol, _ = left[0]
    shots = ",".join(dict.fromkeys(str(protocol.shot) for _, protocol, _ in left))
    return f"{protocol.way}-way {shots}-shot, {cell.method.marked_name}"
