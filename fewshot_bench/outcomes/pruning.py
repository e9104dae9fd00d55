"""Remove a cell for good."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from fewshot_bench.errors import OutcomeError, UnknownNameError
from fewshot_bench.outcomes.cell import Cell
from fewshot_bench.outcomes.manifest import MANIFEST, read_manifest
from fewshot_bench.paths import Place
from fewshot_bench.stored_files import files_under, folders_in, remove

_KEY = re.compile(r"[0-9a-f]{4,16}")


def cell_named(folder: Place, name: str) -> tuple[Place, Cell | None]:
    """The one cell that somebody means.

    Args:
        folder: of outcomes.
        name: the key of a cell or at least four digits of its start, or a method's name or label.

    Returns:
        The folder of the cell; and its description, None where that cannot be read.

    Raises:
        UnknownNameError: there is no such cell.
        OutcomeError: there are several.
    """
    cells = {key: _described(folder / key) for key in folders_in(folder) if not key.startswith(".")}
    names = {key: () if cell is None else (cell.method.name, cell.method.label) for key, cell in cells.items()}
    by_key = [key for key in cells if _KEY.fullmatch(name) and key.startswith(name)]
    found = by_key or [key for key in cells if name in names[key]]
    if not found:
        known = {*cells, *(one for some in names.values() for one in some)}
        raise UnknownNameError("cell", name, known, "Give a method's name, or the start of a cell's key.")
    if len(found) > 1:
        several = ", ".join(f"{key} ({_about(cells[key])})" for key in found[:9])
        raise OutcomeError(f"'{name}' means {len(found)} cells: {several}. Give the key of one of them.")
    return folder / found[0], cells[found[0]]


def prune(folder: Place) -> int:
    """Remove everything that is stored of a cell.

    The description goes first: what a kill may leave is no cell any more, and the same command removes the rest.

    Args:
        folder: of the cell.

    Returns:
        How many files there were.
    """
    names = sorted(files_under(folder), key=lambda name: name != MANIFEST)
    for name in names:
        remove(folder / name)
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)  # empty folders
    return len(names)


def _described(folder: Place) -> Cell | None:
    try:
        return read_manifest(folder).cell
    except (OSError, OutcomeError):
        return None


def _about(cell: Cell | None) -> str:
    return "its description cannot be read" if cell is None else f"{cell.method.marked_name}, {cell.protocol.task}"
