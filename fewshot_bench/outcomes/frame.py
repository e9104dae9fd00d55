"""Outcomes in memory: what one method did on some episodes of one protocol."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fewshot_bench.outcomes.cell import Cell
from fewshot_bench.outcomes.episode_frame import padded_positions
from fewshot_bench.outcomes.packing import Positions


@dataclass(frozen=True, eq=False)
class Outcomes:
    """A cell and one row per episode, as `episode_frame` makes them.

    Attributes:
        cell: the method and the protocol.
        frame: columns run, episode, correct, accuracy, predictions, seconds, [E].
    """

    cell: Cell
    frame: pd.DataFrame

    def __repr__(self) -> str:
        protocol, accuracy = self.cell.protocol, 100 * self.frame["accuracy"].mean()
        task = f"{protocol.dataset} {protocol.way}-way {protocol.shot}-shot"
        return f"<Outcomes: {self.cell.method.marked_name}, {task}, {len(self.frame):,} episodes, {accuracy:.2f}%>"

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
    def predictions(self) -> Positions:
        """Position of the predicted class of every query, [E, M]; the largest value of the type where there is none.

        That is 255, or 65,535 of more than 255 classes, after the last query of an episode with fewer.
        """
        card = self.cell.protocol
        return padded_positions(self.frame["predictions"], card.way, card.queries_per_episode[-1])

    def __len__(self) -> int:
        return len(self.frame)
