"""Maintenance of stored outcomes: compact the parts of a cell, merge folders of several machines, prune a cell.

Compaction writes the new part and reads it back before it removes an old one, so a kill at any moment leaves every
episode in at least one part. Several compactions of one cell may run at once: a part is removed only if one is kept
that holds more, which is a further episode, or a shorter time of one; of equal parts the first by name is kept. Parts
that another process adds meanwhile are left alone.

A merge reads and compares everything before it writes a file, so a contradiction leaves the target unchanged. After a
kill the same command copies the rest. If others add to the folders meanwhile, new parts are compared as well.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd

from fewshot_bench._io.locations import Location
from fewshot_bench._io.storage import (
    files_under,
    folders_in,
    is_file,
    own_folder,
    read_bytes,
    remove,
    remove_abandoned,
    size_of,
    write_once,
)
from fewshot_bench.errors import OutcomeError, ShapeError, UnknownNameError
from fewshot_bench.outcomes import failures
from fewshot_bench.outcomes.cell import Cell
from fewshot_bench.outcomes.manifest import (
    MANIFEST,
    cell_folders,
    describe,
    not_described,
    read_manifest,
    stored_manifest,
)
from fewshot_bench.outcomes.part import Identity, Part, new_part
from fewshot_bench.outcomes.store import OutcomeStore, episodes_of, parts_in, retry_if_moved, with_parts
from fewshot_bench.outcomes.stored_table import LARGEST_PART

_SHOWN = 5  # problems in one sentence
_KEY = re.compile(r"[0-9a-f]{4,16}")


@dataclass(frozen=True)
class Compacted:
    """The result of compacting a cell.

    Attributes:
        cell: that was compacted.
        parts: their number before.
        bytes_before: of these.
        bytes_after: of the part that is left.
        void: removed records of failures, whose episodes have outcomes now.
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


