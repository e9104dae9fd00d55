"""A chunk that failed, tried again in halves until what fails is known."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.engine.engine import Chunk, Finished
from fewshot_bench.errors import FewshotBenchError
from fewshot_bench.study.chunk_queue import Taken
from fewshot_bench.training.per_episode.memory import is_out_of_memory

_ENOUGH = 3
"""Single episodes that fail one after the other before the rest of their chunk is given up."""


class Pieces:
    """What is to be computed of one chunk that this process has taken."""

    def __init__(self, taken: Taken) -> None:
        self.taken = taken
        self.waiting: deque[Chunk] = deque([taken.job.chunk])
        self._under_way = 0
        self._in_a_row = 0

    @property
    def is_done(self) -> bool:
        """Whether every episode is computed or given up."""
        return not self.waiting and not self._under_way

    def next(self) -> Chunk:
        """The next piece to compute."""
        self._under_way += 1
        return self.waiting.popleft()

    def succeeded(self) -> None:
        """Take note that a piece was computed."""
        self._under_way -= 1
        self._in_a_row = 0

    def failed(self, finished: Finished) -> tuple[NDArray[np.int64], str] | None:
        """Take note that a piece failed: its halves are tried, the first half first.

        A chunk costs at most a few times its own time that way where all of it fails, since after a few single
        episodes the rest is given up.

        Returns:
            Episodes that are given up, and the reason; None where smaller pieces are still to be tried.
        """
        self._under_way -= 1
        chunk = finished.chunk
        if len(chunk) > 1:
            middle = len(chunk) // 2
            halves = [_part(chunk, chunk.numbers[:middle]), _part(chunk, chunk.numbers[middle:])]
            self.waiting.extendleft(reversed(halves))
            return None
        self._in_a_row += 1
        given_up = [chunk.numbers]
        if self._in_a_row >= _ENOUGH:
            given_up += [piece.numbers for piece in self.waiting]
            self.waiting.clear()
        assert finished.error is not None
        return np.concatenate(given_up), reason_of(finished.error)


def reason_of(error: Exception) -> str:
    """Why a computation failed, in one line; of what is no error of this project the type is told too."""
    text = " ".join(str(error).split())
    return text if isinstance(error, FewshotBenchError) else f"{type(error).__name__}: {text}"


def is_failure(error: Exception) -> bool:
    """Whether an error before the first episode is the method's or the machine's, and not a defect of this program."""
    return isinstance(error, FewshotBenchError) or is_out_of_memory(error)


def _part(chunk: Chunk, numbers: NDArray[np.int64]) -> Chunk:
    return replace(chunk, numbers=numbers, at_once=min(chunk.at_once, len(numbers)))
