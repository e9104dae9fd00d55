"""All parts of a cell in one: fewer files to open, the same outcomes.

The new part is written and read back before an old one goes, so a kill at any moment leaves every episode in at least
one part, and what is there twice is there alike. Parts that another process adds meanwhile are left alone.

Several compactions of one cell may run at once. A part goes only where one is kept that holds more: further episodes,
or a shorter time of one; of two that hold the same, the first by name is kept. No two can thus remove each other's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fewshot_bench.atomic import remove_abandoned, write_once
from fewshot_bench.errors import OutcomeError, ShapeError
from fewshot_bench.outcomes import failures
from fewshot_bench.outcomes.cell import Cell
from fewshot_bench.outcomes.columns import Identity
from fewshot_bench.outcomes.manifest import MANIFEST, cell_folders, describe, not_described, read_manifest
from fewshot_bench.outcomes.part import Part, new_part
from fewshot_bench.outcomes.parts import episodes_of, parts_in, with_parts
from fewshot_bench.outcomes.store import OutcomeStore
from fewshot_bench.paths import Place
from fewshot_bench.stored_files import files_under, is_file, remove, size_of


@dataclass(frozen=True)
class Compacted:
    """What a compaction has done to a cell.

    Attributes:
        cell: which.
        parts: how many there were.
        bytes_before: of these.
        bytes_after: of the one that is left.
        void: records of failures that were removed, because there are outcomes.
    """

    cell: Cell
    parts: int
    bytes_before: int
    bytes_after: int
    void: int


@dataclass(frozen=True)
class Damaged:
    """A cell that could not be compacted.

    Attributes:
        key: of the cell, the name of its folder.
        damage: what is wrong, in one sentence.
    """

    key: str
    damage: str


def compact_store(outcomes: Place) -> list[Compacted | Damaged]:
    """Compact every cell of a folder of outcomes that has some, by key; one that is damaged keeps no other from it.

    Raises:
        OSError: the disk is full, gone, ...
    """
    found: list[Compacted | Damaged] = []
    for folder in cell_folders(outcomes):
        try:
            done = compact(folder)
        except FileNotFoundError:
            if is_file(folder / MANIFEST):
                raise
            found += [Damaged(folder.name, not_described(folder))] if parts_in(folder) else []
        except OutcomeError as error:
            found.append(Damaged(folder.name, str(error)))
        else:
            found += [done] if done.parts else []
    return found


def compact(folder: Place) -> Compacted:
    """Put all parts of a cell into one, and remove what has become void; a cell that is compact stays as it is.

    Args:
        folder: of the cell.

    Raises:
        FileNotFoundError: it has no description.
        OutcomeError: a part or the description is damaged, or two parts disagree; nothing is removed then.
    """
    cell = read_manifest(folder).cell
    parts, before, after = with_parts(folder, lambda found: _into_one(folder, cell, found))
    return Compacted(cell, parts, before, after, _clean(folder, cell))


def _into_one(folder: Place, cell: Cell, parts: Sequence[Part]) -> tuple[int, int, int]:
    """How many parts there were, their bytes, and the bytes of the one that is left."""
    before = sum(size_of(part.place) for part in parts)
    if len(parts) < 2:
        return len(parts), before, before
    identity = Identity.of(cell)
    frame = episodes_of(parts, identity)
    name = _holder(parts, frame, identity) or _written(folder, cell, frame)
    after = size_of(folder / name)
    for part in parts:
        if part.name != name:
            remove(part.place)
    return len(parts), before, after


def _holder(parts: Sequence[Part], frame: pd.DataFrame, identity: Identity) -> str | None:
    """The first part of all runs that holds everything already, by name; None where none does."""
    of_all_runs = [part for part in parts if part.stretch is None]
    return next((part.name for part in of_all_runs if episodes_of([part], identity).equals(frame)), None)


def _written(folder: Place, cell: Cell, frame: pd.DataFrame) -> str:
    """The name of a new part with some episodes, which has been read back.

    Raises:
        OutcomeError: it is not read back as it was written, or the episodes cannot be written.
    """
    identity = Identity.of(cell)
    try:
        name, content = new_part(frame, identity, None)
    except ShapeError as error:  # an old part can say that
        raise OutcomeError(f"stored outcomes in {folder} are damaged: {error}") from error
    except OutcomeError as error:
        raise OutcomeError(f"{folder} cannot be compacted and stays as it is: {error}.") from error
    describe(folder, cell)  # an older release is not to read what is left without the new part
    write_once(folder / name, content)
    written = Part.named(folder, name)
    if written is None or not episodes_of([written], identity).equals(frame):
        raise OutcomeError(f"{folder / name} is not read back as it was written. Check the disk; nothing was removed.")
    return name


def _clean(folder: Place, cell: Cell) -> int:
    """Remove failures of episodes that have outcomes, and what dead processes have left; how many of the first."""
    remove_abandoned(folder)
    recorded = failures.recorded(folder, files_under(folder))
    if not recorded:
        return 0
    done = OutcomeStore(folder.parent).done(cell)
    void = [name for name, failure in recorded.items() if np.isin(failure.episodes, done.get(failure.run, ())).all()]
    for name in void:
        remove(folder / name)
    return len(void)
