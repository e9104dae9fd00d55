"""The outcomes of several machines in one folder.

Everything is read and compared before the first file is written, so a contradiction leaves the target as it was; a
merge that is killed has copied some of the parts, and the same command copies the others.

Others may add to the folders or compact them meanwhile: what is copied is what a source holds then, and a part that was
not there before, in a source or in the target, is compared like the others before more is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from fewshot_bench.atomic import write_once
from fewshot_bench.errors import OutcomeError
from fewshot_bench.outcomes import failures
from fewshot_bench.outcomes.cell import Cell
from fewshot_bench.outcomes.columns import Identity
from fewshot_bench.outcomes.manifest import MANIFEST, cell_folders, not_described, read_manifest, stored_manifest
from fewshot_bench.outcomes.parts import again_where_moved, episodes_of, parts_in
from fewshot_bench.outcomes.store import OutcomeStore
from fewshot_bench.outcomes.stored_table import LARGEST_PART
from fewshot_bench.paths import Place
from fewshot_bench.stored_files import files_under, is_file, own_folder, read_bytes

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
    _compared: set[Place] = field(default_factory=set)
    _done_with: set[Place] = field(default_factory=set)

    def compare(self, target: Place) -> None:
        """See that the parts of all folders and of the target agree.

        Raises:
            OutcomeError: they do not, or something is damaged.
        """
        folders = [target / self.cell.key, *self.folders]
        for folder in folders:
            stored_manifest(folder)
        parts = [part for folder in folders for part in parts_in(folder)]
        if parts:
            episodes_of(sorted(parts, key=lambda part: part.name), Identity.of(self.cell))
        self._compared |= {part.place for part in parts}

    def copy_from(self, source: Place, store: OutcomeStore) -> None:
        """Copy the parts that one of the folders holds now; those that were copied before are passed over.

        Raises:
            FileNotFoundError: one of them is gone.
            OutcomeError: one that was added meanwhile, there or in the target, contradicts others, or is damaged.
        """
        target = store.cell_folder(self.cell)
        parts, identity = parts_in(source), Identity.of(self.cell)
        if not self._compared.issuperset(part.place for part in [*parts, *parts_in(target)]):
            self.compare(store.folder)
        done = store.done(self.cell)
        for part in parts:
            if part.place in self._done_with:
                continue
            content = read_bytes(part.place, LARGEST_PART)
            if all(np.isin(numbers, done.get(run, [])).all() for run, numbers in part.numbers(content, identity)):
                self.known += 1
            else:
                write_once(target / part.name, content)
                self._compared.add(target / part.name)
                self.copied += 1
            self._done_with.add(part.place)


def merge(sources: Sequence[Place], target: Place) -> list[MergedCell]:
    """Copy the cells of some folders of outcomes into another one; the sources are only read.

    Args:
        sources: folders of results or of outcomes.
        target: a folder of outcomes; made if needed.

    Returns:
        The cells of the sources, by key.

    Raises:
        OutcomeError: a source has no outcomes or is damaged, or cells contradict each other; nothing was copied then,
            unless they came to that while others were copied.
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
            f"{len(problems)} of {len(cells)} cells changed meanwhile and were not merged, or not wholly: "
            f"{_shown(problems)}"
        )
    return cells


def outcomes_of(results: Place) -> Place:
    """The folder of outcomes that a folder of results has, or the folder itself where it has none.

    Raises:
        OutcomeError: there are no outcomes in either.
    """
    results = own_folder(results)
    for folder in (results / "outcomes", results):
        if any(is_file(cell / MANIFEST) for cell in cell_folders(folder)):  # one is enough
            return folder
    raise OutcomeError(f"there are no outcomes in {results}. Name a folder of results that has some.")


def _gathered(sources: Sequence[Place], target: Place) -> tuple[list[MergedCell], list[str]]:
    """The cells of the sources with the folders that have them; and what is wrong with the others, a sentence each."""
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
    """What is wrong with a cell, if doing something with its parts does not succeed."""
    try:
        again_where_moved(use)
    except OutcomeError as error:
        return [str(error)]
    except FileNotFoundError as error:
        return [f"files of the cell {key} keep vanishing ({error.filename or error}). Merge again when that has ended."]
    return []


def _shown(problems: Sequence[str]) -> str:
    """The first of some sentences, and how many there are besides."""
    more = f" And {len(problems) - _SHOWN} more." if len(problems) > _SHOWN else ""
    return f"{' '.join(problems[:_SHOWN])}{more}"


def _copy(merged: MergedCell, store: OutcomeStore) -> None:
    for source in merged.folders:
        store.open_cell(read_manifest(source).cell)
        merged.copy_from(source, store)
        for failure in failures.recorded(source, files_under(source)).values():
            store.record_failure(merged.cell, failure.run, failure.episodes, failure.reason)
