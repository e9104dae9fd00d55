"""The leaderboard as papers print it: a row per method, a column per task, in Markdown and in LaTeX (booktabs).

The best of each column is bold; those that are not shown to be worse than it are underlined. Transductive methods stand
below the others, marked, and have a best of their own. The caption says what the numbers, the half-widths and the marks
of this very table claim.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd

from fewshot_bench._io.text import printable
from fewshot_bench.outcomes import CLAIMED_SAMPLER
from fewshot_bench.report.findings import answer_lines, answers
from fewshot_bench.report.labels import HEADING, IS_OWN
from fewshot_bench.report.leaderboard_rows import MEASURED, ONE_TRAINING
from fewshot_bench.report.names import (
    BALANCED_FLAG,
    CLAIMED,
    TRANSDUCTIVE_NOTE,
    is_transductive,
    is_whole,
    row_name,
    task_names,
    trainings_text,
    unit_text,
)
from fewshot_bench.report.notes import is_published
from fewshot_bench.report.verdicts import LETTER_COLUMNS, Claim, correction_words
from fewshot_bench.statistics import read_letters

PlusMinus = Literal["task", "data", "both", "none"]
"""What ± covers: which episodes were drawn; also which classes and images the split holds; both, side by side."""

_WIDTHS: dict[PlusMinus, tuple[str, tuple[str, ...]]] = {
    "task": ("median", ("median_ci95",)),
    "data": ("mean", ("data_ci95",)),  # the data interval is that of the mean
    "both": ("mean", ("ci95", "data_ci95")),
    "none": ("median", ()),
}
_WHERE = {
    "classes and images": "beyond this split (other classes and images)",
    "images of these classes": "beyond this split (other images of these classes)",
}
_ON_THIS_SPLIT = "on this split (these classes and images)"
_OVER_IMAGES = "±: half-width of the 95% interval over the test images, for other images of these classes."
_ABSENT = "–"
_BALANCED = "‡"
_MIDRULE = "\\midrule\n"
"""Between inductive methods and transductive ones, and before published ones that follow such."""
_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$", "†": r"$^\dagger$", _BALANCED: r"$^\ddagger$",
    _ABSENT: "--",
    "\N{REPLACEMENT CHARACTER}": "?",
}  # fmt: skip


@dataclass(frozen=True)
class _Style:
    """How a format writes what a cell holds."""

    bold: str
    underlined: str
    plus_minus: str
    dagger: str
    absent: str
    raised: str


_MARKDOWN = _Style("**{}**", "<u>{}</u>", "±", "†", _ABSENT, "<sup>{}</sup>")
_IN_LATEX = _Style(r"\textbf{{{}}}", r"\underline{{{}}}", _LATEX["±"], _LATEX["†"], _LATEX[_ABSENT], "$^{{{}}}$")


@dataclass(frozen=True)
class Entry:
    """One method on one task.

    Attributes:
        accuracy: in %.
        half_widths: of its 95% intervals, in points; the known ones.
        is_best: of the methods of its kind, inductive or transductive, that were measured on this task.
        is_not_worse: not shown to be worse than the best, and not the best.
        is_published: taken from a paper, not measured here.
        is_transductive: whether the method sees all queries of an episode at once.
        spread: of several trainings, whose mean the accuracy is, such as "SD 0.52 over 3"; empty for one.
        note: who measured a published number and the notes on it, or what is reported for a measured one.
    """

    accuracy: float
    half_widths: tuple[float, ...]
    is_best: bool
    is_not_worse: bool
    is_published: bool
    is_transductive: bool = False
    spread: str = ""
    note: str = ""


@dataclass(frozen=True)
class PublicationTable:
    """The table of a paper.

    Attributes:
        tasks: the columns.
        methods: the rows, by their names as people should read them, each with its entries by task; a method may lack
            a task.
        caption: what the table shows and claims, in sentences without markup.
        answers: which methods are best on each task, as `fewshot_bench.report.findings.answer_lines` puts it.
        headings: the author's group of each row, in the order of the groups; empty without groups.
        own: the rows that the author wants highlighted.
    """

    tasks: Sequence[str]
    methods: Mapping[str, Mapping[str, Entry]]
    caption: str
    answers: Sequence[str] = ()
    headings: Mapping[str, str] = field(default_factory=dict)
    own: frozenset[str] = frozenset()

    @property
    def notes(self) -> dict[str, str]:
        """The letter of each note, by its text, in the order of the rows."""
        texts = [
            self.methods[name][task].note
            for _, names in self.groups()
            for name in names
            for task in self.tasks
            if task in self.methods[name]
        ]
        return {text: _letter(place) for place, text in enumerate(filter(None, dict.fromkeys(texts)))}

    def groups(self) -> list[tuple[str, list[str]]]:
        """The names of the rows by heading: the author's, or inductive, transductive and published.

        Without groups and transductive methods there is one, without a heading.
        """
        found: dict[str, list[str]] = {}
        if self.headings:
            for name, heading in self.headings.items():
                found.setdefault(heading, []).append(name)
            return list(found.items())
        for name, entries in self.methods.items():
            kind = (
                "published" if _is_published(entries) else "transductive" if _is_transductive(entries) else "inductive"
            )
            found.setdefault(kind, []).append(name)
        return list(found.items()) if "transductive" in found and len(found) > 1 else [("", list(self.methods))]


def publication_table(
    frame: pd.DataFrame, *, plus_minus: PlusMinus = "task", claim: Claim = "beyond"
) -> PublicationTable:
    """Arrange a leaderboard by method and task.

    Args:
        frame: as `leaderboard` returns it.
        plus_minus: which half-widths stand beside the numbers. With "task", as papers do, and "none" a number is the
            median over the runs; with "data" and "both" it is the mean, whose data interval is known.
        claim: what an underline claims.

    Returns:
        The tasks in the order of the leaderboard; inductive methods come first, then transductive, then published ones,
        and within each group those that have the most tasks, of these the best in the mean over tasks.
    """
    rows_of = {str(key): rows.to_dict("records") for key, rows in frame.groupby("protocol_fingerprint", sort=False)}
    names = task_names({key: rows[0] for key, rows in rows_of.items()})
    groups = {names[key]: rows for key, rows in rows_of.items()}
    number, widths = _WIDTHS[plus_minus]
    entries: dict[str, dict[str, Entry]] = {}
    reach: dict[str, str] = {}
    below: dict[str, tuple[str, int]] = {}
    for task, rows in groups.items():
        measured = [row for row in rows if row["source"] == MEASURED]
        reach[task] = _reach(max(measured, key=lambda row: float(row[number]), default=None), claim)
        best = {kind: max(same, key=lambda row: float(row[number])) for kind, same in _by_kind(measured).items()}
        not_worse = _not_worse(measured, best, LETTER_COLUMNS[claim]) if reach[task] else set()
        names_of = {row["method_fingerprint"]: _table_name(row) for row in rows}
        for row in rows:
            is_measured, is_training = row["source"] == MEASURED, row["source"] == ONE_TRAINING
            if is_training:
                below[_table_name(row)] = names_of[row["training_of"]], int(row["training_seed"])
            is_best = is_measured and row[number] == best[is_transductive(row)][number]
            entries.setdefault(_table_name(row), {})[task] = Entry(
                accuracy=float(row[number]),
                half_widths=tuple(float(row[name]) for name in _widths_of(row, widths) if _is_known(row[name])),
                is_best=is_best,
                is_not_worse=is_measured and not is_best and row["method"] in not_worse,
                is_published=not (is_measured or is_training),
                is_transductive=is_transductive(row),
                spread=f"SD {row['training_sd']:.2f} over {row['trainings']:.0f}" if trainings_text(row) else "",
                note=_note(row),
            )

    order = {name: number for number, name in enumerate(entries)}

    def place(name: str) -> tuple[Any, ...]:
        """Trainings stand below their method, by their seeds."""
        method, seed = below.get(name, (name, 0))
        return *_rank(entries[method]), order[method], name in below, seed

    methods = {method: entries[method] for method in sorted(entries, key=place)}
    every = [entry for row in methods.values() for entry in row.values()]
    caption = [_what_is_shown(groups, plus_minus, every), *_marks(groups, reach, claim, methods)]
    if any(reach.values()):
        caption.append("These tests claim nothing about new trainings, which another seed would give.")
    if any(entry.spread for entry in every):
        caption.append(
            "SD: over the trainings of a method, whose mean stands beside it; each training is in a row below. Other "
            "intervals are of these trainings, and do not cover new ones."
        )
    if any(entry.is_transductive for entry in every):
        caption.append(f"{TRANSDUCTIVE_NOTE[0].upper()}{TRANSDUCTIVE_NOTE[1:]}.")
    if any(name.endswith(_BALANCED) for name in methods):
        caption.append(f"{_BALANCED}: {BALANCED_FLAG}.")
    if frame["sampler"].str.startswith(CLAIMED_SAMPLER).any():
        caption.append(f"{CLAIMED[0].upper()}{CLAIMED[1:]}.")
    sentences = answer_lines(answers(frame), with_cost=False)
    headings, own = _author_groups(frame, methods)
    if own:
        caption.append("Bold names: our own methods.")
    return PublicationTable(list(groups), methods, " ".join(caption), sentences, headings, own)


def _author_groups(frame: pd.DataFrame, methods: Iterable[str]) -> tuple[dict[str, str], frozenset[str]]:
    """The author's heading of each row in the order of the groups, and the author's own rows; see `labelled`."""
    if HEADING not in frame:
        return {}, frozenset()
    rows = {_table_name(row): row for row in frame.to_dict("records")}
    own = frozenset(name for name in methods if rows[name][IS_OWN])
    places = {heading: place for place, heading in enumerate(frame.attrs[HEADING]) if heading}
    headings = {name: rows[name][HEADING] for name in methods if rows[name][HEADING]}
    return dict(sorted(headings.items(), key=lambda item: places[item[1]])), own


def as_markdown(frame: pd.DataFrame, *, plus_minus: PlusMinus = "task", claim: Claim = "beyond") -> str:
    """The table in GitHub's Markdown, with its caption and the best methods; arguments as `publication_table`."""
    table = publication_table(frame, plus_minus=plus_minus, claim=claim)
    lines = [_line(["method", *map(_markdown, table.tasks)]), _line(["---", *["---:"] * len(table.tasks)])]
    notes = table.notes
    for kind, methods in table.groups():
        lines += [_line([f"*{_markdown(kind)}*", *([""] * len(table.tasks))])] if kind else []
        for method in methods:
            cells = (_text(table.methods[method].get(task), _MARKDOWN, notes) for task in table.tasks)
            name = _markdown(method)
            lines.append(_line([_MARKDOWN.bold.format(name) if method in table.own else name, *cells]))
    for paragraph in (table.caption, *table.answers):
        lines += ["", _markdown(paragraph)]
    for note, letter in notes.items():
        lines += ["", f"{_MARKDOWN.raised.format(letter)} {_markdown(note)}"]
    return "\n".join([*lines, ""])


