"""How far a command is, on stderr: bars on a terminal, and elsewhere a line a minute."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TextIO

from rich import filesize
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

from fewshot_bench._io.text import printable
from fewshot_bench.progress import Step
from fewshot_bench.units import duration_text

_EVERY = 60.0  # seconds between two lines
_REMEMBERED = 600.0  # seconds that an estimate of the remaining time is based on


class ProgressBars:
    """One bar per stage where stderr is a terminal, otherwise plain lines; stdout holds results only.

    Args:
        stream: where lines go if it is not a terminal; stderr by default.
        clock: seconds that pass.
    """

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        console = Console(stderr=True)
        is_terminal = stream is None and sys.stderr.isatty() and not console.is_dumb_terminal
        self._bars = _bars(console) if is_terminal else None
        self._lines = _Lines(stream, clock)

    def __enter__(self) -> ProgressBars:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    @contextmanager
    def step(self, description: str, total: int, *, unit: str = "") -> Iterator[Step]:
        """Show a stage of `total` units; a bar's note disappears at the end, to leave room for later names."""
        if self._bars is None:
            yield _LineStep(self._lines, description, total, unit)
            return
        task = self._bars.add_task(description, total=total or None, note="", unit=unit)
        yield _Bar(self._bars, task)
        self._bars.update(task, note="")


def _bars(console: Console) -> Bars:
    return Bars(
        TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=5)),
        BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=6)),
        _Count(table_column=Column(no_wrap=True, min_width=9)),
        _Time(table_column=Column(no_wrap=True, min_width=7)),
        TextColumn("{task.fields[note]}", style="dim", table_column=Column(no_wrap=True)),
        console=console,
        expand=True,
        speed_estimate_period=_REMEMBERED,
    )


class _Bar:
    def __init__(self, bars: Bars, task: TaskID) -> None:
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


class _Time(ProgressColumn):
    """The time that is left; before there is an estimate, and at the end, the time that has passed."""

    def render(self, task: Task) -> Text:
        if task.finished or task.time_remaining is None:
            seconds = task.finished_time if task.finished else task.elapsed
            return Text(duration_text(seconds or 0), style="progress.elapsed")
        return Text(f"{duration_text(task.time_remaining)} left", style="progress.remaining")


class _Lines:
    """Writes at most one line a minute, whatever the number of stages."""

    def __init__(self, stream: TextIO | None, clock: Callable[[], float]) -> None:
        self._stream, self.clock, self._last = stream, clock, clock()

    def tell(self, line: Callable[[], str]) -> None:
        """Write a line if the last one is a minute old."""
        now = self.clock()
        if now - self._last < _EVERY:
            return
        self._last = now
        print(printable(line()), file=self._stream or sys.stderr, flush=True)


class _LineStep:
    """A stage as lines: what, how far, and the time that is left."""

    def __init__(self, lines: _Lines, description: str, total: int, unit: str) -> None:
        self._lines, self._description, self._total, self._unit = lines, description, total, unit
        self._done, self._note, self._began = 0, "", lines.clock()
        self._first: tuple[float, int] | None = None
        lines.tell(self._line)

    def advance(self, amount: int = 1, note: str = "") -> None:
        self._done, self._note = self._done + amount, note or self._note
        if self._first is None:  # may hold what was done before, when a stage resumes
            self._first = self._lines.clock(), self._done
        self._lines.tell(self._line)

    def _line(self) -> str:
        count = filesize.decimal if self._unit == "bytes" else "{:,}".format
        done = count(self._done) if self._done else ""
        if self._total:
            done = f"{count(self._done)} of {count(self._total)} ({100 * self._done // self._total}%)"
        return f"{self._description}: {', '.join(filter(None, (done, self._time(), self._note)))}"

    def _time(self) -> str:
        """The time that is left; where that cannot be known, the time that has passed."""
        now = self._lines.clock()
        began, before = self._first or (now, 0)
        if self._total and self._done > before:
            left = (self._total - self._done) * (now - began) / (self._done - before)
            return f"{duration_text(left)} left"
        return f"{duration_text(now - self._began)} so far"
