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

from fewshot_bench.report.summary import MEASURED
from fewshot_bench.report.wording import task_text
from fewshot_bench.statistics import read_letters

NOTE = (
    "Median over the runs of their mean accuracy in %, with the 95% t interval of the median run over its episodes. "
    "Bold: the best; underlined: not significantly worse than the best (paired t-tests of all pairs on the same "
    "episodes, Holm, 5%)."
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
        The tasks in the order of the leaderboard, and for each method its entries by task; methods come by their mean
        over the tasks they have in common, best first, published ones last.
    """
    tasks: list[str] = []
    entries: dict[str, dict[str, Entry]] = {}
    for _, rows in frame.groupby("protocol_fingerprint", sort=False):
        records = rows.to_dict("records")
        task = _distinct(task_text(records[0]), tasks)
        tasks.append(task)
        measured = [row for row in records if row["source"] == MEASURED]
        best = max(measured, key=lambda row: float(row["median"]), default=None)
        shares = _sharing(measured, best)
        for row in records:
            entries.setdefault(row["method"], {})[task] = _entry(row, best, row["method"] in shares)
    order = sorted(entries, key=lambda method: _rank(entries[method]))
    return tasks, {method: entries[method] for method in order}


def as_markdown(frame: pd.DataFrame) -> str:
    """The table in GitHub's Markdown, with a note below it."""
    tasks, methods = publication_table(frame)
    lines = [_line(["method", *tasks]), _line(["---", *["---:"] * len(tasks)])]
    for method, entries in methods.items():
        cells = [_text(entries.get(task), "**{}**", "<u>{}</u>", "±", "†") for task in tasks]
        lines.append(_line([_markdown(method), *cells]))
    return "\n".join([*lines, "", *_notes(methods), ""])


def as_latex(frame: pd.DataFrame) -> str:
    """The table in LaTeX; it needs the package booktabs and nothing else."""
    tasks, methods = publication_table(frame)
    rows = [
        [_text(entries.get(task), r"\textbf{{{}}}", r"\underline{{{}}}", r"$\pm$", r"$^\dagger$") for task in tasks]
        for entries in methods.values()
    ]
    table = pd.DataFrame(rows, index=list(methods), columns=tasks)
    styler = table.style.format_index(escape="latex", axis=0).format_index(escape="latex", axis=1)
    content = styler.to_latex(hrules=True, column_format="l" + "r" * len(tasks))
    notes = "\n".join("% " + note for note in _notes(methods))
    return f"{notes}\n{content}"


def _entry(row: Mapping[Hashable, Any], best: Mapping[Hashable, Any] | None, shares: bool) -> Entry:
    is_published = row["source"] != MEASURED
    is_best = not is_published and best is not None and row["median"] == best["median"]
    return Entry(
        accuracy=float(row["median"]),
        half_width=float(row["median_ci95"]),
        is_best=is_best,
        is_not_worse=shares and not is_published and not is_best,
        is_published=is_published,
    )


def _sharing(measured: Sequence[Mapping[Hashable, Any]], best: Mapping[Hashable, Any] | None) -> set[str]:
    """The methods that share a letter with the best."""
    letters = dict(
        zip((row["method"] for row in measured), read_letters([row["group"] or "" for row in measured]), strict=True)
    )
    return set() if best is None else {name for name, own in letters.items() if own & letters[best["method"]]}


def _rank(entries: Mapping[str, Entry]) -> tuple[bool, float]:
    values = [entry.accuracy for entry in entries.values()]
    return all(entry.is_published for entry in entries.values()), -sum(values) / len(values)


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


def _notes(methods: Mapping[str, Mapping[str, Entry]]) -> list[str]:
    some = any(entry.is_published for entries in methods.values() for entry in entries.values())
    return [NOTE, *([PUBLISHED_NOTE] if some else [])]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown(name: str) -> str:
    """A name without meaning to Markdown or HTML."""
    return re.sub(r"([\\`*_\[\]<>|&~])", r"\\\1", name)
