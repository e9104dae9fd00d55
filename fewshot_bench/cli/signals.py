"""SIGTERM ends a command as Ctrl-C does: what is under way is dropped, and what was taken is let go."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

TERMINATED = 128 + int(signal.SIGTERM)
"""The exit code of a process that SIGTERM ended."""


@dataclass
class Received:
    """Whether the signal came."""

    sigterm: bool = False


@contextmanager
def sigterm_interrupts() -> Iterator[Received]:
    """Raise KeyboardInterrupt where SIGTERM comes; a handler that somebody else has set is left alone."""
    received = Received()

    def interrupt(number: int, frame: FrameType | None) -> None:
        received.sigterm = True
        raise KeyboardInterrupt

    is_ours = threading.current_thread() is threading.main_thread() and (
        signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    )
    if is_ours:
        signal.signal(signal.SIGTERM, interrupt)
    try:
        yield received
    finally:
        if is_ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
