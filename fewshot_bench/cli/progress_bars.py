"""Rich progress bars for the library's stages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

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
        """Show a bar of `total` units; its note disappears at the end, to leave room for later names."""
        task = self._bars.add_task(description, total=total or None, note="", unit=unit)
        yield _Bar(self._bars, task)
        self._bars.update(task, note="")
