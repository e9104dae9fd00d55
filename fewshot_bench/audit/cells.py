"""From what somebody types to the folders of the stored cells that are meant."""

from __future__ import annotations

from pathlib import Path

from fewshot_bench.errors import AuditError
from fewshot_bench.outcomes.manifest import MANIFEST, described_in
from fewshot_bench.paths import Place
from fewshot_bench.stored_files import is_file, own_folder


def cell_folders(result: Place, results: Place = Path("results")) -> list[Place]:
    """The folders of the cells that somebody means.

    Args:
        result: a folder of results, of outcomes or of one cell; or the key of a cell, or the start of one.
        results: the folder of results that has the cell of a key.

    Raises:
        AuditError: there is none, or several begin like the key.
    """
    result = own_folder(result)
    if is_file(result / MANIFEST):
        return [result]
    if result.is_dir():
        outcomes = result / "outcomes" if (result / "outcomes").is_dir() else result
        found = described_in(outcomes)
        if found:
            return found
        raise AuditError(f"there are no outcomes in {outcomes}; give a folder of results, or of one cell.")
    matches = cells_of_key(str(result), results)
    if len(matches) != 1:
        finding = "several cells begin like this" if matches else "it is no folder, and no cell begins like this"
        raise AuditError(
            f"{result} is not one cell of {results / 'outcomes'}: {finding}. Give a folder, or more of a key."
        )
    return matches


def cells_of_key(start: str, results: Place) -> list[Place]:
    """The folders of the stored cells whose key begins so.

    Args:
        start: of a key.
        results: a folder of results.
    """
    return [folder for folder in described_in(results / "outcomes") if folder.name.startswith(start)]
