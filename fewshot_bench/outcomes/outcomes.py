"""Outcomes in memory: what one method did on some episodes of one protocol."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fewshot_bench.outcomes.cell import Cell

_NONE = bytes([255])  # positions of classes are below


@dataclass(frozen=True, eq=False)
class Outcomes:
    """A cell and one row per episode, as `episode_frame` makes them.

    Attributes:
        cell: the method and the protocol.
        frame: columns run, episode, correct, accuracy, predictions, seconds, [E].
    """

    cell: Cell
    frame: pd.DataFrame

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """Fraction of the queries classified correctly, [E]."""
        return self.frame["accuracy"].to_numpy(np.float64)

    @property
    def run(self) -> NDArray[np.int64]:
        """Run of each episode, [E]."""
        return self.frame["run"].to_numpy(np.int64)

    @property
    def episode(self) -> NDArray[np.int64]:
        """Number of each episode within its run, [E]."""
        return self.frame["episode"].to_numpy(np.int64)

    @property
    def predictions(self) -> NDArray[np.uint8]:
        """Position of the predicted class of every query, [E, M]; 255 after the last of an episode with fewer."""
        most = self.cell.protocol.queries_per_episode[-1]
        padded = (row.ljust(most, _NONE) for row in self.frame["predictions"])
        return np.frombuffer(b"".join(padded), dtype=np.uint8).reshape(len(self.frame), most)

    def __len__(self) -> int:
        return len(self.frame)