def as_latex(frame: pd.DataFrame, *, plus_minus: PlusMinus = "task", claim: Claim = "beyond") -> str:
    """The table in LaTeX (needs booktabs), with its caption; the arguments are those of `publication_table`."""
    table = publication_table(frame, plus_minus=plus_minus, claim=claim)
    groups = [methods for _, methods in table.groups()]
    names = [name for methods in groups for name in methods]
    notes = table.notes
    rows = [[_text(table.methods[name].get(task), _IN_LATEX, notes) for task in table.tasks] for name in names]
    starts = {methods[0]: _MIDRULE for methods in groups[1:]}
    if table.headings:
        columns = len(table.tasks) + 1
        for place, (heading, (first, *_)) in enumerate(table.groups()):
            line = f"\\multicolumn{{{columns}}}{{l}}{{\\textit{{{_latex(heading)}}}}} \\\\\n"
            starts[first] = f"{_MIDRULE if place else ''}{line}"
    index = [
        f"{starts.get(name, '')}{_IN_LATEX.bold.format(_latex(name)) if name in table.own else _latex(name)}"
        for name in names
    ]
    content = pd.DataFrame(rows, index=index, columns=[_latex(t) for t in table.tasks])
    text = content.style.to_latex(
        hrules=True,
        column_format="l" + "r" * len(table.tasks),
        position_float="centering",
        caption=_latex(table.caption),
    )
    below = "".join(f"{_IN_LATEX.raised.format(letter)} {_latex(note)}\\\\\n" for note, letter in notes.items())
    end = "\\end{tabular}\n"
    text = text.replace(end, f"{end}\\par\\smallskip\\footnotesize\\raggedright\n{below}") if notes else text
    return f"% needs \\usepackage{{booktabs}}\n{text}"


