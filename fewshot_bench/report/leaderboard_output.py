"""Tables for a terminal of 80 columns or more, readable without colours too."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fewshot_bench._io.text import printable
from fewshot_bench.report.findings import Answer
from fewshot_bench.report.leaderboard_rows import COLUMNS, MEASURED, ONE_TRAINING, PAIRED
from fewshot_bench.report.names import (
    BASELINE_KINDS,
    baseline_name,
    disambiguated,
    has_odd_interval,
    is_across,
    is_transductive,
    is_whole,
    row_name,
    task_text,
    trainings_text,
    without_common_prefix,
)
from fewshot_bench.report.notes import ACROSS_MARK, CORRECTED, DISJOINT, ODD, PUBLISHED, is_published, leaderboard_notes
from fewshot_bench.report.published.rows import NO_INTERVAL, WELCH
from fewshot_bench.report.verdicts import (
    LETTER_COLUMNS,
    Claim,
    about_data,
    count_text,
    difference_text,
    is_on_this_split,
    p_text,
)
from fewshot_bench.statistics import Correction
from fewshot_bench.units import rate_text

REPORTED_TITLE = "reported beside measured, other episodes"
WHOLE_REPORTED_TITLE = "reported beside measured, other trainings"
_WIDE, _NARROW_VERDICT = 100, 13
_BELOW = "- "
"""Before the name of a training, which stands below its method."""
_NARROWEST_NAME = 16


def print_leaderboard(frame: pd.DataFrame, console: Console, claim: Claim = "beyond") -> None:
    """Print a leaderboard: per protocol the accuracies, best first and bold, then the tests against the baseline.

    Args:
        frame: as `leaderboard` returns it.
        console: where to.
        claim: what letters say: who differs beyond this split, or on it.
    """
    groups = {str(key): rows for key, rows in frame.groupby("protocol_fingerprint", sort=False)}
    titles = disambiguated(
        {key: _title(rows) for key, rows in groups.items()}, {key: f" ({key[:8]})" for key in groups}
    )
    for key, rows in groups.items():
        footnotes = _footnotes(rows, console)
        notes = [f"{mark} {remark}" for remark, mark in footnotes.items()]
        print_table(console, titles[key], _results_table(rows, console, claim, footnotes), notes)
        same = f"paired t-test on the same {_unit(rows.iloc[0].to_dict())}s"
        for test, how in ((PAIRED, same), (WELCH, "Welch's t-test, other episodes")):
            tested = rows[rows["test"] == test]
            if len(tested):
                title = f"against {printable(_baseline(rows, tested))}, {how}"
                print_table(console, title, _tests_table(tested, console))
        beside = rows[rows["reported"].notna()]
        if len(beside):
            print_table(console, reported_title(rows), reported_table(beside.to_dict("records"), console))
    for note in leaderboard_notes(frame, claim):
        console.print(Text(note, "dim"))


def reported_title(rows: pd.DataFrame) -> str:
    """The title of a table of published numbers beside measured ones of one protocol."""
    return WHOLE_REPORTED_TITLE if is_whole(rows.iloc[0].to_dict()) else REPORTED_TITLE


def print_answers(lines: Sequence[str], console: Console) -> None:
    """Print which methods are best, as `fewshot_bench.report.findings.answer_lines` puts it."""
    if lines:
        console.print()
    for line in lines:
        console.print(Text(printable(line)))


def _baseline(rows: pd.DataFrame, tested: pd.DataFrame) -> str:
    """The display name of the baseline of some rows; a published row need not say whether that is transductive."""
    records = tested.to_dict("records")
    measured = next((row for row in records if row["source"] == MEASURED), None)
    if measured is not None:
        return baseline_name(measured)
    name = records[0]["baseline"]
    return next((row_name(row) for row in rows.to_dict("records") if row["method"] == name), str(name))


_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def _footnotes(rows: pd.DataFrame, console: Console) -> dict[str, str]:
    """The mark of every remark on a row, such as ¹, in the order of the rows."""
    remarks = dict.fromkeys(remark for row in rows.to_dict("records") for remark in _remarks(row))
    marks = [f"[{number}]" for number in range(1, len(remarks) + 1)]
    if not console.options.ascii_only:
        marks = [mark.strip("[]").translate(_SUPERSCRIPTS) for mark in marks]
    return dict(zip(remarks, marks, strict=True))


def _remarks(row: Mapping[Any, Any]) -> list[str]:
    """What the flags of a row say that stands nowhere else."""
    if is_published(row):
        return []
    shown_elsewhere = ("transductive", *BASELINE_KINDS.values())  # by the name, and in the table of the tests
    return [flag for flag in (row["flags"] or "").split("; ") if flag and flag not in shown_elsewhere]


def _results_table(rows: pd.DataFrame, console: Console, claim: Claim, footnotes: Mapping[str, str]) -> Table:
    group, whole = LETTER_COLUMNS[claim], is_whole(rows.iloc[0].to_dict())
    plus_minus = plus_minus_of(console)
    with_data = bool(rows["data_ci95"].notna().any()) and not whole
    measured = rows[rows["source"] == MEASURED]
    with_letters = len(measured) > 1 and bool(rows[group].notna().any())
    interval = _interval_name(rows)
    headers = ["median %", f"mean % {plus_minus} {interval}{f' {plus_minus} data' if with_data else ''}"]
    if whole:
        headers = [f"top-1 % {plus_minus} images", "recall %", "ECE %"]
    table = new_table("method", *headers, *(["same"] if with_letters else []), "images/s" if whole else "episodes/s")
    lines: list[_Line] = []
    best = {kind: max(same) for kind, same in _means_by_kind(measured).items()}
    for row in rows.to_dict("records"):
        is_printed, is_training = is_published(row), row["source"] == ONE_TRAINING
        is_best = not (is_printed or is_training) and row["mean"] == best[is_transductive(row)]
        style = "bold" if is_best else "dim" if is_printed or is_training else ""
        shown_widths = (row["ci95"],) if whole else (row["ci95"], row["data_ci95"])
        widths = [width for width in shown_widths if width == width]
        odd = ODD if has_odd_interval(row) else ""
        mean = "".join([f"{row['mean']:.2f}", *(f" {plus_minus} {width:.2f}" for width in widths), odd])
        letters = [Text(row[group] or "", style)] if with_letters else []
        rate = Text(rate_text(row["episodes_per_second"]))
        numbers = [Text(f"{row['median']:.2f}", style), Text(mean, style), *letters, rate]
        if whole:
            others = [percent_text(row.get(name, math.nan)) for name in ("class_recall", "calibration_error")]
            numbers = [Text(mean, style), *(Text(text, style) for text in others), *letters, rate]
        name = f"{row_name(row)}{PUBLISHED if is_printed else ''}"
        name = f"{_BELOW}seed {int(row['training_seed'])}" if is_training else name
        name += " ".join(footnotes[remark] for remark in _remarks(row))
        lines.append(_Line(_kind(row), name, _note(row, rows, plus_minus), numbers))
    return _filled(table, console, lines)


def _means_by_kind(measured: pd.DataFrame) -> dict[bool, list[float]]:
    """The means of the inductive and of the transductive methods."""
    means: dict[bool, list[float]] = {}
    for row in measured.to_dict("records"):
        means.setdefault(is_transductive(row), []).append(float(row["mean"]))
    return means


def _kind(row: Mapping[Any, Any]) -> str:
    """The heading above the rows of a kind where a table has several."""
    if is_published(row):
        return "published"
    return "transductive" if is_transductive(row) else "inductive"


def _tests_table(tested: pd.DataFrame, console: Console) -> Table:
    whole = is_whole(tested.iloc[0].to_dict())
    claims = claims_header(tested["correction"].iloc[0], is_whole=whole)
    table = new_table("method", effect_header(console, _interval_name(tested), is_whole=whole), claims)
    table.add_column("at 5%", max_width=verdict_width(console))
    lines: list[_Line] = []
    for row in tested.to_dict("records"):
        ends = (row["difference"], row["diff_data_ci95_low"], row["diff_data_ci95_high"])
        half_width = row["diff_ci95_high"] - row["difference"]
        effect = difference_text(*ends, half_width, plus_minus_of(console), is_whole=whole)
        mark = ACROSS_MARK if is_across(row) else ""
        is_odd = has_odd_interval(row)
        words = Text(f"{row['verdict']}{mark}{ODD}") if is_odd else coloured(f"{row['verdict']}{mark}", row["verdict"])
        p = claims_text(row["p_corrected"], row["p_beyond_corrected"], is_whole=whole)
        numbers = [Text(effect), Text(p), words]
        lines.append(_Line(_kind(row), row_name(row), _test_note(row), numbers))
    return _filled(table, console, lines)


def reported_table(rows: Sequence[Mapping[Any, Any]], console: Console) -> Table:
    """Measured methods beside the numbers that their recipes are published with, all on one protocol.

    Args:
        rows: with the leaderboard's columns about published numbers.
        console: where to.
    """
    plus_minus = plus_minus_of(console)
    correction = next((row["correction"] for row in rows if row["correction"]), "holm")
    p_name = f"p{'' if correction == 'none' else CORRECTED}"
    table = new_table("method", "measured %", "reported %", f"points {plus_minus}Welch", p_name)
    table.add_column("interval")
    lines: list[_Line] = []
    for row in rows:
        numbers = [(row["mean"], row["ci95"]), (row["reported"], row["reported_ci95"])]
        texts = [f"{mean:.2f}" + (f" {plus_minus} {width:.2f}" if width == width else "") for mean, width in numbers]
        half_width = row["reported_diff_ci95_high"] - row["reported_difference"]
        points = f"{row['reported_difference'] + 0.0:+.2f}" + (
            f" {plus_minus} {half_width:.2f}" if half_width == half_width else ""
        )
        where = "none" if row["reported_verdict"] == NO_INTERVAL else row["reported_verdict"].split()[0]
        cells = [*map(Text, (*texts, points, p_text(row["reported_p_corrected"]))), Text(where)]
        parts = [row["reported_by"].split("; ")[0], trainings_text(row, plus_minus)]
        lines.append(_Line("", row_name(row), f"({'; '.join(filter(None, parts))})", cells))
    return _filled(table, console, lines)


def effect_header(console: Console, interval: str = "task", *, is_whole: bool = False) -> str:
    """The header of differences with both of their intervals; on a whole split there is one."""
    if is_whole:
        return f"points {plus_minus_of(console)}images"
    return f"points (data) {plus_minus_of(console)}{interval}"


def verdict_width(console: Console) -> int | None:
    """How wide a column of verdicts may be: in a narrow terminal they take two lines."""
    return None if console.width >= _WIDE else _NARROW_VERDICT


def claims_header(correction: Correction, *, is_whole: bool = False) -> str:
    """The header of the p values of both claims; the notes say how they are corrected."""
    return f"p{'' if correction == 'none' else CORRECTED}{'' if is_whole else ' split/beyond'}"


def claims_text(p_split: float, p_beyond: float, *, is_whole: bool = False) -> str:
    """The p values of both claims in one cell; on a whole split they are one."""
    if is_whole:
        return p_text(p_split)
    return f"{p_text(p_split)}/{p_text(p_beyond)}"


def _test_note(row: Mapping[Any, Any]) -> str:
    if row["test"] != PAIRED:
        return ""
    has_all = row["paired_episodes"] >= row["episodes"] * row["runs"]
    parts = [] if has_all else [count_text(int(row["paired_episodes"]), f"common {_unit(row)}")]
    if row["p_training"] == row["p_training"]:
        ends = f"{row['diff_training_ci95_low']:+.2f}, {row['diff_training_ci95_high']:+.2f}"
        mark = "" if row["correction"] == "none" else CORRECTED
        parts.append(f"over trainings {ends}, p{mark} {p_text(row['p_training_corrected'])}")
    if (p := row.get("p_by_seed_corrected", math.nan)) == p:
        parts.append(f"t-test by seed p{'' if row['correction'] == 'none' else CORRECTED} {p_text(p)}")
    return f"({'; '.join(parts)})" if parts else ""


def _note(row: Mapping[Any, Any], rows: pd.DataFrame, plus_minus: str) -> str:
    """The line below a method's name."""
    if is_published(row):
        return f"({row['source'].split('; ')[0]})"
    uneven = (
        f"{count_text(int(row['runs']), 'run')} of {count_text(int(row['episodes']), 'episode')}"
        if _is_uneven(rows) and row["source"] == MEASURED and not is_whole(row)
        else ""
    )
    parts = [part for part in (trainings_text(row, plus_minus), uneven) if part]
    return f"({'; '.join(parts)})" if parts else ""


