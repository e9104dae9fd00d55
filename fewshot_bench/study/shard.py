"""A fixed part of every run, for machines that share nothing but the command."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.errors import StudyError


@dataclass(frozen=True)
class Shard:
    """The I-th of N parts.

    Attributes:
        number: I, from 1.
        count: N.
    """

    number: int
    count: int

    @classmethod
    def read(cls, text: str) -> Shard:
        """Read "I/N".

        Raises:
            StudyError: it is no such text.
        """
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise StudyError(f"--shard takes I/N with I from 1 to N, such as 1/4, not '{text}'.")
        return cls(int(match[1]), int(match[2]))

    def of(self, episodes: int) -> NDArray[np.int64]:
        """Its episodes of a run: consecutive ones, whatever the size of a chunk is on this machine.

        Args:
            episodes: of the run.
        """
        return np.arange(episodes * (self.number - 1) // self.count, episodes * self.number // self.count)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"
