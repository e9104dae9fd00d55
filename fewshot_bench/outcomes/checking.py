"""Check everything that is stored of a cell: its description, every byte of its parts, and what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fewshot_bench._io.locations import Location
from fewshot_bench._io.storage import files_under, is_abandoned, is_unfinished, read_bytes
from fewshot_bench.errors import OutcomeError
from fewshot_bench.outcomes import failures
from fewshot_bench.outcomes.cell import Cell
from fewshot_bench.outcomes.frame import even_truth, positions_of, query_counts
from fewshot_bench.outcomes.manifest import cell_folders, not_described, read_manifest
from fewshot_bench.outcomes.packing import Positions
from fewshot_bench.outcomes.part import Columns, Identity, Part, numbers_by_run
from fewshot_bench.outcomes.store import merged, parts_among, with_parts
from fewshot_bench.outcomes.stored_table import LARGEST_PART

_SHOWN = 5


def even_rows(cell: Cell, frame: pd.DataFrame) -> list[tuple[pd.DataFrame, Positions, int]]:
    """The rows with each number of predictions, the true classes of their queries, [E, M], and N.

    Args:
        cell: of a protocol with equally many queries per class.
        frame: one row per episode.
    """
    counts = query_counts(frame["predictions"], cell.protocol.way)
    found = []
    for queries in np.unique(counts).tolist():
        rows = frame[counts == queries]
        way = queries // cell.protocol.query
        found.append((rows, np.tile(even_truth(way, queries), (len(rows), 1)), way))
    return found


def first_wrong(rows: pd.DataFrame, truth: Positions, way: int, most: int) -> str:
    """How the stored counts differ from those that the predictions give, in words; empty if they agree.

    Args:
        rows: of N-way episodes with the same number of queries.
        truth: the true classes of the queries, [E, M].
        way: N.
        most: the largest N of the protocol.
    """
    lengths = query_counts(rows["predictions"], most)
    if (lengths != truth.shape[1]).any():
        first = int(np.argmax(lengths != truth.shape[1]))
        return f"{_name(rows.iloc[first])} has {lengths[first]} predictions for {truth.shape[1]} queries"
    predictions = positions_of(rows["predictions"], most).reshape(truth.shape)
    if predictions.max() >= way:
        bad = rows.iloc[int(np.argmax(predictions.max(axis=1) >= way))]
        return f"{_name(bad)} has predictions of other classes than the {way} of its task"
    correct = (predictions == truth).sum(axis=1)
    stored = rows["correct"].to_numpy()
    differs = (correct != stored) | (rows["accuracy"].to_numpy() != correct / truth.shape[1])
    if not differs.any():
        return ""
    first = int(np.argmax(differs))
    return (
        f"{int(differs.sum()):,} episodes, first {_name(rows.iloc[first])}: {correct[first]} of {truth.shape[1]} "
        f"predictions are correct, and {stored[first]} is stored"
    )


def _name(row: pd.Series) -> str:
    return f"run {row['run']}, episode {row['episode']}"


@dataclass
class CellCheck:
    """What a check found.

    Attributes:
        key: of the cell, the name of its folder.
        cell: its description; None if that cannot be read.
        parts: their number.
        episodes: the number of stored episodes, by run.
        damage: what is wrong, one sentence each.
        notes: what is missing, ignored or left over.
    """

    key: str
    cell: Cell | None = None
    parts: int = 0
    episodes: dict[int, int] = field(default_factory=dict)
    damage: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        about: dict[str, Any] = {"method": None, "task": None}
        if self.cell:
            about = {"method": self.cell.method.name, "task": self.cell.protocol.task}
            about["is_transductive"] = self.cell.method.is_transductive
        counts = {str(run): count for run, count in self.episodes.items()}
        found = {"parts": self.parts, "episodes": counts, "damage": self.damage, "notes": self.notes}
        return {"cell": self.key, **about, **found}


def check_store(folder: Location) -> list[CellCheck]:
    """Check every cell of a folder of outcomes, by key; raises OutcomeError if there is none."""
    cells = cell_folders(folder)
    if not cells:
        raise OutcomeError(f"there are no outcomes in {folder}. Run a study first, or name its folder by --results.")
    return [check_cell(cell) for cell in cells]


def check_cell(folder: Location) -> CellCheck:
    """Check the cell of a folder; a part that a compaction removes meanwhile is not damage."""
    try:
        return with_parts(folder, lambda _: _check(folder))
    except OutcomeError as error:  # about the folder as a whole; other cells are still checked
        return CellCheck(folder.name, damage=[str(error)])


def _check(folder: Location) -> CellCheck:
    names = files_under(folder)
    parts = parts_among(folder, names)
    found = CellCheck(folder.name, parts=len(parts))
    try:
        manifest = read_manifest(folder)
    except FileNotFoundError:
        found.damage.append(not_described(folder))
        return found
    except OutcomeError as error:
        found.damage.append(str(error))
        return found
    found.cell = manifest.cell
    ignored = manifest.description.ignored.values()
    found.notes += [f"ignored, since it is not valid: {finding}" for finding in ignored]
    identity = Identity.of(manifest.cell)
    if not parts:
        found.notes.append("there are no outcomes. Run that study, or prune the cell.")
    frame = _episodes(found, parts, identity)
    if frame is not None:
        found.episodes = {run: len(numbers) for run, numbers in _numbers(frame).items()}
        if not manifest.cell.protocol.is_claimed:  # whose numbers may be any
            _note_gaps(found, frame)
            _note_counts(found, manifest.cell, frame)
    _note_files(found, folder, names, parts)
    with _noting_damage(found):
        _note_failures(found, folder, names, frame)
    return found


def _episodes(found: CellCheck, parts: Sequence[Part], identity: Identity) -> pd.DataFrame | None:
    """The episodes of the undamaged parts; None if there are none, or parts disagree."""
    whole: dict[Part, Columns] = {}
    for part in parts:
        with _noting_damage(found):
            whole[part] = part.read(read_bytes(part.location, LARGEST_PART), identity, with_predictions=True)
    with _noting_damage(found):
        return merged([*whole], [*whole.values()]) if whole else None
    return None


@contextmanager
def _noting_damage(found: CellCheck) -> Iterator[None]:
    try:
        yield
    except OutcomeError as error:
        found.damage.append(str(error))


def _note_gaps(found: CellCheck, frame: pd.DataFrame) -> None:
    """Note which episodes are missing between others, or in one of the runs."""
    numbers = _numbers(frame)
    end = int(frame["episode"].max()) + 1
    for run in range(max(numbers) + 1):
        stored = numbers.get(run, np.arange(0))
        if len(stored) < end:
            missing = f"{end - len(stored):,} of {end:,} episodes, the first of them {first_missing(stored)}"
            found.notes.append(f"run {run} lacks {missing}. Run that study again.")


def _note_counts(found: CellCheck, cell: Cell, frame: pd.DataFrame) -> None:
    """Note counts that differ from those of the predictions; if tasks are uneven, only an audit can tell."""
    if cell.protocol.has_even_queries:
        findings = [first_wrong(*group, cell.protocol.way) for group in even_rows(cell, frame)]
        found.damage += [f"{finding}. Do not believe this cell." for finding in findings if finding]


def first_missing(numbers: NDArray[np.int64]) -> int:
    """The smallest number that is not among those of a run's episodes, sorted, each once, [E]."""
    return int(np.argmax(np.append(numbers, -1) != np.arange(len(numbers) + 1)))


