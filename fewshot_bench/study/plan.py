"""What one command runs: studies that share a results folder, and what they leave in it."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import AfterValidator, BeforeValidator, Field

from fewshot_bench._io.locations import Location
from fewshot_bench._io.locks import owner
from fewshot_bench._io.storage import create_exclusively, reaching, remove, write_atomically
from fewshot_bench.errors import ComparisonError, FewshotBenchError, StudyError, UnknownNameError
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
_CLAIM = "fresh"
"""A file beside the records of studies that claims a folder behind a URL, where an empty folder cannot be made."""


def _file_choice(value: object) -> object:
    """Refuse anything but true, false or a name within the results folder: a stranger may have written the study."""
    is_name = isinstance(value, str) and _PLAIN_NAME.fullmatch(value) and value not in _OF_THE_STORE
    if not isinstance(value, bool) and not is_name:
        raise ValueError("should be true, false, or a file name without folders: it goes into the results folder")
    return value


FileChoice = Annotated[bool | str, BeforeValidator(_file_choice)]
"""Whether to write a file, or its name."""


def _label(text: str) -> str:
    """Refuse an empty label."""
    if not text.strip():
        raise ValueError("should be the name that a table shows")
    return text


Label = Annotated[str, AfterValidator(_label)]
"""The name of a method in the tables for papers."""


class Outputs(Options):
    """What to write into the results folder; `true` takes the usual name.

    `plus_minus` and `claim` apply to the tables in Markdown and LaTeX, `labels` also to those in the terminal.
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
        """An output with the name of another, which it would replace, and the message; None if there is none."""
        kinds: dict[str, str] = {}
        for kind in sorted(_USUAL_NAMES, key=lambda kind: isinstance(getattr(self, kind), str)):
            name = self._name(kind)
            other = kinds.setdefault(name.lower(), kind) if name else kind  # some disks know no upper case
            if other != kind:
                return kind, f"{kind} and {other} are both called {name}; give one of them another name."
        return None

    def _name(self, kind: str) -> str:
        """The name of an output; empty where it is not wanted."""
        choice = getattr(self, kind)
        return choice if isinstance(choice, str) else _USUAL_NAMES[kind] if choice else ""

    def place(self, kind: str, results: Location) -> Location | None:
        """Where an output goes, by the name of its field; None where it is not wanted."""
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
    results: Location,
    cells: Sequence[Cell],
    baselines: Mapping[str, str],
    asked_names: Mapping[str, str] | None = None,
) -> tuple[pd.DataFrame, dict[str, Location], str]:
    """Write the outputs of a study, from everything that its results folder holds.

    Args:
        outputs: what to write.
        results: the folder with `outcomes`.
        cells: of the study.
        baselines: label of the method that the others are tested against, by protocol fingerprint.
        asked_names: what the study calls methods that are stored under other names, by these.

    Returns:
        The whole leaderboard; the place of each output, by its kind; and why there are no figures, if they failed.

    Raises:
        OutcomeError: nothing is stored, or something is damaged.
        ComparisonError: two methods of one protocol would have the same name; all but the tables is written.
        OSError: a file cannot be written.
    """
    places = {kind: outputs.place(kind, results) for kind in _USUAL_NAMES}
    store = OutcomeStore(results / "outcomes")
    csv = places["leaderboard"] or results / _USUAL_NAMES["leaderboard"]  # read in any case: it keeps baselines
    frame = current_leaderboard(store, csv, baselines, cells=cells)
    if places["leaderboard"] is not None:
        write_leaderboard(frame, csv)
    why_not = _write_page(places, results, frame, store)
    labelled = with_labels(frame, labels_of(outputs, cells, asked_names or {}))
    for place, table in ((places["markdown"], as_markdown), (places["latex"], as_latex)):
        if place is not None:
            text = table(labelled, plus_minus=outputs.plus_minus, claim=outputs.claim)
            write_atomically(place, text.encode())
    return frame, {kind: place for kind, place in places.items() if place is not None}, why_not


def labels_of(outputs: Outputs, cells: Sequence[Cell], asked_names: Mapping[str, str]) -> dict[str, str]:
    """The labels of a study's methods with outcomes; names were checked before."""
    stored = {asked_names.get(cell.method.name, cell.method.name): cell.method.name for cell in cells}
    found: dict[str, str] = {}
    for pair in outputs.labels.items():
        with suppress(UnknownNameError):
            found |= method_labels(list(stored), [pair])
    return {stored[name]: label for name, label in found.items()}


