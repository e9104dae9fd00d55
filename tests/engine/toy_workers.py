"""Workers of a moment, for engines: they add numbers up, and do what a test wants of them."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fewshot_bench.engine.engine import Chunk
from fewshot_bench.episodes import Protocol
from fewshot_bench.errors import StudyError, UnknownNameError

UNLUCKY = 13
"""The episode at which things happen."""

PROTOCOL = Protocol(dataset="toy", split="novel", way=5, shot=1, query=3, episodes=40, runs=1)


class NeedsTwoError(Exception):
    """An error that cannot be pickled as it is."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


@dataclass
class Make:
    """Makes a worker.

    Attributes:
        data: to be added up.
        at_unlucky: "raise", "raise-odd", "die", "die-once" or "".
        mark: a file that says that somebody died.
    """

    data: Any
    at_unlucky: str = ""
    mark: Path = Path("nowhere")

    def __call__(self) -> ToyWorker:
        return ToyWorker(self)


class ToyWorker:
    def __init__(self, make: Make) -> None:
        self.make = make

    def chunk(self, protocol: Protocol) -> int:
        return protocol.episodes

    def peak_bytes(self) -> int:
        return 5

    def __call__(self, chunk: Chunk) -> pd.DataFrame:
        if UNLUCKY in chunk.numbers:
            self._be_unlucky()
        data = self.make.data
        told = {"sum": int(data.sum()), "copied": bool(data.flags.owndata or data.flags.writeable), "pid": os.getpid()}
        return pd.DataFrame({"episode": chunk.numbers, **told, "kind": type(data).__name__})

    def _be_unlucky(self) -> None:
        if self.make.at_unlucky == "raise":
            raise ValueError("thirteen")
        if self.make.at_unlucky == "raise-odd":
            raise NeedsTwoError("this", "that")
        if self.make.at_unlucky == "die" or (self.make.at_unlucky == "die-once" and not self.make.mark.exists()):
            self.make.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def chunks(size: int) -> list[Chunk]:
    """All episodes of the protocol."""
    return [Chunk(PROTOCOL, 0, np.arange(i, i + size), size) for i in range(0, PROTOCOL.episodes, size)]


def work(count: int, *, progress: Any) -> int:
    with progress.step("working", count, unit="images") as step:
        for number in range(count):
            step.advance(1, str(number))
    return os.getpid()


def refuse() -> None:
    raise UnknownNameError("backbone", "resnet", ["conv4"])


def unmakeable() -> Any:
    raise StudyError("nothing to tune")


def put_into_the_store(thing: Any) -> tuple[list[Any], int]:
    """A reference to something that is lost when this process ends, and the process."""
    import ray

    return [ray.put(thing)], os.getpid()
