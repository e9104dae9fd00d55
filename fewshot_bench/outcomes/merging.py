"""The outcomes of several machines in one folder.

Everything is read and compared before the first file is written, so a contradiction leaves the target as it was; a
merge that is killed has copied some of the parts, and the same command copies the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fewshot_bench.atomic import write_once
from fewshot_bench.errors import OutcomeError
from fewshot_bench.outcomes import failures
from fewshot_bench.outcomes.cell import Cell
from fewshot_bench.outcomes.columns import Identity
from fewshot_bench.outcomes.manifest import described_in, manifest_like, read_manifest
from fewshot_bench.outcomes.old_part import OldPart
from fewshot_bench.outcomes.part import new_part
from fewshot_bench.outcomes.parts import AnyPart, episodes_of, parts_in
from fewshot_bench.outcomes.store import OutcomeStore
from fewshot_bench.paths import Place
from fewshot_bench.stored_files import files_under, read_bytes

_SHOWN = 5


@dataclass
class MergedCell:
    """A cell that some sources have.

    Attributes:
        cell: as the first source describes it.
        folders: of the cell, in the sources.
        copied: parts with episodes that the target did not have.
        known: parts whose episodes it had.
    """

    cell: Cell
    folders: list[Place] = field(default_factory=list)
    copied: int = 0
    known: int = 0


def merge(sources: Sequence[Place], target: Place) -> list[MergedCell]:
    """Copy the cells of some folders of outcomes into another one; the sources are only read.

    Args:
        sources: folders of results or of outcomes.
        target: a folder of outcomes; made if needed.

    Returns:
        The cells of the sources, by key.

    Raises:
        OutcomeError: a source has no outcomes or is damaged, or cells contradict each other; nothing was copied then.
    """
    store = OutcomeStore(target)
    store.check_folder()
    cells = _gathered([outcomes_of(source) for source in sources], target)
    conflicts = [conflict for merged in cells for conflict in _conflicts(merged, target)]
    if conflicts:
        more = f" And {len(conflicts) - _SHOWN} more." if len(conflicts) > _SHOWN else ""
        raise OutcomeError(f"nothing was merged: {' '.join(conflicts[:_SHOWN])}{more}")
    for merged in cells:
        _copy(merged, store)
    return cells


def outcomes_of(results: Place) -> Place:
    """The folder of outcomes that a folder of results has, or the folder itself where it has none.

    Raises:
        OutcomeError: there are no outcomes in either.
    """
    for folder in (results / "outcomes", results):
        if described_in(folder):
            return folder
    raise OutcomeError(f"there are no outcomes in {results}. Name a folder of results that has some.")


def _gathered(sources: Sequence[Place], target: Place) -> list[MergedCell]:
    """The cells of the sources with the folders that have them."""
    cells: dict[str, MergedCell] = {}
    for source in sources:
        if source.resolve() == target.resolve():
            raise OutcomeError(f"{source} cannot be merged into itself. Name another folder.")
        for folder in described_in(source):
            cells.setdefault(folder.name, MergedCell(read_manifest(folder).cell)).folders.append(folder)
    return [cells[key] for key in sorted(cells)]


def _conflicts(merged: MergedCell, target: Place) -> list[str]:
    """What speaks against merging a cell, one sentence each."""
    folders = [target / merged.cell.key, *merged.folders]
    try:
        for folder in folders:
            manifest_like(folder, merged.cell)
        parts = [part for folder in folders for part in parts_in(folder)]
        if parts:
            episodes_of(sorted(parts, key=lambda part: part.name), Identity.of(merged.cell))
    except OutcomeError as error:
        return [str(error)]
    return []


def _copy(merged: MergedCell, store: OutcomeStore) -> None:
    folder, identity = store.cell_folder(merged.cell), Identity.of(merged.cell)
    for source in merged.folders:
        store.open_cell(read_manifest(source).cell)
        done = store.done(merged.cell)
        for part in parts_in(source):
            content = read_bytes(part.place)
            there = [np.isin(numbers, done.get(run, [])).all() for run, numbers in part.numbers(content, identity)]
            if all(there):
                merged.known += 1
                continue
            name, content = _present(part, content, identity)
            write_once(folder / name, content)
            merged.copied += 1
        for failure in failures.recorded(source, files_under(source)).values():
            store.record_failure(merged.cell, failure.run, failure.episodes, failure.reason)


def _present(part: AnyPart, content: bytes, identity: Identity) -> tuple[str, bytes]:
    """Name and content of a part in the present layout."""
    if isinstance(part, OldPart):
        return new_part(episodes_of([part], identity), identity, part.stretch[0])
    return part.name, content
