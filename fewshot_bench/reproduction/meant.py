"""From what somebody types to the stored cells that should be run again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from fewshot_bench.audit.cells import cell_folders, cells_of_key
from fewshot_bench.audit.description import check_description
from fewshot_bench.errors import ReproductionError
from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.paths import Place, place_of
from fewshot_bench.report import cells_of_method

_KEY = re.compile(r"[0-9a-f]{4,16}")
"""A shorter start of a key may as well be a part of a method's name, such as "ce"."""


def cells_meant(result: str, results: Place = Path("results"), shots: Sequence[int] = ()) -> list[Place]:
    """The folders of the cells that should be run again.

    Args:
        result: a folder of results, of outcomes or of one cell; the key of a cell, or at least four digits of its
            start; a method's name, its label, or a part of the name that no other method has.
        results: the folder of results in which keys and methods are looked for.
        shots: only the cells of these numbers of shots; of all where there is none.

    Raises:
        FewshotBenchError: there is no such cell, or several methods or keys fit.
    """
    folders = _fitting(result, results)
    fitting = [folder for folder in folders if not shots or described(folder).protocol.shot in shots]
    if not fitting:
        there = sorted({described(folder).protocol.shot for folder in folders})
        raise ReproductionError(
            f"{result} has outcomes of {' and '.join(f'{shot}-shot' for shot in there)} tasks, not of "
            f"{' or '.join(f'{shot}-shot' for shot in shots)} ones. Change --shots, or leave it out."
        )
    return fitting


def described(folder: Place) -> Cell:
    """The cell that a folder says it holds.

    Raises:
        ReproductionError: its description cannot be read, or is that of another cell.
    """
    cell, finding = check_description(folder)
    if cell is None or cell.key != folder.name:
        raise ReproductionError(f"{folder}: {finding.detail}. See: fewshot-bench audit {folder}")
    return cell


def _fitting(result: str, results: Place) -> list[Place]:
    place = place_of(result)
    if place.exists():
        return [folder.absolute() for folder in cell_folders(place)]  # "." has no name
    if _KEY.fullmatch(result) and cells_of_key(result, results):
        return cell_folders(Path(result), results)
    store = OutcomeStore(results / "outcomes")
    cells = store.cells()
    if not cells:
        raise ReproductionError(f"{result} is no folder, and there are no outcomes in {store.folder}. Use --results.")
    same = cells_of_method(cells, result)
    return [store.folder / cell.key for of_protocol in same.values() for cell in of_protocol]
