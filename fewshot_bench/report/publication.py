"""The leaderboard as papers print it: a row per method, a column per task, in Markdown and in LaTeX (booktabs).

The best of each column is bold; those that are not significantly worse than it are underlined.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from fewshot_bench.outcomes import CLAIMED_SAMPLER
from fewshot_bench.printable import printable
from fewshot_bench.report.summary import MEASURED
from fewshot_bench.report.wording import CLAIMED, CORRECTIONS, task_text
from fewshot_bench.statistics import read_letters

NOTE = (
    "Median over the runs of their mean accuracy in %, with the 95% t interval of the median run over its episodes. "
    "Bold: the best; underlined: not significantly worse than the best (paired t-tests of the means of all pairs on "
    "the same episodes, {}, 5%)."
)
PUBLISHED_NOTE = "†: as published, on other episodes; not ranked."
_TASK = ("dataset", "split", "way", "shot", "sampler")


@dataclass(frozen=True)
class Entry:
    """One method on one task.

    Attributes:
        accuracy: in %.
        half_width: of its 95% interval, in points; NaN where there is none.
        is_best: of the methods measured on this task.
        is_not_worse: shares a letter with the best, and is not the best.
        is_published: taken from a paper, not measured here.
    """

    accuracy: float
    half_width: float
    is_best: bool
    is_not_worse: bool
    is_published: bool


def publication_table(frame: pd.DataFrame) -> tuple[list[str], dict[str, dict[str, Entry]]]:
    """Arrange a leaderboard by method and task.

    Args:
        frame: as `leaderboard` returns it.

    Returns:
        The tasks in the order of the leaderboard, and for each method its entries by task; methods that have the most
        tasks come first, of these the best in the mean over tasks, and published ones last.
    """
    tasks: list[str] = []
    entries: dict[str, dict[str, Entry]] = {}
    for _, rows in frame.groupby("protocol_fingerprint", sort=False):
        records = rows.to_dict("records")
        task = _distinct(task_text(records[0]), tasks)
        tasks.append(task)
        measured = [row for row in records if row["source"] == MEASURED]
        best = max(measured, key=lambda row: float(row["median"]), default=None)
        not_worse = _not_worse(measured, best)
        for row in records:
            entries.setdefault(row["method"], {})[task] = _entry(row, best, row["method"] in not_worse)
    order = sorted(entries, key=lambda method: _rank(entries[method]))
    return tasks, {method: entries[method] for method in order}


def as_markdown(frame: pd.DataFrame) -> str:
    """The table in GitHub's Markdown, with a note below it."""
    tasks, methods = publication_table(frame)
    lines = [_line(["method", *map(_markdown, tasks)]), _line(["---", *["---:"] * len(tasks)])]
    for method, entries in methods.items():
        cells = [_text(entries.get(task), "**{}**", "<u>{}</u>", "±", "†") for task in tasks]
        lines.append(_line([_markdown(method), *cells]))
    return "\n".join([*lines, "", *_notes(frame), ""])


def as_latex(frame: pd.DataFrame) -> str:
    """The table in LaTeX; it needs the package booktabs and nothing else."""
    tasks, methods = publication_table(frame)
    rows = [
        [_text(entries.get(task), r"\textbf{{{}}}", r"\underline{{{}}}", r"$\pm$", r"$^\dagger$") for task in tasks]
        for entries in methods.values()
    ]
    table = pd.DataFrame(rows, index=[printable(name) for name in methods], columns=[printable(task) for task in tasks])
    styler = table.style.format_index(escape="latex", axis=0).format_index(escape="latex", axis=1)
    content = styler.to_latex(hrules=True, column_format="l" + "r" * len(tasks))
    notes = "\n".join("% " + note for note in _notes(frame))
    return f"{notes}\n{content}"


def _entry(row: Mapping[Hashable, Any], best: Mapping[Hashable, Any] | None, is_not_worse: bool) -> Entry:
    is_published = row["source"] != MEASURED
    is_best = not is_published and best is not None and row["median"] == best["median"]
    return Entry(
        accuracy=float(row["median"]),
        half_width=float(row["median_ci95"]),
        is_best=is_best,
        is_not_worse=is_not_worse and not is_published and not is_best,
        is_published=is_published,
    )


def _not_worse(measured: Sequence[Mapping[Hashable, Any]], best: Mapping[Hashable, Any] | None) -> set[str]:
    """The methods that share a letter with the best, or have a higher mean: the best is so by its median."""
    if best is None:
        return set()
    names = [row["method"] for row in measured]
    letters = dict(zip(names, read_letters([row["group"] or "" for row in measured]), strict=True))
    higher = {row["method"] for row in measured if row["mean"] >= best["mean"]}
    return higher | {name for name, own in letters.items() if own & letters[best["method"]]}


def _rank(entries: Mapping[str, Entry]) -> tuple[bool, int, float]:
    values = [entry.accuracy for entry in entries.values()]
    return all(entry.is_published for entry in entries.values()), -len(values), -sum(values) / len(values)


def _distinct(task: str, tasks: list[str]) -> str:
    """Two protocols of one task, with other seeds or images, are told apart by a number."""
    count = sum(other == task or other.startswith(f"{task} (") for other in tasks)
    return task if not count else f"{task} ({count + 1})"


def _text(entry: Entry | None, bold: str, underlined: str, plus_minus: str, dagger: str) -> str:
    if entry is None:
        return ""
    number = f"{entry.accuracy:.2f}"
    number = bold.format(number) if entry.is_best else underlined.format(number) if entry.is_not_worse else number
    width = "" if math.isnan(entry.half_width) else f" {plus_minus} {entry.half_width:.2f}"
    return number + width + (dagger if entry.is_published else "")


def _notes(frame: pd.DataFrame) -> list[str]:
    corrections = frame["correction"].dropna()
    note = NOTE.format(CORRECTIONS[str(corrections.iloc[0]) if len(corrections) else "holm"])
    is_claimed = frame["sampler"].str.startswith(CLAIMED_SAMPLER)
    return [
        note,
        *([PUBLISHED_NOTE] if (frame["source"] != MEASURED).any() else []),
        *([f"{CLAIMED[0].upper()}{CLAIMED[1:]}."] if is_claimed.any() else []),
    ]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown(name: str) -> str:
    """A name without meaning to Markdown or HTML, on one line."""
    return re.sub(r"([\\`*_\[\]<>|&~#])", r"\\\1", printable(name))
