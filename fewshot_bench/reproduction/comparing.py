"""Stored outcomes beside new ones of the same episodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from fewshot_bench.outcomes.packing import position_type
from fewshot_bench.reproduction.outcome import OtherOutcome


def other_outcomes(stored: pd.DataFrame, new: pd.DataFrame, way: int) -> tuple[OtherOutcome, ...]:
    """The episodes whose predictions, or whose number of correct ones, are not those stored.

    Args:
        stored: one row per episode, as `episode_frame` makes them, by run and number, [E].
        new: of the same episodes in the same order, [E].
        way: N, the largest of the protocol.

    Raises:
        ValueError: the episodes are others.
    """
    if not stored[["run", "episode"]].reset_index(drop=True).equals(new[["run", "episode"]].reset_index(drop=True)):
        raise ValueError("the two frames have other episodes")
    old_said, new_said = stored["predictions"].to_numpy(), new["predictions"].to_numpy()
    old_correct, new_correct = stored["correct"].to_numpy(), new["correct"].to_numpy()
    places = ((old_said != new_said) | (old_correct != new_correct)).nonzero()[0]
    runs, numbers = new["run"].to_numpy(), new["episode"].to_numpy()
    return tuple(
        OtherOutcome(
            int(runs[place]),
            int(numbers[place]),
            int(old_correct[place]),
            int(new_correct[place]),
            _others(old_said[place], new_said[place], position_type(way)),
        )
        for place in places
    )


def _others(stored: bytes, new: bytes, kind: np.dtype[Any]) -> int:
    """How many predictions differ; where there are more of one kind, these do."""
    old, again = np.frombuffer(stored, kind), np.frombuffer(new, kind)
    both = min(len(old), len(again))
    return int((old[:both] != again[:both]).sum()) + abs(len(old) - len(again))
