"""Tables for a terminal of 80 columns or more, readable without colours too."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fewshot_bench.report.comparison import Comparison
from fewshot_bench.report.wording import p_text, points, verdict

_NARROWEST_NAME = 16


def print_leaderboard(frame: pd.DataFrame, console: Console) -> None:
    """Print a leaderboard: per protocol the accuracies, best first and bold, then the paired tests.

    Args:
        frame: as `leaderboard` returns it.
        console: where to.
    """
    for _, rows in frame.groupby("protocol_fingerprint", sort=False):
        _print(console, _title(rows), _results_table(rows, console))
        tested = rows[rows["p"].notna()]
        if len(tested):
            title = f"against {tested.iloc[0]['baseline']}, paired t-test on the same episodes"
            _print(console, title, _paired_table(tested, console))


def print_comparisons(comparisons: Sequence[Comparison], console: Console) -> None:
    """Print the paired tests of one pair of methods, a row per protocol.

    Args:
        comparisons: as `compare_methods` returns them, at least one.
        console: where to.
    """
    first = comparisons[0]
    console.print(Text.assemble("A: ", (first.a, "bold")))
    console.print(Text.assemble("B: ", (first.b, "bold")))
    table = _table()
    table.add_column("task", overflow="fold")
    table.add_column("episodes", justify="right", no_wrap=True)
    table.add_column("points (95% CI)", justify="right", no_wrap=True)
    table.add_column("p", justify="right", no_wrap=True)
    table.add_column("A at 5%")
    for comparison in comparisons:
        test = comparison.test
        effect = points(100 * test.mean_difference, 100 * test.ci_low, 100 * test.ci_high)
        conclusion = _coloured(verdict(test.mean_difference, test.p))
        table.add_row(comparison.protocol.task, f"{test.n:,}", effect, p_text(test.p), conclusion)
    _print(console, "A - B, paired t-test on the same episodes", table)
    for comparison in comparisons:
        if comparison.left_out:
            console.print(Text(f"{comparison.protocol.task}: {comparison.left_out}."))


def _results_table(rows: pd.DataFrame, console: Console) -> Table:
    plus_minus = "+/-" if console.options.ascii_only else "±"
    table = _table()
    _add_columns(table, "median %", f"mean % {plus_minus} 95% CI", "episodes/s")
    lines: list[tuple[str, str, list[Text]]] = []
    for row in rows.to_dict("records"):
        style = "bold" if row["mean"] == rows["mean"].max() else ""
        half_width = f" {plus_minus} {row['ci95']:.2f}" if row["ci95"] == row["ci95"] else ""
        mean = Text(f"{row['mean']:.2f}{half_width}", style)
        speed = row["episodes_per_second"]
        numbers = [Text(f"{row['median']:.2f}", style), mean, Text(f"{speed:,.0f}" if speed == speed else "-")]
        note = f"({_count(row['runs'], 'run')} of {_count(row['episodes'], 'episode')})"
        lines.append((row["method"], note if _is_uneven(rows) else "", numbers))
    return _filled(table, console, lines)


def _paired_table(tested: pd.DataFrame, console: Console) -> Table:
    table = _table()
    _add_columns(table, "points (95% CI)", "p")
    table.add_column("at 5%", no_wrap=True)
    lines: list[tuple[str, str, list[Text]]] = []
    for row in tested.to_dict("records"):
        effect = Text(points(row["difference"], row["diff_ci95_low"], row["diff_ci95_high"]))
        numbers = [effect, Text(p_text(row["p"])), _coloured(verdict(row["difference"], row["p"]))]
        is_whole = row["paired_episodes"] >= row["episodes"] * row["runs"]
        note = f"({_count(int(row['paired_episodes']), 'common episode')})"
        lines.append((row["method"], "" if is_whole else note, numbers))
    return _filled(table, console, lines)


def _add_columns(table: Table, *numbers: str) -> None:
    table.add_column("method")
    for header in numbers:
        table.add_column(header, justify="right", no_wrap=True)


def _filled(table: Table, console: Console, lines: Sequence[tuple[str, str, list[Text]]]) -> Table:
    """Add rows of a name, a note below it and further cells; names get the width that the other cells leave."""
    headers = [str(column.header) for column in table.columns[1:]]
    widths = [max(len(header), *(len(cells[i]) for _, _, cells in lines)) for i, header in enumerate(headers)]
    for_names = console.width - sum(widths) - 2 * len(table.columns)
    for name, note, cells in lines:
        style = cells[0].style
        table.add_row(Text("\n".join([*_broken(name, for_names), *([note] if note else [])]), style), *cells)
    return table


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)


def _print(console: Console, title: str, table: Table) -> None:
    """Print a table below its title; Rich's own titles are wrapped to the width of the table."""
    console.print(Text(title))
    console.print(table)
    console.print()


def _title(rows: pd.DataFrame) -> str:
    first = rows.iloc[0]
    split = "" if first["split"] == "novel" else f" ({first['split']} split)"
    task = f"{first['dataset']}{split} {first['way']}-way {first['shot']}-shot"
    seed = f", seed {first['seed']}" if first["seed"] else ""
    return f"{task}, {first['queries']} queries per class, {_length(rows)}{seed}"


def _is_uneven(rows: pd.DataFrame) -> bool:
    return len(set(zip(rows["runs"], rows["episodes"], strict=True))) > 1


def _length(rows: pd.DataFrame) -> str:
    if _is_uneven(rows):
        return "runs of different length"
    return f"{_count(rows['runs'].iloc[0], 'run')} of {_count(rows['episodes'].iloc[0], 'episode')}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _coloured(words: str) -> Text:
    return Text(words, {"better": "green", "worse": "red"}.get(words, ""))


def _broken(name: str, width: int) -> list[str]:
    """A method's name in lines, broken between its stages and settings rather than within a word."""
    lines = [""]
    for piece in re.split(r"(?<=[/,])|(?=@)", name):
        if lines[-1] and len(lines[-1]) + len(piece) > max(width, _NARROWEST_NAME):
            lines.append("")
        lines[-1] += piece
    return lines
