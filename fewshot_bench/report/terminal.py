"""Tables for a terminal of 80 columns or more, readable without colours too."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fewshot_bench.outcomes import CLAIMED_SAMPLER
from fewshot_bench.printable import printable
from fewshot_bench.report.published_summary import WELCH
from fewshot_bench.report.summary import MEASURED, PAIRED
from fewshot_bench.report.wording import (
    CLAIMED,
    CORRECTIONS,
    HERE,
    p_header,
    p_text,
    plus_minus_points,
    task_text,
    verdict,
)

PUBLISHED, ODD = " *", " ?"
"""Marks of published numbers, and of intervals that cannot be right."""
DISJOINT = "disjoint"
_NARROWEST_NAME = 16


def print_leaderboard(frame: pd.DataFrame, console: Console) -> None:
    """Print a leaderboard: per protocol the accuracies, best first and bold, then the tests against the baseline.

    Args:
        frame: as `leaderboard` returns it.
        console: where to.
    """
    for _, rows in frame.groupby("protocol_fingerprint", sort=False):
        print_table(console, _title(rows), _results_table(rows, console))
        for test, how in ((PAIRED, "paired t-test on the same episodes"), (WELCH, "Welch's t-test, other episodes")):
            tested = rows[rows["test"] == test]
            if len(tested):
                title = f"against {printable(tested.iloc[0]['baseline'])}, {how}"
                print_table(console, title, _tests_table(tested, console))
    for note in _notes(frame):
        console.print(Text(note, "dim"))


def _results_table(rows: pd.DataFrame, console: Console) -> Table:
    plus_minus = plus_minus_of(console)
    table = new_table()
    with_data = bool(rows["data_ci95"].notna().any())
    measured = rows[rows["source"] == MEASURED]
    with_letters = len(measured) > 1 and bool(rows["group"].notna().any())
    interval = _interval_name(rows)
    headers = ["median %", f"mean % {plus_minus} {interval}{f' {plus_minus} data' if with_data else ''}"]
    _add_columns(table, *headers, *(["same"] if with_letters else []), "episodes/s")
    lines: list[tuple[str, str, list[Text]]] = []
    for row in rows.to_dict("records"):
        is_published = row["source"] != MEASURED
        style = "dim" if is_published else "bold" if row["mean"] == measured["mean"].max() else ""
        widths = [width for width in (row["ci95"], row["data_ci95"]) if width == width]
        odd = ODD if is_published and row["flags"] else ""
        mean = "".join([f"{row['mean']:.2f}", *(f" {plus_minus} {width:.2f}" for width in widths), odd])
        letters = [Text(row["group"] or "", style)] if with_letters else []
        numbers = [Text(f"{row['median']:.2f}", style), Text(mean, style), *letters, Text(_speed(row))]
        lines.append((f"{row['method']}{PUBLISHED if is_published else ''}", _note(row, rows), numbers))
    return _filled(table, console, lines)


def _tests_table(tested: pd.DataFrame, console: Console) -> Table:
    plus_minus = plus_minus_of(console)
    table = new_table()
    with_data = bool(tested["diff_data_ci95_low"].notna().any())
    header = f"points {plus_minus} {_interval_name(tested)}{f' {plus_minus} data' if with_data else ''}"
    _add_columns(table, header, p_header(tested["correction"].iloc[0]))
    table.add_column("at 5%", no_wrap=True)
    lines: list[tuple[str, str, list[Text]]] = []
    for row in tested.to_dict("records"):
        data = row["diff_data_ci95_high"] - row["difference"]
        effect = plus_minus_points(row["difference"], row["diff_ci95_high"] - row["difference"], data, plus_minus)
        is_odd = row["source"] != MEASURED and bool(row["flags"])
        words = Text(f"{_verdict(row)}{ODD}") if is_odd else coloured(_verdict(row))
        numbers = [Text(effect), Text(p_text(row["p_corrected"])), words]
        lines.append((row["method"], _test_note(row), numbers))
    return _filled(table, console, lines)


def _test_note(row: Mapping[Any, Any]) -> str:
    if row["test"] != PAIRED:
        return ""
    is_whole = row["paired_episodes"] >= row["episodes"] * row["runs"]
    return "" if is_whole else f"({_count(int(row['paired_episodes']), 'common episode')})"


def _note(row: Mapping[Any, Any], rows: pd.DataFrame) -> str:
    """What stands below a method's name."""
    if row["source"] != MEASURED:
        return f"({row['source'].split('; ')[0]})"
    uneven = (
        f"{_count(int(row['runs']), 'run')} of {_count(int(row['episodes']), 'episode')}" if _is_uneven(rows) else ""
    )
    parts = [part for part in (uneven, row["flags"]) if part]
    return f"({'; '.join(parts)})" if parts else ""