def _widths_of(row: Mapping[Hashable, Any], widths: Sequence[str]) -> Sequence[str]:
    """The columns of the half-widths of a row; on a whole split there is one interval, over test images."""
    return ("ci95",) if is_whole(row) and widths else widths


def _reach(best: Mapping[Hashable, Any] | None, claim: Claim) -> str:
    """Where the best is compared with the others, in words; empty where no test reaches that far."""
    if best is None or not _word(best, LETTER_COLUMNS[claim]):
        return ""
    return _ON_THIS_SPLIT if claim == "split" else _WHERE.get(_word(best, "beyond"), "")


def _not_worse(
    measured: Sequence[Mapping[Hashable, Any]], best: Mapping[bool, Mapping[Hashable, Any]], column: str
) -> set[str]:
    """The methods that share a letter with the best of their kind, or have a higher mean: that may be by its median."""
    names = [row["method"] for row in measured]
    letters = dict(zip(names, read_letters([_word(row, column) for row in measured]), strict=True))
    not_worse = set()
    for row in measured:
        rival = best[is_transductive(row)]
        if row["mean"] >= rival["mean"] or letters[row["method"]] & letters[rival["method"]]:
            not_worse.add(row["method"])
    return not_worse


def _by_kind(rows: Sequence[Mapping[Hashable, Any]]) -> dict[bool, list[Mapping[Hashable, Any]]]:
    """Rows by whether their methods are transductive."""
    by_kind: dict[bool, list[Mapping[Hashable, Any]]] = {}
    for row in rows:
        by_kind.setdefault(is_transductive(row), []).append(row)
    return by_kind