def _interval_name(rows: pd.DataFrame) -> str:
    """What the interval over episodes is called: over disjoint ones it is open (Lafargue et al., 2024)."""
    return "open" if (rows["sampler"] == DISJOINT).all() else "task"


@dataclass(frozen=True)
class _Line:
    """A row of a table of methods: its kind, its name, a note below that, and further cells."""

    kind: str
    name: str
    note: str
    cells: list[Text]


def _filled(table: Table, console: Console, lines: Sequence[_Line]) -> Table:
    """Add rows; names get the width that the other cells leave, and where transductive ones follow others, headings."""
    headers = [str(column.header) for column in table.columns[1:]]
    limits = [column.max_width or console.width for column in table.columns[1:]]
    widths = [
        min(limits[i], max(len(header), *(len(line.cells[i]) for line in lines))) for i, header in enumerate(headers)
    ]
    for_names = console.width - sum(widths) - 2 * len(table.columns)
    shared, names = without_common_prefix([line.name for line in lines])
    if shared:
        table.columns[0].header = prefix_header(shared, console, for_names)
    kinds = {line.kind for line in lines}
    has_headings, before = len(kinds) > 1 and "transductive" in kinds, ""
    for line, name in zip(lines, names, strict=True):
        if has_headings and line.kind != before:
            table.add_row(Text(line.kind, "italic"))
        before = line.kind
        texts = [*broken(name, for_names), *([printable(line.note)] if line.note else [])]
        table.add_row(Text("\n".join(texts), line.cells[0].style), *line.cells)
    return table


