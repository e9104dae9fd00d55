"""A small real result of the built-in dataset, ways to falsify it, and methods that cheat."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from fewshot_bench import Study, run_study
from fewshot_bench.adaptation import Centroid, EmbeddingAdaptation
from fewshot_bench.audit import AuditOptions, audit_cell
from fewshot_bench.audit.method_checks import how_far_behind
from fewshot_bench.audit.rebuild import rebuild
from fewshot_bench.audit.selection import RerunOptions
from fewshot_bench.audit.stored_checks import redrawn_tasks
from fewshot_bench.datasets import open_dataset
from fewshot_bench.engine.classify import EmbeddingClassifier
from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.outcomes.part import Identity, Part, new_part
from fewshot_bench.outcomes.store import episodes_of, parts_in
from fewshot_bench.progress import SILENT


def small_result(folder: Path, **fields: Any) -> Path:
    """Run one cell, glyphs by an untrained Conv4, and return the folder of the cell."""
    study = {"adaptations": ("centroid",), "base_losses": (), "shots": (1,), "episodes": 12, "runs": 2, "chunk": 5}
    (cell,) = run_study(Study(**{**study, "device": "cpu", **fields}, results=folder)).cells
    return folder / "outcomes" / cell.key


def verdicts(folder: Path, **options: Any) -> dict[str, str]:
    return {finding.check: finding.verdict for finding in findings(folder, **options)}


def detail(folder: Path, check: str, **options: Any) -> str:
    return next(finding.detail for finding in findings(folder, **options) if finding.check == check)


def findings(folder: Path, **options: Any) -> tuple[Any, ...]:
    return audit_cell(folder, AuditOptions(**{"device": "cpu", **options})).findings


def failures(folder: Path, **options: Any) -> list[str]:
    return audit_cell(folder, AuditOptions(**{"device": "cpu", **options})).failures


def stored(folder: Path) -> Cell:
    return Cell.from_json((folder / "cell.json").read_text(encoding="utf-8"))


def rewritten(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Change cell.json; folder and parts are those that the changed cell has, as a forger would see to."""
    content = json.loads((folder / "cell.json").read_text(encoding="utf-8"))
    parts = [(part, rows_of(folder, part)) for part in parts_in(folder)]
    change(content)
    (folder / "cell.json").write_text(json.dumps(content), encoding="utf-8")
    for part, frame in parts:
        part.location.unlink()
        write_part(folder, frame, part.episode_range[0])
    return folder.rename(folder.parent / Cell.from_json(json.dumps(content)).key)


def with_part(folder: Path, number: int, change: Callable[[pd.DataFrame], None]) -> None:
    """Change the rows of one part and write it again, whole and readable."""
    part = parts_in(folder)[number]
    frame = rows_of(folder, part)
    change(frame)
    part.location.unlink()
    write_part(folder, frame, part.episode_range[0])


def rows_of(folder: Path, part: Part) -> pd.DataFrame:
    return episodes_of([part], Identity.of(stored(folder)))


def write_part(folder: Path, frame: pd.DataFrame, run: int) -> None:
    """Store rows as they are, under the name that fits them."""
    name, content = new_part(frame, Identity.of(stored(folder)), run)
    (folder / name).write_bytes(content)


def another_prediction(frame: pd.DataFrame, query: int = 0) -> None:
    """The first episode says another class of one query; its counts stay."""
    said = bytearray(frame.loc[0, "predictions"])
    said[query] = (said[query] + 1) % 5
    frame.at[0, "predictions"] = bytes(said)


def better_predictions(frame: pd.DataFrame) -> None:
    """The first episode is all correct, and counted so."""
    frame.at[0, "predictions"] = np.repeat(np.arange(5, dtype=np.uint8), 15).tobytes()
    frame.at[0, "correct"] = 75
    frame.at[0, "accuracy"] = 1.0


def elsewhere(folder: Path) -> Path:
    """Say that a cell was made on another kind of machine, where ties may have turned otherwise."""
    return rewritten(folder, lambda content: content["provenance"]["hardware"].update(device="another GPU"))


@dataclass(frozen=True)
class Tie:
    """A prediction that is not the method's own.

    Attributes:
        run: of the episode.
        episode: its number.
        query: position of the query.
        said: the class that is said instead.
        gain: 1 if that is right, -1 if the method was right, 0 if both are wrong.
        behind: how far its score is behind, see `how_far_behind`.
    """

    run: int
    episode: int
    query: int
    said: int
    gain: int
    behind: float


