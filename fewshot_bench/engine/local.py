"""The engine of one process: chunk after chunk, on one device."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fewshot_bench.engine.engine import Chunk, Crew, Finished, P, T, Worker
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
    def method(self, make: Callable[[], Worker]) -> Iterator[Crew]:
        """This process itself."""
        yield _Alone(make())

    def facts(self) -> dict[str, Any]:
        """There is nothing to say of it."""
        return {}


class _Alone:
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
    """A chunk after its computation, which may fail in any way: a method is anybody's code."""
    try:
        return Finished(chunk, worker(chunk), peak_bytes=worker.peak_bytes())
    except Exception as error:
        keep_traceback(error)
        _let_go(error)
        return Finished(chunk, None, error, worker.peak_bytes())


def _let_go(error: BaseException) -> None:
    """Free what the calls of a failed attempt hold: it may be the memory that a smaller one needs."""
    chain: BaseException | None = error
    while chain is not None and chain.__traceback__ is not None:  # each once, even where they run in a circle
        traceback.clear_frames(chain.__traceback__)
        chain.__traceback__ = None
        chain = chain.__cause__ or chain.__context__