def _write_page(places: dict[str, Location | None], results: Location, frame: pd.DataFrame, store: OutcomeStore) -> str:
    """Write the page and draw the figures; where they cannot be drawn, return why and remove their place."""
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
        places: where each is described, such as "study.toml, line 12", for error messages; empty for a command line.
        baselines: method that the others are tested against, by the dataset as the user named it.
        outputs: what is written at the end.
    """

    name: str
    studies: tuple[Study, ...]
    places: tuple[str, ...]
    baselines: Mapping[str, str] = field(default_factory=dict)
    outputs: Outputs = field(default_factory=Outputs)

    @classmethod
    def of_options(cls, studies: Sequence[Study]) -> StudyPlan:
        """The studies that the options of a command line describe, one per backbone or recipe.

        Raises:
            StudyError: an interval should stop several networks, which would not share their episodes.
        """
        first = studies[0]
        baselines = {} if first.baseline is None else {first.dataset: first.baseline}
        if len(studies) > 1 and first.until_ci is not None:
            flag = "--backbone" if first.recipe is None else "--recipe"
            raise StudyError(
                f"--until-ci stops the methods of one network together, so that they share their episodes; {flag} "
                f"names {len(studies)}. Say --episodes instead, or name one at a time."
            )
        return cls(name="", studies=tuple(studies), places=("",) * len(studies), baselines=baselines)

    def check_labels(self, names: Mapping[str, Sequence[str]]) -> None:
        """Refuse labels of unknown methods, and one label for two methods, given the names of each dataset.

        Raises:
            UnknownNameError, ComparisonError: see `method_labels`.
        """
        labels = method_labels([name for same in names.values() for name in same], self.outputs.labels.items())
        for same in names.values():
            owners: dict[str, str] = {}
            for name in dict.fromkeys(same):
                label = labels.get(name, name)
                if owners.setdefault(label, name) != name:
                    raise ComparisonError(f"{owners[label]} and {name} would both be called '{label}'.")

    def into(self, results: Location) -> StudyPlan:
        """The same studies with another results folder."""
        return replace(self, studies=tuple(study.model_copy(update={"results": results}) for study in self.studies))

    @property
    def results(self) -> Location:
        """The folder of outcomes and of everything that is written at the end."""
        return self.studies[0].results


@contextmanager
def located(place: str) -> Iterator[None]:
    """Begin the message of an error with the place of its study in a file, such as "study.toml, line 12", if any.

    Raises:
        FewshotBenchError: unchanged where the place is empty; a StudyError otherwise.
    """
    try:
        yield
    except FewshotBenchError as error:
        if not place:
            raise
        raise StudyError(f"{place}: {error}") from error


def free_folder(results: Location) -> Location:
    """The first folder beside one that does not exist yet: itself, results-2, results-3, and so on."""
    return next(folder for folder in _folders(results) if not _exists(folder))


@contextmanager
def new_results_folder(results: Location) -> Iterator[Location]:
    """Make the first free folder, for this process alone; in the end it is removed if it is still empty.

    Args:
        results: the folder to start anew beside.

    Raises:
        OSError: it cannot be made.
        LocationError: it cannot be made behind this URL, or not for one process alone.
    """
    folder = next(folder for folder in _folders(results) if _is_made(folder))
    before = _state(folder) if isinstance(folder, Path) else None
    try:
        yield folder
    finally:
        with suppress(OSError):  # an earlier error counts more
            if not isinstance(folder, Path):
                remove(folder / FOLDER / _CLAIM)  # stored files keep others off by now
            elif _state(folder) == before:
                folder.rmdir()


def _folders(results: Location) -> Iterator[Location]:
    yield results
    for number in itertools.count(2):
        yield results.with_name(f"{results.name}-{number}")


def _exists(folder: Location) -> bool:
    with reaching(folder):
        return folder.exists()


def _is_made(folder: Location) -> bool:
    """Make a folder; False where it exists."""
    if not isinstance(folder, Path):
        content = json.dumps({"owner": owner()}).encode()
        return not _exists(folder) and create_exclusively(folder / FOLDER / _CLAIM, content)
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return False
    return True


def _state(folder: Path) -> tuple[int, int]:
    """Changes as soon as anything is made in a folder, or another folder replaces it."""
    status = folder.stat()
    return status.st_ino, status.st_mtime_ns