def _is_transductive(entries: Mapping[str, Entry]) -> bool:
    return any(entry.is_transductive for entry in entries.values())


def _is_published(entries: Mapping[str, Entry]) -> bool:
    return all(entry.is_published for entry in entries.values())


def _rank(entries: Mapping[str, Entry]) -> tuple[bool, bool, int, float]:
    values = [entry.accuracy for entry in entries.values()]
    return _is_published(entries), _is_transductive(entries), -len(values), -sum(values) / len(values)


def _what_is_shown(
    groups: Mapping[str, Sequence[Mapping[Hashable, Any]]], plus_minus: PlusMinus, entries: Sequence[Entry]
) -> str:
    """The sentence on the numbers and on what their half-widths cover."""
    measured = [row for rows in groups.values() for row in rows if row["source"] == MEASURED]
    whole = [row for row in measured if is_whole(row)]
    if whole and len(whole) == len(measured):
        return f"Top-1 accuracy in %. {_OVER_IMAGES}" if plus_minus != "none" else "Top-1 accuracy in %."
    also = f" On whole splits: {_OVER_IMAGES[0].lower()}{_OVER_IMAGES[1:]}" if whole and plus_minus != "none" else ""
    measured = [row for row in measured if not is_whole(row)]
    groups = {task: rows for task, rows in groups.items() if not any(is_whole(row) for row in rows)}
    is_one_run = all(row["runs"] == 1 for row in measured)
    number, _ = _WIDTHS[plus_minus]
    is_median = number == "median" and not is_one_run
    shown = f"{'Median over the runs of their mean' if is_median else 'Mean'} accuracy in %."
    if not any(entry.half_widths for entry in entries):
        return shown if plus_minus == "none" else f"{shown} No interval is known."
    width, here = "half-width of the 95% interval over", "for these classes and images"
    sentences = {
        "task": f"±: {width} {'the episodes of the median run' if is_median else 'episodes'}, {here}.",
        "data": f"±: {width} {_data_coverage(groups)}.",
        "both": f"First ±: {width} episodes, {here}. Second ±, where it is known: over {_data_coverage(groups)}.",
    }
    return f"{shown} {sentences[plus_minus]}{also}"


def _data_coverage(groups: Mapping[str, Sequence[Mapping[Hashable, Any]]]) -> str:
    """What the data intervals cover, with the tasks on which that is something else."""
    words = {"classes and images": "episodes, classes and images"}
    words["images of these classes"] = "episodes and images of these classes"
    found: dict[str, list[str]] = {}
    for task, rows in groups.items():
        known = [_word(row, "beyond") for row in rows if _is_known(row["data_ci95"])]
        if known:
            found.setdefault(words.get(known[0], words["classes and images"]), []).append(task)
    return _with_exceptions(found) or words["classes and images"]