def _notes(frame: pd.DataFrame) -> list[str]:
    """What the columns mean, in as many lines as there are columns to explain."""
    notes = ["task: 95% CI over episodes"]
    if frame["data_ci95"].notna().any():
        notes[0] += "; data: over classes and images too"
    if (frame["sampler"] == DISJOINT).any():
        notes.append("open: 95% CI over episodes that share no image; it covers the images too")
    if frame["group"].notna().any():
        notes.append(f"same: methods that share a letter are not shown to differ ({_correction(frame)})")
    published = frame[frame["source"] != MEASURED]
    if len(published):
        notes.append(f"{PUBLISHED.strip()}: as papers report it, on other episodes; the CSV names the table")
    if published["flags"].notna().any():
        notes.append(f"{ODD.strip()}: no such tasks give so wide or narrow an interval; the CSV says why")
    if any(_verdict(row).endswith("here") for row in frame.to_dict("records")):
        notes.append(HERE)
    if frame["sampler"].str.startswith(CLAIMED_SAMPLER).any():
        notes.append(CLAIMED)
    return notes


def _verdict(row: Mapping[Any, Any]) -> str:
    return verdict(row["difference"], row["p_corrected"], row["diff_data_ci95_high"] - row["difference"])


def _interval_name(rows: pd.DataFrame) -> str:
    """What the interval over episodes is called: over disjoint ones it is open (Lafargue et al., 2024)."""
    return "open" if (rows["sampler"] == DISJOINT).all() else "task"


def _correction(frame: pd.DataFrame) -> str:
    corrections = frame["correction"].dropna()
    return f"paired t, {CORRECTIONS[corrections.iloc[0] if len(corrections) else 'holm']}, 5%"


def _speed(row: Mapping[Any, Any]) -> str:
    speed = row["episodes_per_second"]
    return f"{speed:,.0f}" if speed == speed else "-"


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
        table.add_row(Text("\n".join([*broken(name, for_names), *([printable(note)] if note else [])]), style), *cells)
    return table


def new_table() -> Table:
    """An empty table as all of the terminal's are."""
    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)


def print_table(console: Console, title: str, table: Table) -> None:
    """Print a table below its title; Rich's own titles are wrapped to the width of the table."""
    console.print(Text(title))
    console.print(table)
    console.print()


def _title(rows: pd.DataFrame) -> str:
    first = rows.to_dict("records")[0]
    seed = f", seed {first['seed']}" if first["seed"] else ""
    queries = f"{first['queries']} queries per class, " if first["queries"] else ""  # claimed episodes do not say
    return f"{task_text(first)}, {queries}{_length(rows)}{seed}"


def _is_uneven(rows: pd.DataFrame) -> bool:
    measured = rows[rows["source"] == MEASURED]
    return len(set(zip(measured["runs"], measured["episodes"], strict=True))) > 1


def _length(rows: pd.DataFrame) -> str:
    rows = rows[rows["source"] == MEASURED]
    if _is_uneven(rows):
        return "runs of different length"
    return f"{_count(int(rows['runs'].iloc[0]), 'run')} of {_count(int(rows['episodes'].iloc[0]), 'episode')}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def coloured(words: str) -> Text:
    """A verdict in its colour."""
    return Text(words, {"better": "green", "worse": "red"}.get(words.split()[0], ""))


def plus_minus_of(console: Console) -> str:
    """The sign of an interval's half-width, as the terminal can show it."""
    return "+/-" if console.options.ascii_only else "±"


def broken(name: str, width: int) -> list[str]:
    """A method's name in lines, broken between its stages and settings rather than within a word."""
    lines = [""]
    for piece in re.split(r"(?<=[/,])|(?=@)", printable(name)):
        if lines[-1] and len(lines[-1]) + len(piece) > max(width, _NARROWEST_NAME):
            lines.append("")
        lines[-1] += piece
    return lines