def _note_files(found: CellCheck, folder: Location, names: Sequence[str], parts: Sequence[Part]) -> None:
    """Note files that are left over, or look like parts but are not."""
    unfinished = [last for name in names if is_unfinished(last := name.rpartition("/")[2])]
    if left := sum(map(is_abandoned, unfinished)):
        found.notes.append(f"{left} files of interrupted writes; they are removed when the study is resumed.")
    if others := len(unfinished) - left:
        found.notes.append(
            f"{others} unfinished files of processes that may be at work; those of other machines are removed when the "
            "study is resumed a day later."
        )
    known = {part.name for part in parts}
    unknown = [name for name in names if name.endswith(".parquet") and name not in known]
    found.damage += [f"{folder / name} is not a part by its name. Move it away." for name in unknown[:_SHOWN]]
    if len(unknown) > _SHOWN:
        found.damage.append(f"{len(unknown) - _SHOWN} more files of {folder} are not parts by their names.")


def _note_failures(found: CellCheck, folder: Location, names: Sequence[str], frame: pd.DataFrame | None) -> None:
    """Note which episodes failed."""
    done = {} if frame is None else _numbers(frame)
    for failure in failures.still_open(failures.recorded(folder, names).values(), done):
        first = f"{len(failure.episodes):,} episodes of run {failure.run}, from {failure.episodes[0]}"
        found.notes.append(f"{first}, failed: {failure.reason}")


def _numbers(frame: pd.DataFrame) -> dict[int, NDArray[np.int64]]:
    return numbers_by_run(frame["run"].to_numpy(), frame["episode"].to_numpy(np.int64))
