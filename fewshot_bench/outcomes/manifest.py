"""The manifest of a cell, cell.json, on a disk or behind a URL."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewshot_bench.atomic import write_atomically
from fewshot_bench.errors import IrregularFileError, OutcomeError
from fewshot_bench.outcomes.cell import Cell
from fewshot_bench.outcomes.continued import continued_text
from fewshot_bench.outcomes.description import (
    NewerFormatError,
    check_description,
    description_content,
    description_text,
)
from fewshot_bench.paths import Place
from fewshot_bench.stored_files import checked_folder, folders_in, is_file

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
