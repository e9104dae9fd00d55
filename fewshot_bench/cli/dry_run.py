"""Print the estimates of `run --dry-run`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer

from fewshot_bench._io.text import printable

if TYPE_CHECKING:
    from fewshot_bench.study.estimates import CellEstimate, DiskSpace, Estimates

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


def show_estimates(estimates: Estimates, as_json: bool) -> None:
    """Print the estimates of a plan, as tables or as JSON."""
    if as_json:
        typer.echo(json.dumps(estimates.as_dict(), indent=1))
        return
    _show_cells(estimates)
    _show_work(estimates)
    _show_totals(estimates)
    for note in estimates.notes:
        typer.echo(f"note         {printable(note)}")
    for missing in estimates.missing:
        typer.echo(f"missing      {printable(missing)}")
    if estimates.missing:
        typer.echo("             The study cannot run before this is fixed.")


def _show_cells(estimates: Estimates) -> None:
    """One line per method below its task."""
    from fewshot_bench.outcomes import marked

    names = {cell.method: marked(cell.method, cell.is_transductive) for cell in estimates.cells}
    width = max(map(len, names.values()), default=0)
    for task in dict.fromkeys(cell.task for cell in estimates.cells):
        typer.echo(task)
        for cell in estimates.cells:
            if cell.task == task:
                typer.echo(f"  {printable(names[cell.method]):<{width}}  {_cell(cell)}")


def _cell(cell: CellEstimate) -> str:
    episodes = "as many episodes as there are" if cell.episodes is None else f"{cell.episodes:,} episodes"
    stored = f"{cell.done:,} stored" if cell.done is not None else f"stored: known {cell.why}" if cell.why else ""
    time = "" if cell.seconds is None or not cell.left else f"the rest {_time_range(cell.seconds)}"
    return ", ".join(part for part in (episodes, stored, time) if part)


def _show_work(estimates: Estimates) -> None:
    """One line for each work that comes before the episodes, unless it is ready within a second."""
    for work in estimates.work:
        if work.kind == "preparing" and work.seconds.high < 1:
            continue
        units = {"training": "steps", "embeddings": "images"}.get(work.kind)
        count = f", {work.units:,} {units}" if units else ""
        size = f", {_bytes(work.bytes)}" if work.bytes else ""
        seconds = f"{_time_range(work.seconds)} (timed on {work.measured})"
        typer.echo(f"{work.kind:<12} {printable(work.what)}{count}: {seconds}{size}")


def _show_totals(estimates: Estimates) -> None:
    left = sum(cell.left or 0 for cell in estimates.cells)
    where = f"{left:,} episodes left, one process on {estimates.device}"
    if estimates.cells and not left and not estimates.seconds.high:
        typer.echo("time         nothing is left to be computed")
    elif estimates.is_whole:
        typer.echo(f"time         {_time_range(estimates.seconds)}: {where}")
    elif estimates.seconds.high:
        typer.echo(f"time         {_time_range(estimates.seconds)} for what could be timed, which is not all: {where}")
    else:
        typer.echo(f"time         not known: {where}")
    if estimates.seconds.high:
        typer.echo(
            "             (the fastest and the slowest of a few short measurements; other work on this machine, or"
        )
        typer.echo("             episodes that are harder than these, can make it half or twice as long)")
    free = "" if estimates.free_bytes is None else f"; {_bytes(estimates.free_bytes)} are free"
    typer.echo(f"memory       about {_bytes(estimates.peak_bytes)}{free}")
    is_known = all(cell.bytes is not None for cell in estimates.cells)
    _show_space("outcomes", estimates.results, "at most" if is_known else "not known for all cells: at least")
    _show_space("cache", estimates.cache, "about" if is_known else "at least")


def _show_space(name: str, space: DiskSpace, bound: str) -> None:
    free = "" if space.free is None else f"; {_bytes(space.free)} are free"
    warning = "  NOT ENOUGH" if space.free is not None and space.needed > space.free else ""
    typer.echo(f"{name:<12} {bound} {_bytes(space.needed)} more in {space.place}{free}{warning}")


def _time_range(seconds: tuple[float, float]) -> str:
    """From the fastest to the slowest, e.g. "3 to 4 min"."""
    low, high = map(_duration, seconds)
    if low == high:
        return f"about {low}"
    (number, unit), (_, other) = low.split(), high.split()
    return f"{number} to {high}" if unit == other else f"{low} to {high}"


def _duration(seconds: float) -> str:
    for size, unit in ((_DAY, "days"), (_HOUR, "h"), (_MINUTE, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}" if seconds >= 10 * size else f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 or seconds == 0 else f"{seconds:.2g} s"


def _bytes(count: int) -> str:
    from rich import filesize

    return filesize.decimal(count)
