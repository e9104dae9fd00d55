"""A reproduction as text of at most 80 columns."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fewshot_bench.outcomes import marked
from fewshot_bench.printable import printable
from fewshot_bench.report.short_names import short_name
from fewshot_bench.reproduction.outcome import OtherOutcome, Reproduction

_SHOWN = 8
_LONGEST = 28


def print_reproduction(result: Reproduction, console: Console) -> None:
    """Print what came of one cell.

    Args:
        result: of running it again.
        console: where to.
    """
    console.print(_plain(f"{result.key}  {result.task}"), soft_wrap=True, style="bold")
    console.print(_plain(marked(result.method, result.is_transductive)), soft_wrap=True)
    console.print(_facts(result, console))
    if result.others:
        console.print(_table(result.others))
        left = len(result.others) - _SHOWN
        if left > 0:
            console.print(f"and {left:,} more; --json has all of them\n")


def _facts(result: Reproduction, console: Console) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False, width=min(80, console.width))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold", ratio=1)
    of_them = "all" if result.episodes == result.stored_episodes else f"{result.episodes:,} of the"
    drawn = "" if result.seed is None else f", drawn by --seed {result.seed}"
    table.add_row("episodes", f"{of_them} {result.stored_episodes:,} stored, run again{drawn}")
    table.add_row("predictions", _told(result.predictions, result.queries, result.explanation), style=_style(result))
    table.add_row("accuracy", _told(result.other_accuracies, result.episodes, ""))
    change = result.new_mean - result.stored_mean
    means = f"{result.stored_mean:.2f} stored, {result.new_mean:.2f} now: {change:+.2f} points"
    table.add_row("mean", means if result.others else f"{result.stored_mean:.2f}, both")
    if result.weights:
        table.add_row("weights", f"the base stage gave others here, {result.weights[:12]}...")
    for one in result.circumstances:
        recorded, here = (short_name(printable(text), _LONGEST) for text in (one.recorded, one.here))
        table.add_row(_plain(one.name), _plain(f"{recorded} in the record, {here} here"))
    table.add_row("", "")
    return table


def _told(differ: int, total: int, why: str) -> str:
    if not differ:
        return f"all {total:,} are the same{f'; {why}' if why else ''}"
    return f"{differ:,} of {total:,} differ{f': {why}' if why else ''}"


def _style(result: Reproduction) -> str:
    return "green" if result.is_equal else "bold red"


def _table(others: tuple[OtherOutcome, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for name in ("run", "episode", "stored correct", "new correct", "other predictions"):
        table.add_column(name, justify="right")
    for other in others[:_SHOWN]:
        numbers = (other.run, other.episode, other.stored_correct, other.new_correct, other.predictions)
        table.add_row(*(f"{number:,}" for number in numbers))
    return table


def _plain(text: str) -> Text:
    """Text in which neither markup nor control characters count."""
    return Text(printable(text))
