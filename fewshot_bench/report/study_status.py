"""How far the studies of a results folder are, at one moment."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class CellState:
    """How far one cell is.

    Attributes:
        dataset: its name.
        task: dataset, split and size of its tasks.
        method: its name.
        key: of the stored cell; empty where the base stage is still to be trained.
        done: episodes that are stored, of those that were planned.
        planned: of all runs; None where no study says.
        failed: episodes that failed and are not stored.
        workers: processes that hold leases of it.
        rate: episodes per second; None where it is not known.
        stops_early: whether fewer than planned may be enough.
        is_over: whether its study has nothing left to do, although fewer than planned are stored.
        problem: why nobody can say how far it is; empty where there is none.
        is_transductive: whether the method sees all queries of an episode at once.
    """

    dataset: str
    task: str
    method: str
    key: str
    done: int
    planned: int | None
    failed: int = 0
    workers: tuple[str, ...] = ()
    rate: float | None = None
    stops_early: bool = False
    is_over: bool = False
    problem: str = ""
    is_transductive: bool = False

    @property
    def left(self) -> int:
        """Episodes that are still to be done."""
        return 0 if self.planned is None or self.is_over else max(0, self.planned - self.done - self.failed)

    @property
    def seconds_left(self) -> float | None:
        """For those who are at it, at its rate; None where that is not known."""
        if not self.left:
            return 0.0
        return self.left / self.rate if self.rate else None

    @property
    def seconds_alone(self) -> float | None:
        """For one process; None where no rate is known."""
        return None if self.seconds_left is None else self.seconds_left * max(1, len(self.workers))

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {**asdict(self), "left": self.left, "seconds_left": self.seconds_left}


@dataclass(frozen=True)
class StudyState:
    """How far everything in a results folder is.

    Attributes:
        cells: of the studies that are written down there; of a folder without such, those that are stored.
        others: stored cells that belong to none of these studies.
        processes: that are at work, as far as anybody can see.
        command: what goes on with a study that is not finished; empty where nobody knows.
        ended: how the last process ended, where nobody is at work and it was not by finishing.
        problems: records that cannot be read.
    """

    cells: tuple[CellState, ...]
    others: int = 0
    processes: int = 0
    command: str = ""
    ended: str = ""
    problems: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to do."""
        return not any(cell.left or cell.problem for cell in self.cells)

    @property
    def seconds_left(self) -> float | None:
        """Until everything is done, if as many processes go on as are at work; None where nobody knows.

        Cells of which no rate is known yet are taken to be as fast as the others on average.
        """
        waiting = [cell for cell in self.cells if cell.left]
        known = [(cell.left, cell.seconds_alone) for cell in waiting if cell.seconds_alone is not None]
        episodes, seconds = sum(left for left, _ in known), sum(seconds for _, seconds in known)
        if not waiting:
            return 0.0
        if not episodes:
            return None
        return seconds / episodes * sum(cell.left for cell in waiting) / max(1, self.processes)

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {
            **asdict(self),
            "cells": [cell.as_dict() for cell in self.cells],
            "is_complete": self.is_complete,
            "seconds_left": self.seconds_left,
        }
