"""How long a lease lasts without a sign of life from its holder, and what gives such signs."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Protocol

from fewshot_bench.errors import StudyError

EXPIRY = 60.0
"""Seconds that a lease of another machine has to be seen unchanged before it is taken over, by default."""
EXPIRY_VARIABLE = "FEWSHOT_BENCH_LEASE_SECONDS"
BEATS = 12
"""Signs of life that a holder gives before its lease expires."""


def expiry_seconds() -> float:
    """How long a lease has to be seen unchanged before it is taken over.

    Raises:
        StudyError: the environment says something else than a number of seconds.
    """
    text = os.environ.get(EXPIRY_VARIABLE, str(EXPIRY))
    with suppress(ValueError):
        if 0 < (seconds := float(text)) < math.inf:
            return seconds
    raise StudyError(f"{EXPIRY_VARIABLE} should be a number of seconds such as {EXPIRY:g}, not '{text}'.")


class Beating(Protocol):
    """What others have to see alive."""

    def beat(self) -> None:
        """Give a sign of life; never raises what a disk may."""


class Heart:
    """Gives signs of life, for leases above all, from a thread of its own, while it is entered."""

    def __init__(self, alive: Sequence[Beating], *, every: float | None = None) -> None:
        """Begin with nothing yet.

        Args:
            alive: what the signs are for.
            every: so many seconds; as often as leases need it by default.
        """
        self._alive, self._every = alive, every or expiry_seconds() / BEATS
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="signs of life", daemon=True)

    def __enter__(self) -> Heart:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._stop.wait(self._every):
            for one in self._alive:
                one.beat()
