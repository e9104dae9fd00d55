"""The engine of one process: chunk after chunk, on one device."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fewshot_bench.engine.engine import Chunk, Finished, P, T, Worker, WorkerPool
from fewshot_bench.episodes.protocol import Protocol
from fewshot_bench.errors import keep_traceback


class LocalEngine:
    """Computes in this process; see `Engine`."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call it here."""
        return function(*args, **kwargs)

    @contextmanager
    def workers(self, make: Callable[[], Worker]) -> Iterator[WorkerPool]:
        """A pool of one worker in this process."""
        yield _OneWorker(make())

    def facts(self) -> dict[str, Any]:
        """Nothing."""
        return {}


class _OneWorker:
    room = 1

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._started: list[Chunk] = []

    def chunk(self, protocol: Protocol) -> int:
        return self._worker.chunk(protocol)

    def start(self, chunk: Chunk) -> None:
        self._started.append(chunk)

    def finished(self) -> list[Finished]:
        return [computed(self._worker, self._started.pop(0))]


def computed(worker: Worker, chunk: Chunk) -> Finished:
    """Compute a chunk; any error is kept, since a method may be third-party code."""
    try:
        return Finished(chunk, worker(chunk), peak_bytes=worker.peak_bytes())
    except Exception as error:
        keep_traceback(error)
        _free_frames(error)
        return Finished(chunk, None, error, worker.peak_bytes())


def _free_frames(error: BaseException) -> None:
    """Free what the calls of a failed attempt hold: a smaller attempt may need the memory."""
    chain: BaseException | None = error
    while chain is not None and chain.__traceback__ is not None:  # each once, even if they form a circle
        traceback.clear_frames(chain.__traceback__)
        chain.__traceback__ = None
        chain = chain.__cause__ or chain.__context__
