"""How fast cells are: measured between looks, or by the seconds that their episodes took."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.report.status.state import CellState

_WINDOW = 60.0  # seconds that a rate is measured over
_ENOUGH = 2.0
"""Seconds that a measurement takes at least."""


class Rates:
    """Episodes per second of each cell."""

    def __init__(self, store: OutcomeStore, now: Callable[[], float]) -> None:
        self._store, self._now = store, now
        self._looks: dict[str, deque[tuple[float, int]]] = {}
        self._recorded: dict[str, float | None] = {}

    def of(self, cell: Cell, state: CellState) -> float | None:
        """The rate of a cell that is not complete; None where nobody knows.

        Args:
            cell: whose.
            state: as it is now.
        """
        now = self._now()
        looks = self._looks.setdefault(cell.key, deque())
        looks.append((now, state.done))
        while len(looks) > 1 and looks[1][0] <= now - _WINDOW:
            looks.popleft()
        seconds, episodes = now - looks[0][0], state.done - looks[0][1]
        if seconds >= _ENOUGH and episodes > 0:
            return episodes / seconds
        return self._by_seconds(cell, state)

    def _by_seconds(self, cell: Cell, state: CellState) -> float | None:
        """From the seconds that its episodes took, which are read once, for as many as work at it."""
        if not state.left or not state.done:
            return None
        if cell.key not in self._recorded:
            mean = float(self._store.read(cell, with_predictions=False)["seconds"].mean())
            self._recorded[cell.key] = 1 / mean if math.isfinite(mean) and mean > 0 else None
        alone = self._recorded[cell.key]
        return None if alone is None else alone * max(1, len(state.workers))
