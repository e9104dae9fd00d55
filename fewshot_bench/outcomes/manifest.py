"""The manifest of a cell, cell.json, on a disk or behind a URL, and what a run that continues the cell adds to it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fewshot_bench._io.locations import Location
from fewshot_bench._io.storage import checked_folder, folders_in, is_file, read_bytes, write_atomically
from fewshot_bench.errors import IrregularFileError, OutcomeError
from fewshot_bench.outcomes.cell import (
    LARGEST_DESCRIPTION,
    Cell,
    Description,
    NewerFormatError,
    description_as_json,
    read_description,
)

MANIFEST = "cell.json"
SET_ASIDE = "set_aside"
CONTINUED = "continued"
"""Under which the provenance lists where else a cell was continued."""
_ENVIRONMENT = ("git_commit", "hardware", "platform", "python", "engine")
_TRIES = 5  # of processes that describe a cell at the same time


def continued_text(stored: Description, new: Cell) -> str | None:
    """The text of a stored description with what a run that continues the cell adds to it.

    A value that was ignored because it is invalid stays where it is. If the run has a value of that name, the old one
    moves to `set_aside`.

    Args:
        stored: as it was read.
        new: the cell as the run describes it.

    Returns:
        None if it cannot be written as it was read, or would be larger than any description.
    """
    merged = continued(stored.cell, new).as_dict()
    set_aside = stored.content.get(SET_ASIDE)
    set_aside = dict(set_aside) if isinstance(set_aside, dict) else {}
    for path in stored.ignored:
        value: Any = stored.content
        for name in path:
            value = value[name]
        table = merged if len(path) == 1 else merged[path[0]]
        if table.get(path[-1]):
            set_aside.setdefault(".".join(path), value)
        else:
            table[path[-1]] = value
    try:
        text = description_as_json({**stored.content, **merged, **({SET_ASIDE: set_aside} if set_aside else {})})
        return text if len(text.encode()) <= LARGEST_DESCRIPTION else None
    except (ValueError, RecursionError):
        return None


def continued(stored: Cell, new: Cell) -> Cell:
    """A stored cell with what a run that continues it adds."""
    provenance = {**new.provenance, **stored.provenance}
    for several in ("commands", "stopping"):
        known = stored.provenance.get(several, [])
        more = [entry for entry in new.provenance.get(several, []) if entry not in known]
        if known or more:
            provenance[several] = [*known, *more]
    provenance.pop(CONTINUED, None)
    if environments := _other_environments(stored, new):
        provenance[CONTINUED] = environments
    if "peak_bytes" in stored.provenance:
        provenance["peak_bytes"] = max(stored.provenance["peak_bytes"], new.provenance.get("peak_bytes", 0))
    return replace(
        stored,
        versions=_joined_versions(stored.versions, new.versions),
        class_sizes=stored.class_sizes or new.class_sizes,
        class_names=stored.class_names or new.class_names,
        provenance=provenance,
    )


def environments_of(cell: Cell) -> list[dict[str, Any]]:
    """Where a cell was computed (commit, hardware, platform, Python, engine): first where it began."""
    first = {name: cell.provenance[name] for name in _ENVIRONMENT if name in cell.provenance}
    return [first, *cell.provenance.get(CONTINUED, [])]


def _other_environments(stored: Cell, new: Cell) -> list[dict[str, Any]]:
    """Where a cell was continued, other than where it began; what an environment did not record is not a difference."""
    first, *others = environments_of(stored)
    for environment in environments_of(new):
        is_first = all(environment[name] == first.get(name, environment[name]) for name in environment)
        if not is_first and environment not in others:
            others.append(environment)
    return others


def _joined_versions(old: dict[str, str], new: dict[str, str]) -> dict[str, str]:
    """All versions that contributed to a cell, oldest first."""
    merged = dict(old)
    for package, version in new.items():
        known = merged[package].split(" and ") if package in merged else []
        merged[package] = " and ".join(known if version in known else [*known, version])
    return merged


@dataclass(frozen=True)
class Manifest:
    """A stored manifest.

    Attributes:
        text: of the file.
        description: what it says.
    """

    text: str
    description: Description

    @property
    def cell(self) -> Cell:
        """The cell that it describes."""
        return self.description.cell


def read_text(location: Location) -> str:
    """The text of a cell.json; raises OSError if it cannot be read, OutcomeError if it is too large or not text."""
    try:
        return read_bytes(location, LARGEST_DESCRIPTION).decode()
    except UnicodeDecodeError as error:
        raise OutcomeError(f"it should be text in UTF-8: {error}") from error


def read_manifest(folder: Location) -> Manifest:
    """The manifest in the folder of a cell.

    Raises:
        FileNotFoundError: there is none.
        OutcomeError: it is damaged, describes another cell, or was written by a later release.
        OSError: it cannot be reached.
    """
    location = folder / MANIFEST
    try:
        text = read_text(checked_folder(folder) / MANIFEST if isinstance(folder, Path) else location)
        manifest = Manifest(text, read_description(text))
    except NotADirectoryError as error:
        raise IrregularFileError(folder, "no folder", "a folder") from error
    except IrregularFileError:
        raise
    except NewerFormatError as error:
        raise NewerFormatError(f"{location} {error}") from error
    except OutcomeError as error:
        raise OutcomeError(f"{location} is damaged ({error}). {_delete(folder)}") from error
    if manifest.cell.key != folder.name:
        raise OutcomeError(f"{location} describes another cell than its folder is named after. {_delete(folder)}")
    return manifest


def stored_manifest(folder: Location) -> Manifest | None:
    """The manifest in the folder of a cell, if there is one; raises OutcomeError if it cannot be read."""
    try:
        return read_manifest(folder)
    except FileNotFoundError:
        return None


def cell_folders(outcomes: Location) -> list[Location]:
    """The folders of cells in a folder of outcomes, by name, with or without a manifest."""
    return [outcomes / name for name in folders_in(outcomes) if not name.startswith(".")]


def described_in(outcomes: Location) -> list[Location]:
    """The folders of cells that have a manifest."""
    return [folder for folder in cell_folders(outcomes) if is_file(folder / MANIFEST)]


def not_described(folder: Location) -> str:
    """The sentence about a cell without a manifest."""
    return f"{folder / MANIFEST} is missing. Run that study again, or prune the cell."


def describe(folder: Location, cell: Cell) -> None:
    """Write the manifest of a cell, or add what a run that continues it brings to the stored one.

    Another process may do the same at that moment, so the file is read again after it was written. The method keeps the
    name under which it was stored first.

    Raises:
        OutcomeError: the stored manifest is damaged or of a later release, or no reader takes a value of the cell.
    """
    for _ in range(_TRIES):
        stored = stored_manifest(folder)
        text = cell.as_json() if stored is None else continued_text(stored.description, cell)
        if text is None or (stored is not None and text == stored.text):
            return
        if stored is None:
            _check_readable(folder / MANIFEST, text)
        write_atomically(folder / MANIFEST, text.encode())


def _check_readable(location: Location, text: str) -> None:
    """See that a reader takes all of a description, before it is written."""
    size = len(text.encode("utf-8", "surrogatepass"))
    try:
        if size > LARGEST_DESCRIPTION:
            raise OutcomeError(f"it should have at most {LARGEST_DESCRIPTION:,} bytes, not {size:,}")
        for finding in read_description(text).ignored.values():
            raise OutcomeError(finding)
    except OutcomeError as error:
        raise OutcomeError(f"{location} was not written, since no reader would take it: {error}.") from error


def _delete(folder: Location) -> str:
    return f"Delete the folder {folder} and run that study again."
