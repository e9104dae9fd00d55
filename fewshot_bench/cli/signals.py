"""SIGTERM, and SIGHUP of a terminal that is closed, end a command as Ctrl-C does: what was taken is let go."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

INTERRUPTED = 128 + int(signal.SIGINT)
"""The exit code of a process that Ctrl-C ended."""
_ENDINGS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


@dataclass
class Received:
    """Which signal came; None for none, and for SIGINT, which needs no help to be a KeyboardInterrupt."""

    number: int | None = None

    @property
    def came(self) -> bool:
        """Whether one came."""
        return self.number is not None

    @property
    def exit_code(self) -> int:
        """Of a process that was stopped."""
        return INTERRUPTED if self.number is None else 128 + self.number


@contextmanager
def signals_interrupt() -> Iterator[Received]:
    """Raise KeyboardInterrupt where such a signal comes; a handler that somebody else has set is left alone."""
    received = Received()

    def interrupt(number: int, frame: FrameType | None) -> None:
        received.number = number
        raise KeyboardInterrupt

    is_main = threading.current_thread() is threading.main_thread()
    ours = [number for number in _ENDINGS if is_main and signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, interrupt)
    try:
        yield received
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
