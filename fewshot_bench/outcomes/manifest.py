"""The manifest of a cell, cell.json, on a disk or behind a URL.

The description of a cell that goes on: what was recorded, and what a later run adds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fewshot_bench._io.locations import Place
from fewshot_bench._io.storage import checked_folder, folders_in, is_file, write_atomically
from fewshot_bench.errors import IrregularFileError, OutcomeError
from fewshot_bench.outcomes.cell import Cell
from fewshot_bench.outcomes.cell_schema import (
    LARGEST_FILE,
    RECORDED,
    NewerFormatError,
    check_description,
    description_as_json,
    description_content,
    description_text,
)

SET_ASIDE = "set_aside"
ELSEWHERE = "continued"
"""Under which the provenance lists where else a cell went on."""
_WHERE = ("git_commit", "hardware", "platform", "python", "engine")


def continued_text(content: Mapping[str, Any], stored: Cell, new: Cell) -> str | None:
    """The text of a stored description with what a run that goes on adds to it.

    What could not be read, because it is of another kind than it should be, stays where it is; where the run brings a
    value of that name, the old one goes to `set_aside`.

    Args:
        content: of the stored file.
        stored: the cell that was made of it.
        new: the cell as the run describes it.

    Returns:
        None where it cannot be written as it was read, or would become larger than any description.
    """
    merged = continued(stored, new).as_dict()
    aside = content.get(SET_ASIDE)
    set_aside: dict[str, Any] = dict(aside) if isinstance(aside, dict) else {}
    for path, value in _unread(content, stored):
        inner = merged
        for name in path[:-1]:
            inner = inner[name]
        if inner.get(path[-1]):
            set_aside.setdefault(".".join(path), value)
        else:
            inner[path[-1]] = value
    try:
        text = description_as_json({**content, **merged, **({SET_ASIDE: set_aside} if set_aside else {})})
        is_small = len(text.encode()) <= LARGEST_FILE
    except (ValueError, RecursionError):
        return None
    return text if is_small else None


def _unread(content: Mapping[str, Any], stored: Cell) -> Iterator[tuple[tuple[str, ...], Any]]:
    """What a description says beside the method and the protocol that counts as not recorded: where, and the value."""
    for name, kind in RECORDED.items():
        found, read = content.get(name), getattr(stored, name)
        if name in content and not kind.holds(found):
            yield (name,), found
        elif isinstance(found, dict):
            yield from (((name, key), value) for key, value in found.items() if key not in read)


def continued(stored: Cell, new: Cell) -> Cell:
    """A stored description with what a run that goes on adds to it."""
    provenance = {**new.provenance, **stored.provenance}
    for several in ("commands", "stopping"):
        known = stored.provenance.get(several, [])
        more = [entry for entry in new.provenance.get(several, []) if entry not in known]
        if known or more:
            provenance[several] = [*known, *more]
    provenance.pop(ELSEWHERE, None)
    if elsewhere := _elsewhere(stored, new):
        provenance[ELSEWHERE] = elsewhere
    if "peak_bytes" in stored.provenance:
        provenance["peak_bytes"] = max(stored.provenance["peak_bytes"], new.provenance.get("peak_bytes", 0))
    return replace(
        stored,
        versions=_both(stored.versions, new.versions),
        class_sizes=stored.class_sizes or new.class_sizes,
        class_names=stored.class_names or new.class_names,
        provenance=provenance,
    )


def places_of(cell: Cell) -> list[dict[str, Any]]:
    """Where a cell was made (commit, hardware, platform, Python, engine): where it began, then where it went on."""
    first = {name: cell.provenance[name] for name in _WHERE if name in cell.provenance}
    return [first, *cell.provenance.get(ELSEWHERE, [])]


def _elsewhere(stored: Cell, new: Cell) -> list[dict[str, Any]]:
    """Where a cell went on, but for where it began; what that place did not record is no difference."""
    first, *others = places_of(stored)
    for place in places_of(new):
        is_first = all(place[name] == first.get(name, place[name]) for name in place)
        if not is_first and place not in others:
            others.append(place)
    return others


def _both(old: dict[str, str], new: dict[str, str]) -> dict[str, str]:
    """Versions that contributed to a cell, in the order in which they came."""
    merged = dict(old)
    for package, version in new.items():
        known = merged[package].split(" and ") if package in merged else []
        merged[package] = " and ".join(known if version in known else [*known, version])
    return merged


MANIFEST = "cell.json"
_TRIES = 5  # of processes that describe a cell at the same time


@dataclass(frozen=True)
class Manifest:
    """A manifest as it is stored.

    Attributes:
        cell: that it describes.
        text: of the file.
    """

    cell: Cell
    text: str

    @property
    def content(self) -> dict[str, Any]:
        """What the file says, values of a wrong kind included."""
        return description_content(self.text)


def read_manifest(folder: Place) -> Manifest:
    """The manifest in the folder of a cell.

    Raises:
        FileNotFoundError: there is none.
        OutcomeError: it is damaged, describes another cell, or was written by a later release.
        OSError: it cannot be reached; that is no reason to delete anything.
    """
    place = folder / MANIFEST
    try:
        text = description_text(checked_folder(folder) / MANIFEST if isinstance(folder, Path) else place)
        cell = Cell.from_json(text)
    except NotADirectoryError as error:
        raise IrregularFileError(folder, "no folder", "a folder") from error
    except IrregularFileError:
        raise
    except NewerFormatError as error:
        raise NewerFormatError(f"{place} {error}") from error
    except OutcomeError as error:
        raise OutcomeError(f"{place} is damaged ({error}). {_delete(folder)}") from error
    if cell.key != folder.name:
        raise OutcomeError(f"{place} describes another cell than its folder is named after. {_delete(folder)}")
    return Manifest(cell, text)


def cell_folders(outcomes: Place) -> list[Place]:
    """The folders of cells in a folder of outcomes, by name, whether they have a manifest or not."""
    return [outcomes / name for name in folders_in(outcomes) if not name.startswith(".")]


def described_in(outcomes: Place) -> list[Place]:
    """Those of them that have a manifest."""
    return [folder for folder in cell_folders(outcomes) if is_file(folder / MANIFEST)]


def not_described(folder: Place) -> str:
    """What to say of a cell that has no manifest."""
    return f"{folder / MANIFEST} is not there. Run that study again, or prune the cell."


def stored_manifest(folder: Place) -> Manifest | None:
    """The manifest in the folder of a cell, if there is one.

    Its method may have another name than the one that asks for it: that is no part of what the method is.

    Raises:
        OutcomeError: it cannot be read.
    """
    try:
        return read_manifest(folder)
    except FileNotFoundError:
        return None


def describe(folder: Place, cell: Cell) -> None:
    """Write the manifest of a cell, or add to the stored one what a run that goes on brings.

    Another process may do the same at that moment, so the file is looked at again after it was written. The method
    keeps the name under which it was stored first.

    Raises:
        OutcomeError: the stored manifest is damaged or of a later release, or a value of the cell is one that no
            reader takes.
    """
    for _ in range(_TRIES):
        stored = stored_manifest(folder)
        text = cell.as_json() if stored is None else continued_text(stored.content, stored.cell, cell)
        if text is None or (stored is not None and text == stored.text):
            return
        if stored is None:
            try:
                check_description(text)
            except OutcomeError as error:
                raise OutcomeError(f"{folder / MANIFEST} was not written, as nobody could read it: {error}.") from error
        write_atomically(folder / MANIFEST, text.encode())


def _delete(folder: Place) -> str:
    return f"Delete the folder {folder} and run that study again."
