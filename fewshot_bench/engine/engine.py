"""Who computes which chunk of episodes: what a study asks of an engine, in this process or on many machines.

Which device of this process computes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar
from typing import Protocol as Interface

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from fewshot_bench.episodes.protocol import Protocol
from fewshot_bench.errors import StudyError

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some episodes of one run that are computed and stored together.

    Attributes:
        protocol: that they belong to.
        run: number of the run, from 0.
        numbers: which episodes of the run, sorted, [E].
        at_once: at most so many in memory at a time; never changes a result.
    """

    protocol: Protocol
    run: int
    numbers: NDArray[np.int64]
    at_once: int

    def __len__(self) -> int:
        return len(self.numbers)


@dataclass(frozen=True, eq=False)
class Finished:
    """What has become of a chunk: its outcomes, or why there are none.

    Attributes:
        chunk: as it was started.
        frame: one row per episode, as `episode_frame` makes it; None where it failed. Any other frame is a failure too.
        error: what the method raised; None where it did not fail.
        peak_bytes: the most memory that the process which computed it took so far; 0 where nobody knows.
    """

    chunk: Chunk
    frame: pd.DataFrame | None
    error: Exception | None = None
    peak_bytes: int = 0


class Worker(Interface):
    """One method in one process: from episodes to outcomes."""

    def chunk(self, protocol: Protocol) -> int:
        """How many episodes should be computed, and stored, together."""

    def __call__(self, chunk: Chunk) -> pd.DataFrame:
        """The outcomes of a chunk, as `episode_frame` makes them, by run and episode, [E]."""

    def peak_bytes(self) -> int:
        """The most memory since this method began, or of the process where only that is known."""


class Crew(Interface):
    """Those who work at one method."""

    @property
    def room(self) -> int:
        """How many chunks should be under way at a time."""

    def chunk(self, protocol: Protocol) -> int:
        """How many episodes a chunk should have; see `Worker`."""

    def start(self, chunk: Chunk) -> None:
        """Begin with a chunk; returns at once where others compute it."""

    def finished(self) -> list[Finished]:
        """Wait until at least one of the chunks under way has an end, and say which; each is told once."""


class Engine(Interface):
    """Where the computing is done.

    Attributes:
        device: the torch device that the study's computations use there, such as "cuda".
    """

    device: str

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function where the device is: for base stages and embeddings.

        An argument called `progress` is shown where it can be; in another process it is silent.
        """

    def method(self, make: Callable[[], Worker]) -> AbstractContextManager[Crew]:
        """Those who are going to work at one method.

        Args:
            make: makes a worker, in each process that needs one; it and what it holds can be pickled.
        """

    def facts(self) -> dict[str, Any]:
        """What is recorded of the engine with every cell, as plain data; empty for this process."""


def chosen_device(name: str) -> str:
    """The torch device for "auto", "cpu", "cuda", "cuda:1", "mps".

    Raises:
        StudyError: this machine has no such device.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()  # "meta" can be made, but holds nothing
        if torch.device(name).type == "cuda":
            torch.cuda.set_device(name)  # what is recorded and timed there belongs to the current device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise StudyError(f"there is no device '{name}' here. Use --device cpu, or auto.") from error
    return name
