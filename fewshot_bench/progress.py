"""How long-running functions report their progress, without knowing who shows it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Step(Protocol):
    """One stage under way."""

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Report `amount` more units as done, with a short note such as the current loss."""


class Progress(Protocol):
    """Something that shows stages to a person."""

    def step(self, description: str, total: int, *, unit: str = "") -> AbstractContextManager[Step]:
        """Open a stage of `total` units, 0 if unknown; bytes are shown in larger units."""


class _Silence:
    def advance(self, amount: int = 1, note: str = "") -> None:
        pass


class Silent:
    """Shows nothing: the default of the Python API."""

    @contextmanager
    def step(self, description: str, total: int, *, unit: str = "") -> Iterator[Step]:
        """Open a stage that is not shown."""
        yield _Silence()


SILENT = Silent()
