"""What one command runs: studies that share a results folder, a leaderboard and a page.

What a study leaves beside its outcomes: the leaderboard, the page, tables and figures for a paper.

A folder of results that nobody has: for a study that begins anew beside another one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import AfterValidator, BeforeValidator, Field

from fewshot_bench._io.locations import Place
from fewshot_bench._io.locks import owner
from fewshot_bench._io.storage import create_exclusively, reaching, remove, write_atomically
from fewshot_bench.errors import StudyError, UnknownNameError
from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.outcomes.study_log import FOLDER
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
from fewshot_bench.study.study import Options, Study

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
    from fewshot_bench.report.content import gather
    from fewshot_bench.report.page import write_page
    from fewshot_bench.report.paper_figures import draw_figures

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


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """Several studies that belong together.

    Attributes:
        name: of the whole.
        studies: in the order in which they run; all with the same results folder.
        places: where each is described, such as "study.toml, line 12", for a complaint; empty for a command line.
        baselines: method that the others are tested against, by the dataset as it was named.
        outputs: what is written at the end.
    """

    name: str
    studies: tuple[Study, ...]
    places: tuple[str, ...]
    baselines: Mapping[str, str] = field(default_factory=dict)
    outputs: Outputs = field(default_factory=Outputs)

    @classmethod
    def of_options(cls, study: Study, backbones: Sequence[str] = ()) -> StudyPlan:
        """What the options of a command line describe: one study, or one per backbone.

        Args:
            study: the whole but for the backbones.
            backbones: each counts once; the study's own where there is none.

        Raises:
            StudyError: an interval is to stop several networks, which would not share their episodes.
        """
        baselines = {} if study.baseline is None else {study.dataset: study.baseline}
        studies = [study.model_copy(update={"backbone": name}) for name in dict.fromkeys(backbones)] or [study]
        if len(studies) > 1 and study.until_ci is not None:
            raise StudyError(
                "--until-ci stops the methods of one network together, so that they share their episodes; --backbone "
                f"names {len(studies)}. Say --episodes instead, or name one backbone at a time."
            )
        return cls(name="", studies=tuple(studies), places=("",) * len(studies), baselines=baselines)

    def into(self, results: Place) -> StudyPlan:
        """The same studies with another results folder."""
        return replace(self, studies=tuple(study.model_copy(update={"results": results}) for study in self.studies))

    @property
    def results(self) -> Place:
        """The folder of outcomes and of everything that is written at the end."""
        return self.studies[0].results


_CLAIM = "fresh"
"""A file beside the records of studies, behind a URL, where an empty folder cannot be made."""


def free_folder(results: Place) -> Place:
    """The first folder beside one that does not exist yet: itself, results-2, results-3, and so on."""
    return next(folder for folder in _folders(results) if not _exists(folder))


@contextmanager
def fresh_folder(results: Place) -> Iterator[Place]:
    """The same, made for this process alone, however many ask for one at that moment.

    In the end it is removed if it is as empty as it was made.

    Args:
        results: the folder to begin anew beside.

    Raises:
        OSError: it cannot be made.
        PlaceError: the same behind a URL, or nobody can have a folder alone there.
    """
    made = next(folder for folder in _folders(results) if _is_made(folder))
    before = _state(made) if isinstance(made, Path) else None
    try:
        yield made
    finally:
        with suppress(OSError):  # what went wrong first is what counts
            if not isinstance(made, Path):
                remove(made / FOLDER / _CLAIM)  # what was stored by now keeps others off
            elif _state(made) == before:
                made.rmdir()


def _folders(results: Place) -> Iterator[Place]:
    yield results
    number = 1
    while True:
        number += 1
        yield results.with_name(f"{results.name}-{number}")


def _exists(folder: Place) -> bool:
    with reaching(folder):
        return folder.exists()


def _is_made(folder: Place) -> bool:
    """Whether this process has made a folder; False where it was there."""
    if not isinstance(folder, Path):
        content = json.dumps({"owner": owner()}).encode()
        return not _exists(folder) and create_exclusively(folder / FOLDER / _CLAIM, content)
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return False
    return True


def _state(folder: Path) -> tuple[int, int]:
    """What changes as soon as anything is made in a folder, or another takes its place."""
    found = folder.stat()
    return found.st_ino, found.st_mtime_ns