def nearest_ties(folder: Path) -> list[Tie]:
    """Every prediction that the method of a cell does not make, the nearest ones first."""
    cell = stored(folder)
    method = rebuild(cell, open_dataset(cell.protocol.dataset), RerunOptions(device="cpu"), SILENT)
    assert isinstance(method.classifier, EmbeddingClassifier)
    frame = OutcomeStore(folder.parent).read(cell)
    ties = []
    for group in redrawn_tasks(cell.protocol, cell.class_sizes, frame):
        own, behind = method.classifier(group, 10), how_far_behind(method.classifier, group)
        for said in range(group.way):
            gains = (group.truth == said).astype(int) - (group.truth == own)
            ties += [
                Tie(
                    group.run,
                    int(group.numbers[row]),
                    int(query),
                    said,
                    int(gains[row, query]),
                    behind[row, query, said],
                )
                for row, query in zip(*np.nonzero(own != said), strict=True)
            ]
    return sorted(ties, key=lambda tie: tie.behind)


def forge(folder: Path, ties: Sequence[Tie]) -> None:
    """Store other predictions than the method's own, with the counts that fit them."""
    cell = stored(folder)
    store = OutcomeStore(folder.parent)
    frame = store.read(cell)
    rows = {(run, episode): row for row, (run, episode) in enumerate(zip(frame["run"], frame["episode"], strict=True))}
    for tie in ties:
        row = rows[tie.run, tie.episode]
        said = bytearray(frame.at[row, "predictions"])
        said[tie.query] = tie.said
        frame.at[row, "predictions"] = bytes(said)
        frame.at[row, "correct"] += tie.gain
    frame["accuracy"] = frame["correct"] / frame["predictions"].map(len)
    for part in parts_in(folder):
        part.location.unlink()
    for run, rows_of_run in frame.groupby("run"):
        write_part(folder, rows_of_run.reset_index(drop=True), int(run))


def overlapping_part(folder: Path, change: Callable[[pd.DataFrame], None]) -> None:
    """A second part with the first two episodes of run 0."""
    frame = rows_of(folder, parts_in(folder)[0]).iloc[:2].copy()
    change(frame)
    write_part(folder, frame, 0)


def cell_of(store: OutcomeStore) -> Path:
    (cell,) = store.cells()
    return store.folder / cell.key


@dataclass(frozen=True, kw_only=True)
class Peek(EmbeddingAdaptation):
    """Knows that queries come class by class."""

    name: ClassVar[str] = "peek"

    def scores(self, split, support, query):
        way, queries = support.shape[1], query.shape[1]
        classes = torch.arange(queries) * way // queries
        return torch.nn.functional.one_hot(classes, way).float().expand(len(query), -1, -1)


@dataclass(frozen=True, kw_only=True)
class PeekIfAsked(EmbeddingAdaptation):
    """Nearest centroid, or one that knows that queries come class by class; which of the two is to be chosen."""

    name: ClassVar[str] = "peek-if-asked"
    grid: ClassVar[dict[str, tuple[bool, ...]]] = {"peeks": (False, True)}
    peeks: bool = False

    def scores(self, split, support, query):
        return (Peek() if self.peeks else Centroid()).scores(split, support, query)


@dataclass(frozen=True, kw_only=True)
class ReadNumbers(EmbeddingAdaptation):
    """Knows that the images of a class have neighbouring numbers."""

    name: ClassVar[str] = "read-numbers"

    def scores(self, split, support, query):
        distance = (query.unsqueeze(2) - support[:, :, 0].unsqueeze(1)).abs()
        return -distance.float()


@dataclass(frozen=True, kw_only=True)
class Whisper(EmbeddingAdaptation):
    """Lets the queries of an episode share out the classes among themselves."""

    name: ClassVar[str] = "whisper"
    admits_it: bool = False
    is_balanced: bool = False

    @property
    def is_transductive(self) -> bool:
        return self.admits_it

    @property
    def assumes_balanced_queries(self) -> bool:
        return self.is_balanced

    def scores(self, split, support, query):
        scores = Centroid().scores(split, support, query)
        return scores - scores.mean(dim=1, keepdim=True)


@dataclass(frozen=True, kw_only=True)
class Chance(EmbeddingAdaptation):
    """Says something else each time."""

    name: ClassVar[str] = "chance"

    def scores(self, split, support, query):
        return torch.rand(*query.shape, support.shape[1])


@dataclass(frozen=True, kw_only=True)
class WantsAll(EmbeddingAdaptation):
    """Breaks where an episode has fewer queries than it is used to."""

    name: ClassVar[str] = "wants-all"

    def scores(self, split, support, query):
        return Centroid().scores(split, support, query).reshape(len(query), 75, 5)
