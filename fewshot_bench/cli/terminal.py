"""Rich progress bars for the library's stages.

SIGTERM, and SIGHUP of a terminal that is closed, end a command as Ctrl-C does: what was taken is let go.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType, TracebackType

from rich import filesize
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from fewshot_bench.progress import Step


class _Bar:
    def __init__(self, bars: Progress, task: TaskID) -> None:
        self._bars, self._task = bars, task

    def advance(self, amount: int = 1, note: str = "") -> None:
        if note:
            self._bars.update(self._task, note=note)
        self._bars.advance(self._task, amount)


class _Count(MofNCompleteColumn):
    """How many units are done; bytes as people write them."""

    def render(self, task: Task) -> Text:
        if task.fields["unit"] != "bytes":
            return super().render(task)
        done, total = (filesize.decimal(int(count or 0)) for count in (task.completed, task.total))
        return Text(f"{done} of {total}" if task.total else done, style="progress.download")


class ProgressBars:
    """One bar per stage, on stderr, so that stdout holds results only."""

    def __init__(self) -> None:
        self._bars = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=5)),
            BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=6)),
            _Count(table_column=Column(no_wrap=True, min_width=9)),
            TimeElapsedColumn(table_column=Column(no_wrap=True, min_width=7)),
            TextColumn("{task.fields[note]}", style="dim", table_column=Column(no_wrap=True)),
            console=Console(stderr=True),
            expand=True,
        )

    def __enter__(self) -> ProgressBars:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    @contextmanager
    def step(self, description: str, total: int, *, unit: str = "") -> Iterator[Step]:
        """Show a bar of `total` units; its note goes when it ends, to leave the names of later stages room."""
        task = self._bars.add_task(description, total=total or None, note="", unit=unit)
        yield _Bar(self._bars, task)
        self._bars.update(task, note="")


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
