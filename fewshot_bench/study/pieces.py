"""A chunk that failed, tried again in smaller pieces until what fails is known."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.engine.engine import Chunk, Finished
from fewshot_bench.errors import FewshotBenchError
from fewshot_bench.study.chunk_queue import Taken
from fewshot_bench.training.per_episode.memory import is_out_of_memory

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