def _marks(
    groups: Mapping[str, Sequence[Mapping[Hashable, Any]]],
    reach: Mapping[str, str],
    claim: Claim,
    methods: Mapping[str, Mapping[str, Entry]],
) -> list[str]:
    """The sentences on bold and underlined numbers, daggers and dashes, as far as they are in the table."""
    entries = [entry for row in methods.values() for entry in row.values()]
    rows = [row for same in groups.values() for row in same if row["source"] == MEASURED]
    by_kind = {task: _by_kind([row for row in same if row["source"] == MEASURED]) for task, same in groups.items()}
    with_rivals = [task for task, found in by_kind.items() if any(len(same) > 1 for same in found.values())]
    of_its_kind = " of its kind, inductive or transductive" if any(len(found) > 1 for found in by_kind.values()) else ""
    sentences = [f"Bold: the best{of_its_kind}."] if with_rivals else []
    tested: dict[str, list[str]] = {}
    for task in with_rivals:
        tested.setdefault(reach[task], []).append(task)
    untested = tested.pop("", [])
    if tested:
        correction = next((_word(row, "correction") for row in rows if _word(row, "correction")), "holm")
        is_underlined = any(entry.is_not_worse for entry in entries)
        claimed = (
            f"Underlined: not shown to be worse than the best{' of its kind' if of_its_kind else ''}"
            if is_underlined
            else "All others: shown to be worse"
        )
        sentences.append(f"{claimed} {_with_exceptions(tested)}.")
        unit = unit_text(map(is_whole, rows))
        sentences.append(f"Each pair is tested on the {unit} that both have, at 5%, {correction_words(correction)}.")
    if untested:
        where = f" for {_listed(untested)}" if tested else ""
        why = "the methods share too few episodes" if claim == "split" else "no test reaches beyond this split"
        sentences.append(f"Nothing is underlined{where}: {why}.")
    if any(entry.is_published for entry in entries):
        published = [row for same in groups.values() for row in same if is_published(row)]
        are_whole = {is_whole(row) for row in published}
        how = {frozenset({False}): "on other episodes", frozenset({True}): "of other trainings"}
        others = how.get(frozenset(are_whole), "on other episodes or of other trainings")
        sentences.append(f"†: as published, {others}; not ranked.")
    if any(len(row) < len(groups) for row in methods.values()):
        sentences.append(f"{_ABSENT}: no result.")
    return sentences


def _table_name(row: Mapping[Hashable, Any]) -> str:
    """The method of a row as the table has it, with a mark where it assumes as many queries of every class."""
    return row_name(row) + (_BALANCED if BALANCED_FLAG in str(row.get("flags") or "") else "")


def _with_exceptions(found: Mapping[str, Sequence[str]]) -> str:
    """What holds for most tasks, and for which something else does: "here; on a and b, there"."""
    first, *others = sorted(found, key=lambda words: -len(found[words])) or [""]
    return first + "".join(f"; on {_listed(found[words])}, {words}" for words in others)


def _listed(tasks: Sequence[str]) -> str:
    return ", ".join(tasks)


def _word(row: Mapping[Hashable, Any], column: str) -> str:
    """A text of a row; empty where there is none."""
    value = row.get(column)
    return value if isinstance(value, str) else ""


def _is_known(value: Any) -> bool:
    return value is not None and value == value


def _note(row: Mapping[Hashable, Any]) -> str:
    """What the note of a row's number says: who measured a published one, or what is reported beside a measured one."""
    if row["source"] == ONE_TRAINING:
        return ""
    if row["source"] != MEASURED:
        return ". ".join(filter(None, (row["source"].split("; ")[0], _word(row, "note"))))
    if not _is_known(row.get("reported")):
        return ""
    width = f" ± {row['reported_ci95']:.2f}" if _is_known(row["reported_ci95"]) else ""
    ends = (row["reported_diff_ci95_low"], row["reported_diff_ci95_high"])
    interval = f" (Welch's 95% interval {ends[0]:+.2f} to {ends[1]:+.2f})" if _is_known(ends[0]) else ""
    return (
        f"Reported by {row['reported_by'].split('; ')[0]}: {row['reported']:.2f}{width}. Mean minus reported: "
        f"{row['reported_difference'] + 0.0:+.2f}{interval}, {row['reported_verdict']}"
    )


def _letter(place: int) -> str:
    """The mark of a note: a to z, then aa to az, and so on."""
    letters = ""
    while place >= 0:
        letters, place = chr(ord("a") + place % 26) + letters, place // 26 - 1
    return letters


def _text(entry: Entry | None, style: _Style, notes: Mapping[str, str]) -> str:
    if entry is None:
        return style.absent
    number = f"{entry.accuracy:.2f}"
    if entry.is_best or entry.is_not_worse:
        number = (style.bold if entry.is_best else style.underlined).format(number)
    widths = "".join(f" {style.plus_minus} {width:.2f}" for width in entry.half_widths)
    spread = f" ({entry.spread})" if entry.spread else ""
    raised = style.raised.format(notes[entry.note]) if entry.note else ""
    return number + widths + spread + (style.dagger if entry.is_published else "") + raised


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown(text: str) -> str:
    """A text without meaning to Markdown or HTML, on one line."""
    return re.sub(r"([\\`*_\[\]<>|&~#$])", r"\\\1", printable(text))


def _latex(text: str) -> str:
    """A text without meaning to LaTeX, on one line; what begins with [ or * would belong to the end of a row above."""
    escaped = "".join(_LATEX.get(character, character) for character in printable(text))
    return re.sub(r"^\s*([\[*])", r"{\1}", escaped)
