"""What a study leaves beside its outcomes: the leaderboard, the page, tables and figures for a paper."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import AfterValidator, BeforeValidator, Field

from fewshot_bench.atomic import write_atomically
from fewshot_bench.errors import UnknownNameError
from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.paths import Place
from fewshot_bench.report import (
    Claim,
    NoPictureError,
    PlusMinus,
    as_latex,
    as_markdown,
    current_leaderboard,
    method_labels,
    with_labels,
    write_leaderboard,
)
from fewshot_bench.study.options import Options

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9 _.+-]*")
_OF_THE_STORE = ("outcomes", "studies", "sweeps", "published")


def _file_choice(value: object) -> object:
    """Refuse what is neither yes or no nor a name within the results folder: a study may be somebody else's.

    Raises:
        ValueError: it is.
    """
    is_name = isinstance(value, str) and _PLAIN_NAME.fullmatch(value) and value not in _OF_THE_STORE
    if not isinstance(value, bool) and not is_name:
        raise ValueError("should be true, false, or a file name without folders: it goes into the results folder")
    return value


FileChoice = Annotated[bool | str, BeforeValidator(_file_choice)]
"""Whether to write a file, or what to call it."""


def _label(text: str) -> str:
    """Refuse a label that nobody could read.

    Raises:
        ValueError: it is empty.
    """
    if not text.strip():
        raise ValueError("should be the name that a table shows")
    return text


Label = Annotated[str, AfterValidator(_label)]
"""What the tables for papers call a method."""


class Outputs(Options):
    """What to write into the results folder; `true` takes the usual name.

    What ± covers, what an underline claims and the labels are those of the tables in Markdown and LaTeX.
    """

    leaderboard: FileChoice = True
    report: FileChoice = True
    markdown: FileChoice = False
    latex: FileChoice = False
    figures: FileChoice = False
    plus_minus: PlusMinus = "task"
    claim: Claim = "beyond"
    labels: dict[str, Label] = Field(default_factory=dict)

    def problem(self) -> tuple[str, str] | None:
        """The output that was given the name of another, which it would replace, and what is wrong in words."""
        kinds: dict[str, str] = {}
        for kind in sorted(_USUAL_NAMES, key=lambda kind: isinstance(getattr(self, kind), str)):
            name = self._name(kind)
            other = kinds.setdefault(name.lower(), kind) if name else kind  # some disks know no upper case
            if other != kind:
                return kind, f"{kind} and {other} are both called {name}; give one of them another name."
        return None

    def _name(self, kind: str) -> str:
        """What an output is called; empty where it is not wanted."""
        choice = getattr(self, kind)
        return choice if isinstance(choice, str) else _USUAL_NAMES[kind] if choice else ""

    def place(self, kind: str, results: Place) -> Place | None:
        """Where an output goes; None where it is not wanted.

        Args:
            kind: name of a field.
            results: the results folder.
        """
        name = self._name(kind)
        return results / name if name else None


_USUAL_NAMES = {
    "leaderboard": "leaderboard.csv",
    "report": "report.html",
    "markdown": "table.md",
    "latex": "table.tex",
    "figures": "figures",
}


def write_outputs(
    outputs: Outputs,
    results: Place,
    cells: Sequence[Cell],
    baselines: Mapping[str, str],
    asked_names: Mapping[str, str] | None = None,
) -> tuple[pd.DataFrame, dict[str, Place], str]:
    """Write what a study asked for, from everything that its results folder holds.

    Args:
        outputs: what to write.
        results: the folder with `outcomes`.
        cells: of the study.
        baselines: label of the method that the others are tested against, by protocol fingerprint.
        asked_names: what the study calls methods that are stored under other names, by these.

    Returns:
        The whole leaderboard; where each output is, by its kind; and why there are no figures, if they failed.

    Raises:
        OutcomeError: nothing is stored, or something is damaged.
        ComparisonError: two methods of one protocol would be called alike; all but the tables is written.
        OSError: a file cannot be written.
    """
    places = {kind: outputs.place(kind, results) for kind in _USUAL_NAMES}
    store = OutcomeStore(results / "outcomes")
    csv = places["leaderboard"] or results / _USUAL_NAMES["leaderboard"]  # read in any case: it keeps baselines
    frame = current_leaderboard(store, csv, baselines, cells=cells)
    if places["leaderboard"] is not None:
        write_leaderboard(frame, csv)
    why_not = _write_page(places, results, frame, store)
    labelled = with_labels(frame, _labels(outputs, cells, asked_names or {}))
    for place, table in ((places["markdown"], as_markdown), (places["latex"], as_latex)):
        if place is not None:
            text = table(labelled, plus_minus=outputs.plus_minus, claim=outputs.claim)
            write_atomically(place, text.encode())
    return frame, {kind: place for kind, place in places.items() if place is not None}, why_not


def _labels(outputs: Outputs, cells: Sequence[Cell], asked_names: Mapping[str, str]) -> dict[str, str]:
    """The labels of a study's methods; one that has no outcomes has none, and names were checked beforehand."""
    stored = {asked_names.get(cell.method.name, cell.method.name): cell.method.name for cell in cells}
    found: dict[str, str] = {}
    for pair in outputs.labels.items():
        with suppress(UnknownNameError):
            found |= method_labels(list(stored), [pair])
    return {stored[name]: label for name, label in found.items()}


def _write_page(places: dict[str, Place | None], results: Place, frame: pd.DataFrame, store: OutcomeStore) -> str:
    """Write the page and draw the figures of a frame; figures that cannot be drawn are struck out, with the reason."""
    from fewshot_bench.report.figures import draw_figures
    from fewshot_bench.report.page import gather, write_page

    page, figures = places["report"], places["figures"]
    if page is None and figures is None:
        return ""
    content = gather(store, frame, results) if page is None else write_page(results, page, frame=frame, store=store)
    if figures is None:
        return ""
    if not isinstance(figures, Path):
        places["figures"] = None
        return f"figures are drawn on a disk, not at {figures}: fewshot-bench report --figures FOLDER draws them"
    try:
        draw_figures(content, figures)
    except NoPictureError as error:
        places["figures"] = None
        return str(error)
    return ""
