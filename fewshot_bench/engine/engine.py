"""What the scheduler asks of an engine, which computes chunks of episodes in this process or on many machines.

`LocalEngine` computes chunk after chunk in this process, on one device; Ray's engine is in `ray_engine`.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar
from typing import Protocol as Interface

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fewshot_bench.episodes.protocol import Protocol
from fewshot_bench.errors import keep_traceback

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Chunk:
    """Episodes of one run that are computed and stored together.

    Attributes:
        protocol: of the episodes.
        run: number of the run, from 0.
        numbers: which episodes of the run, sorted, [E].
        at_once: the most episodes in memory at a time; never changes a result.
    """

    protocol: Protocol
    run: int
    numbers: NDArray[np.int64]
    at_once: int

    def __len__(self) -> int:
        return len(self.numbers)


@dataclass(frozen=True, eq=False)
class Finished:
    """A chunk with its outcomes, or with the reason why it has none.

    Attributes:
        chunk: as it was started.
        frame: one row per episode, as `episode_frame` makes it; None if it failed. Any other frame is a failure too.
        error: what the method raised; None if it did not fail.
        peak_bytes: the most memory that the process of the worker has taken so far; 0 if unknown.
    """

    chunk: Chunk
    frame: pd.DataFrame | None
    error: Exception | None = None
    peak_bytes: int = 0


class Worker(Interface):
    """One method in one process: from episodes to outcomes."""

    def chunk(self, protocol: Protocol) -> int:
        """How many episodes to compute, and store, together."""

    def __call__(self, chunk: Chunk) -> pd.DataFrame:
        """The outcomes of a chunk, as `episode_frame` makes them, by run and episode, [E]."""

    def peak_bytes(self) -> int:
        """The most memory since this method began, or of the whole process if only that is known."""


class WorkerPool(Interface):
    """The workers of one method."""

    @property
    def room(self) -> int:
        """How many chunks to have started at a time."""

    def chunk(self, protocol: Protocol) -> int:
        """How many episodes a chunk should have; see `Worker`."""

    def start(self, chunk: Chunk) -> None:
        """Start a chunk; returns at once if another process computes it."""

    def finished(self) -> list[Finished]:
        """Wait until one or more of the started chunks have finished, and return them; each is returned once."""


class Engine(Interface):
    """Where computations run.

    Attributes:
        device: their torch device, such as "cuda".
    """

    device: str

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function where the device is, for base stages and embeddings.

        An argument called `progress` is shown by this process.
        """

    def workers(self, make: Callable[[], Worker]) -> AbstractContextManager[WorkerPool]:
        """The workers of one method; `make` makes one in each process that needs it, and can be pickled."""

    def facts(self) -> dict[str, Any]:
        """What every cell records about the engine, as plain data; empty for this process."""


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
