"""The loop over chunks: take one that is missing, have it computed, store what comes back, try again what failed."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from fewshot_bench.debugging import show_traceback
from fewshot_bench.engine.engine import Chunk, Crew, Finished
from fewshot_bench.errors import ShapeError
from fewshot_bench.outcomes import Cell
from fewshot_bench.outcomes.frame_check import check_episodes, check_frame
from fewshot_bench.progress import Step
from fewshot_bench.study.chunk_queue import ChunkQueue, Job, Taken
from fewshot_bench.study.pieces import Pieces

if TYPE_CHECKING:
    from fewshot_bench.study.method_run import MethodRun

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