def prefix_header(shared: str, console: Console, width: int) -> Text:
    """The header of a column of names without the stages that all of them begin with, e.g. "conv4_64/…"."""
    return Text("\n".join(broken(f"{shared}{'...' if console.options.ascii_only else '…'}", width)))


def new_table(first: str, *numbers: str) -> Table:
    """An empty table with a column of names and further columns of numbers."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column(first)
    for header in numbers:
        table.add_column(header, justify="right", no_wrap=True)
    return table


def print_table(console: Console, title: str, table: Table, footnotes: Sequence[str] = ()) -> None:
    """Print a table below its title and above its footnotes; Rich's own are wrapped to the width of the table."""
    console.print(Text(title))
    console.print(table)
    for footnote in footnotes:
        console.print(Text(printable(footnote), "dim"))
    console.print()


def _unit(row: Mapping[Any, Any]) -> str:
    return "test image" if is_whole(row) else "episode"


def percent_text(value: float) -> str:
    """A percentage; a dash where it is unknown."""
    return f"{value:.2f}" if value == value else "-"


def _title(rows: pd.DataFrame) -> str:
    first = rows.to_dict("records")[0]
    if is_whole(first):
        measured = rows.loc[rows["source"] == MEASURED, "episodes"]
        return f"{task_text(first)}, {first['way']} classes, {count_text(int(measured.max()), 'test image')}"
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
    return f"{count_text(int(rows['runs'].iloc[0]), 'run')} of {count_text(int(rows['episodes'].iloc[0]), 'episode')}"