def compact_store(outcomes: Location) -> list[Compacted | Damaged]:
    """Compact every cell of a folder of outcomes, by key; a damaged cell does not stop the others.

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


def compact(folder: Location) -> Compacted:
    """Put all parts of a cell into one, and remove void records; a compact cell is not changed.

    Args:
        folder: of the cell.

    Raises:
        FileNotFoundError: it has no description.
        OutcomeError: a part or the description is damaged, or two parts disagree; nothing was removed.
    """
    cell = read_manifest(folder).cell
    parts, before, after = with_parts(folder, lambda found: _into_one(folder, cell, found))
    return Compacted(cell, parts, before, after, _clean(folder, cell))


def _into_one(folder: Location, cell: Cell, parts: Sequence[Part]) -> tuple[int, int, int]:
    """The number of parts before, their bytes, and the bytes of the part that is left."""
    before = sum(size_of(part.location) for part in parts)
    if len(parts) < 2:
        return len(parts), before, before
    identity = Identity.of(cell)
    frame = episodes_of(parts, identity)
    name = _holder(parts, frame, identity) or _written(folder, cell, frame)
    after = size_of(folder / name)
    for part in parts:
        if part.name != name:
            remove(part.location)
    return len(parts), before, after


def _holder(parts: Sequence[Part], frame: pd.DataFrame, identity: Identity) -> str | None:
    """The first part of all runs that holds everything already, by name; None if none does."""
    candidates = [part for part in parts if part.episode_range is None]
    return next((part.name for part in candidates if episodes_of([part], identity).equals(frame)), None)


def _written(folder: Location, cell: Cell, frame: pd.DataFrame) -> str:
    """The name of a new part with all episodes, which has been read back."""
    identity = Identity.of(cell)
    try:
        name, content = new_part(frame, identity, None)
    except ShapeError as error:  # in an old part
        raise OutcomeError(f"stored outcomes in {folder} are damaged: {error}") from error
    except OutcomeError as error:
        raise OutcomeError(f"{folder} cannot be compacted and was not changed: {error}.") from error
    describe(folder, cell)  # so that an older release does not read what is left without the new part
    write_once(folder / name, content)
    written = Part.named(folder, name)
    if written is None or not episodes_of([written], identity).equals(frame):
        raise OutcomeError(f"{folder / name} is not read back as it was written. Check the disk; nothing was removed.")
    return name


def _clean(folder: Location, cell: Cell) -> int:
    """Remove unfinished files of dead processes, and void records of failures, whose number is returned."""
    remove_abandoned(folder)
    recorded = failures.recorded(folder, files_under(folder))
    if not recorded:
        return 0
    done = OutcomeStore(folder.parent).done(cell)
    void = [name for name, failure in recorded.items() if np.isin(failure.episodes, done.get(failure.run, ())).all()]
    for name in void:
        remove(folder / name)
    return len(void)


@dataclass
class MergedCell:
    """A cell of some sources.

    Attributes:
        cell: as the first source describes it.
        folders: of the cell, in the sources.
        copied: number of parts with episodes that the target did not have.
        known: number of parts whose episodes it had.
    """

    cell: Cell
    folders: list[Location] = field(default_factory=list)
    copied: int = 0
    known: int = 0
    _compared: set[Location] = field(default_factory=set)
    _handled: set[Location] = field(default_factory=set)

    def compare(self, target: Location) -> None:
        """See that the parts of all folders and of the target agree; raises OutcomeError if not, or if damaged."""
        folders = [target / self.cell.key, *self.folders]
        for folder in folders:
            stored_manifest(folder)
        parts = [part for folder in folders for part in parts_in(folder)]
        if parts:
            episodes_of(sorted(parts, key=lambda part: part.name), Identity.of(self.cell))
        self._compared |= {part.location for part in parts}

    def copy_from(self, source: Location, store: OutcomeStore) -> None:
        """Copy the parts of a folder that were not copied before.

        Raises:
            FileNotFoundError: one of them is gone.
            OutcomeError: a part that was added meanwhile contradicts others, or is damaged.
        """
        target = store.cell_folder(self.cell)
        parts, identity = parts_in(source), Identity.of(self.cell)
        if not self._compared.issuperset(part.location for part in [*parts, *parts_in(target)]):
            self.compare(store.folder)
        done = store.done(self.cell)
        for part in parts:
            if part.location in self._handled:
                continue
            content = read_bytes(part.location, LARGEST_PART)
            if all(
                np.isin(numbers, done.get(run, [])).all() for run, numbers in part.numbers(content, identity).items()
            ):
                self.known += 1
            else:
                write_once(target / part.name, content)
                self._compared.add(target / part.name)
                self.copied += 1
            self._handled.add(part.location)


def merge(sources: Sequence[Location], target: Location) -> list[MergedCell]:
    """Copy the cells of some folders of outcomes into another one; the sources are only read.

    Args:
        sources: folders of results or of outcomes.
        target: a folder of outcomes; made if needed.

    Returns:
        The cells of the sources, by key.

    Raises:
        OutcomeError: a source has no outcomes or is damaged, or cells contradict each other. Nothing was copied,
            unless that happened while others were copied.
    """
    store = OutcomeStore(target)
    store.check_folder()
    cells, problems = _gathered([outcomes_of(source) for source in sources], target)
    for merged in cells:
        problems += _problem(partial(merged.compare, target), merged.cell.key)
    if problems:
        raise OutcomeError(f"nothing was merged: {_shown(problems)}")
    for merged in cells:
        problems += _problem(partial(_copy, merged, store), merged.cell.key)
    if problems:
        raise OutcomeError(
            f"{len(problems)} of {len(cells)} cells changed meanwhile and were not merged completely: "
            f"{_shown(problems)}"
        )
    return cells


def outcomes_of(results: Location) -> Location:
    """The folder of outcomes in a folder of results, or itself; raises OutcomeError if neither has outcomes."""
    results = own_folder(results)
    for folder in (results / "outcomes", results):
        if any(is_file(cell / MANIFEST) for cell in cell_folders(folder)):  # one is enough
            return folder
    raise OutcomeError(f"there are no outcomes in {results}. Name a folder of results that has some.")


def _gathered(sources: Sequence[Location], target: Location) -> tuple[list[MergedCell], list[str]]:
    """The cells of the sources with their folders; and one sentence about each that cannot be read."""
    cells: dict[str, MergedCell] = {}
    problems = []
    for source in sources:
        if source.resolve() == target.resolve():
            raise OutcomeError(f"{source} cannot be merged into itself. Name another folder.")
        for folder in cell_folders(source):
            try:
                cells.setdefault(folder.name, MergedCell(read_manifest(folder).cell)).folders.append(folder)
            except FileNotFoundError:
                problems += [not_described(folder)] if parts_in(folder) else []
            except OutcomeError as error:
                problems.append(str(error))
    return [cells[key] for key in sorted(cells)], problems


def _problem(use: Callable[[], None], key: str) -> list[str]:
    """Use the parts of a cell; one sentence if that does not succeed."""
    try:
        retry_if_moved(use)
    except OutcomeError as error:
        return [str(error)]
    except FileNotFoundError as error:
        return [f"files of the cell {key} keep vanishing ({error.filename or error}). Merge again when that has ended."]
    return []


def _shown(problems: Sequence[str]) -> str:
    more = f" And {len(problems) - _SHOWN} more." if len(problems) > _SHOWN else ""
    return f"{' '.join(problems[:_SHOWN])}{more}"


def _copy(merged: MergedCell, store: OutcomeStore) -> None:
    for source in merged.folders:
        store.open_cell(read_manifest(source).cell)
        merged.copy_from(source, store)
        for failure in failures.recorded(source, files_under(source)).values():
            store.record_failure(merged.cell, failure.run, failure.episodes, failure.reason)


def cell_named(folder: Location, name: str) -> tuple[Location, Cell | None]:
    """The one cell with a name.

    Args:
        folder: of outcomes.
        name: the key of a cell or at least its first four digits, or a method's name or label.

    Returns:
        The folder of the cell; and its description, None if that cannot be read.

    Raises:
        UnknownNameError: there is no such cell.
        OutcomeError: there are several.
    """
    cells = {key: _described(folder / key) for key in folders_in(folder) if not key.startswith(".")}
    names = {key: () if cell is None else (cell.method.name, cell.method.label) for key, cell in cells.items()}
    by_key = [key for key in cells if _KEY.fullmatch(name) and key.startswith(name)]
    found = by_key or [key for key in cells if name in names[key]]
    if not found:
        known = {*cells, *chain(*names.values())}
        raise UnknownNameError("cell", name, known, "Give a method's name, or the start of a cell's key.")
    if len(found) > 1:
        several = ", ".join(f"{key} ({_about(cells[key])})" for key in found[:9])
        raise OutcomeError(f"'{name}' means {len(found)} cells: {several}. Give the key of one of them.")
    return folder / found[0], cells[found[0]]


def prune(folder: Location) -> int:
    """Remove everything that is stored of a cell.

    The description goes first: after a kill the rest is not a cell any more, and the same command removes it.

    Args:
        folder: of the cell.

    Returns:
        The number of its files.
    """
    names = sorted(files_under(folder), key=lambda name: name != MANIFEST)
    for name in names:
        remove(folder / name)
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)  # empty folders
    return len(names)


def _described(folder: Location) -> Cell | None:
    try:
        return read_manifest(folder).cell
    except (OSError, OutcomeError):
        return None


def _about(cell: Cell | None) -> str:
    return "its description cannot be read" if cell is None else f"{cell.method.marked_name}, {cell.protocol.task}"
