"""How long-running library functions tell the caller how far they are, without knowing who listens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Step(Protocol):
    """One stage under way."""

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Say that `amount` more units are done; `note` is a short text such as the current loss."""


class Progress(Protocol):
    """Something that shows stages to a person."""

    def step(self, description: str, total: int, *, unit: str = "") -> AbstractContextManager[Step]:
        """Open a stage of `total` units, 0 if that is not known; "bytes" are shown in larger units."""


class _Silence:
    def advance(self, amount: int = 1, note: str = "") -> None:
        pass


class Silent:
    """Shows nothing: the default of the Python API."""

    @contextmanager
    def step(self, description: str, total: int, *, unit: str = "") -> Iterator[Step]:
        """Open a stage that nobody sees."""
        yield _Silence()


SILENT = Silent()