def coloured(text: str, verdict: str, plus_minus: str = "±") -> Text:
    """A text in the colour of its verdict; a claim that does not go beyond the split has a fainter one."""
    style = {"better": "green", "worse": "red"}.get(about_data(verdict).split()[0], "")
    faint = " dim" if style and (is_on_this_split(verdict) or about_data(verdict) != verdict) else ""
    return Text(printable(text.replace("±", plus_minus)), style + faint)


def plus_minus_of(console: Console) -> str:
    """The sign of an interval's half-width, as the terminal can show it."""
    return "+/-" if console.options.ascii_only else "±"


def broken(name: str, width: int) -> list[str]:
    """A method's name in lines, broken between its stages and settings rather than within a word."""
    lines = [""]
    for part in re.split(r"(?<=[/,])|(?=[@+])|(?<= )(?=\(transductive\)[^ ]*$)", printable(name)):
        if lines[-1] and len(lines[-1]) + len(part) > max(width, _NARROWEST_NAME):
            lines.append("")
        lines[-1] += part
    return [line.rstrip() for line in lines]


def leaderboard_records(frame: pd.DataFrame, best: Sequence[Answer] = ()) -> list[dict[str, Any]]:
    """A leaderboard as one mapping per row, for `--json`; what does not exist is None.

    Args:
        frame: as `leaderboard` or `sweep_frame` returns it.
        best: which methods are best; each measured row gets the answer for its protocol and kind as `best`.
    """
    by_kind = {(answer.protocol, answer.is_transductive): answer.as_dict() for answer in best}
    records = []
    for row in frame.to_dict("records"):
        record = {str(column): _plain(str(column), value) for column, value in row.items()}
        if "source" in row:
            kind = (row["protocol_fingerprint"], is_transductive(row))
            record["best"] = by_kind.get(kind) if row["source"] == MEASURED else None
        records.append(record)
    return records


def _plain(column: str, value: Any) -> Any:
    if value is None or value != value or (isinstance(value, float) and math.isinf(value)):
        return None
    if isinstance(value, np.bool_):
        return bool(value)
    return int(value) if COLUMNS.get(column) == "count" else value
