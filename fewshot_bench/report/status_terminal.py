"""How far studies are, as a table of at most 80 columns.

The table of studies that are under way, shown anew every second.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.cells import set_cell_size
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from fewshot_bench._io.resuming import command_for
from fewshot_bench._io.text import printable
from fewshot_bench.report.names import marked_names, short_name
from fewshot_bench.report.study_status import CellState, StudyState, Watch

_NARROWEST, _WIDEST = 70, 120
_COLUMNS = {"episodes": 15, "%": 3, "failed": 6, "ep/s": 6, "left": 8, "at work": 7}
_AROUND = 8  # lines beside those of methods and cells


def status_text(state: StudyState, results: str, *, width: int = 80, height: int | None = None) -> Group:
    """A table of the cells, method by method, with a line of totals, then what to do next.

    Args:
        state: at one moment.
        results: the folder, as the user wrote it.
        width: columns of the terminal.
        height: its lines, if only so many may be used: cells where nothing happens are left out first.
    """
    width = min(_WIDEST, max(_NARROWEST, width))
    shown = _fitting(state.cells, height)
    rule = Text("-" * width, "dim")
    parts: list[RenderableType] = [_row("", "", list(_COLUMNS), width), rule]
    for (method, is_transductive), cells in groupby(shown, key=lambda cell: (cell.method, cell.is_transductive)):
        name = printable(method)
        parts.append(Text(marked_names([name], [name] if is_transductive else [], width)[0], "bold"))
        parts += [_row(f"  {cell.task}", _style(cell), _numbers(cell), width) for cell in cells]
    if len(state.cells) > 1:
        parts += [rule, _row("all", "bold", _totals(state), width)]
    lines = _lines(state, results, len(state.cells) - len(shown))
    return Group(*parts, Text(), *(Text(line) for line in lines))


def duration(seconds: float) -> str:
    """A time in its two largest units: "45 s", "12 min", "3 h 20", "2 d 4 h"."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d}" if hours < 48 else f"{hours // 24:,} d {hours % 24} h"


def _row(about: str, style: str, texts: Sequence[str], width: int) -> Text:
    """A line of the table: what it is about, as far as the numbers leave room, and a text for every column."""
    numbers = "".join(f" {text:>{columns}}" for text, columns in zip(texts, _COLUMNS.values(), strict=True))
    room = max(0, width - len(numbers))
    return Text.assemble((set_cell_size(short_name(printable(about), room), room), style), numbers, no_wrap=True)


def _style(cell: CellState) -> str:
    if cell.problem or cell.failed:
        return "red"
    return "green" if cell.workers else "" if cell.left else "dim"


def _numbers(cell: CellState) -> list[str]:
    if cell.problem:
        return ["damaged", "", "", "", "", ""]
    workers = str(len(cell.workers)) if cell.workers else ""
    if cell.planned is None:
        return [f"{cell.done:,}", "", _count(cell.failed), "", "", workers]
    of_them = f"{cell.done:,}/{'<=' if cell.stops_early and cell.left else ''}{cell.planned:,}"
    rate = "" if cell.rate is None or not cell.left else _rate(cell.rate)
    left = "" if not cell.left else "?" if cell.seconds_left is None else duration(cell.seconds_left)
    return [of_them, _percent(cell.done, cell.planned), _count(cell.failed), rate, left, workers]


def _totals(state: StudyState) -> list[str]:
    done, failed = sum(cell.done for cell in state.cells), sum(cell.failed for cell in state.cells)
    workers = str(state.processes) if state.processes else ""
    if any(cell.planned is None for cell in state.cells):
        return [f"{done:,}", "", _count(failed), "", "", workers]
    planned = sum(cell.planned or 0 for cell in state.cells)
    seconds = state.seconds_left
    left = "" if state.is_complete else "?" if seconds is None else duration(seconds)
    return [f"{done:,}/{planned:,}", _percent(done, planned), _count(failed), "", left, workers]


def _lines(state: StudyState, results: str, left_out: int) -> Iterator[str]:
    if left_out:
        yield f"not shown for want of room: {left_out} cells where nothing happens; --once shows all"
    for cell in state.cells:
        if cell.problem:
            yield printable(f"{cell.key}: {cell.problem}")
    yield from map(printable, state.problems)
    if state.others:
        yield f"{state.others} more stored cells belong to no study that is written down here"
    yield from _next(state, results)


def _next(state: StudyState, results: str) -> Iterator[str]:
    """How it stands, and what to type."""
    command = command_for(["leaderboard"], results)
    if all(cell.planned is None for cell in state.cells):
        yield "how many there are to be is not written down here"
    elif state.is_complete:
        failed = sum(cell.failed for cell in state.cells)
        yield f"complete, but {failed:,} episodes failed: run tries them again" if failed else "complete"
    elif state.processes:
        yield "1 process is at work" if state.processes == 1 else f"{state.processes} processes are at work"
    else:
        how = f"; the last process: {state.ended}" if state.ended else ""
        yield printable(f"nobody is at work{how}")
        command = state.command or f"the same {command_for(['run'], results)}"
    yield printable(f"next         {command}")


def _fitting(cells: Sequence[CellState], height: int | None) -> Sequence[CellState]:
    """Those that there is room for, in their order: where somebody is at work first, then what is not complete."""
    methods = len(list(groupby(cells, key=lambda cell: cell.method)))
    if height is None or len(cells) + methods + _AROUND <= height:
        return cells
    by_interest = sorted(cells, key=lambda cell: (not cell.workers, not cell.problem, not cell.left))
    room = max(1, (height - _AROUND) // 2)  # half the lines may be names of methods
    chosen = {id(cell) for cell in by_interest[:room]}
    return [cell for cell in cells if id(cell) in chosen]


def _percent(done: int, planned: int) -> str:
    """Rounded down, since 100 means that everything is there."""
    return f"{100 * done // planned}" if planned else ""


def _count(count: int) -> str:
    return f"{count:,}" if count else ""


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}" if rate >= 0.1 else f"{rate:.2g}"


_EVERY = 1.0  # seconds between two looks
_SHARE = 10
"""A look that takes long, as at a network disk, is taken so many times more seldom."""


def show_live(watch: Watch, results: str, console: Console) -> None:
    """Show how far everything is until it is complete, or somebody stops it.

    Args:
        watch: looks.
        results: the folder, as the user wrote it.
        console: of a terminal.

    Raises:
        OutcomeError: there is nothing in the folder to look at.
    """
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            began = time.monotonic()
            state = watch.look()
            height = None if state.is_complete else console.height
            live.update(status_text(state, results, width=console.width, height=height), refresh=True)
            if state.is_complete:
                return
            time.sleep(max(_EVERY, _SHARE * (time.monotonic() - began)))
