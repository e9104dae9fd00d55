"""Which stored cells to run again (folder, key or method name), and how; without torch, so that typos are quick."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fewshot_bench._io.locations import Location, location_of
from fewshot_bench._io.storage import is_file, own_folder
from fewshot_bench.audit.stored_checks import check_description
from fewshot_bench.errors import AuditError, ReproductionError
from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.outcomes.manifest import MANIFEST, described_in
from fewshot_bench.report import cells_of_method

_KEY = re.compile(r"[0-9a-f]{4,16}")
"""A shorter start of a key may as well be a part of a method's name, such as "ce"."""


def cell_folders(result: Location, results: Location = Path("results")) -> list[Location]:
    """The folders of cells by a folder or a key.

    Args:
        result: a folder of results, of outcomes or of one cell; or the key of a cell, or the start of one.
        results: the folder of results that has the cell of a key.

    Raises:
        AuditError: there is none, or several keys begin so.
    """
    result = own_folder(result)
    if is_file(result / MANIFEST):
        return [result]
    if result.is_dir():
        outcomes = result / "outcomes" if (result / "outcomes").is_dir() else result
        if found := described_in(outcomes):
            return found
        raise AuditError(f"there are no outcomes in {outcomes}; give a folder of results, or of one cell.")
    matches = _cells_of_key(str(result), results)
    if len(matches) != 1:
        finding = "several cells begin like this" if matches else "it is not a folder, and no cell begins like this"
        raise AuditError(
            f"{result} is not one cell of {results / 'outcomes'}: {finding}. Give a folder, or more of a key."
        )
    return matches


def resolve_cells(result: str, results: Location = Path("results"), shots: Sequence[int] = ()) -> list[Location]:
    """The folders of cells by a folder, a key or a method.

    Args:
        result: a folder of results, of outcomes or of one cell; the key of a cell, or at least four digits of its
            start; a method's name, its label, or a part of the name that no other method has.
        results: the folder of results in which keys and methods are looked for.
        shots: only the cells of these numbers of shots; all by default.

    Raises:
        FewshotBenchError: there is no such cell, or several methods or keys fit.
    """
    folders = _matching(result, results)
    shot_of = {folder: described_cell(folder).protocol.shot for folder in folders} if shots else {}
    matching = [folder for folder in folders if not shots or shot_of[folder] in shots]
    if not matching:
        there = sorted(set(shot_of.values()))
        raise ReproductionError(
            f"{result} has outcomes of {' and '.join(f'{shot}-shot' for shot in there)} tasks, not of "
            f"{' or '.join(f'{shot}-shot' for shot in shots)} ones. Change --shots, or leave it out."
        )
    return matching


def described_cell(folder: Location) -> Cell:
    """The cell that a folder describes.

    Raises:
        ReproductionError: its description cannot be read, or is that of another cell.
    """
    cell, finding = check_description(folder)
    if cell is None or cell.key != folder.name:
        raise ReproductionError(f"{folder}: {finding.detail}. See: fewshot-bench audit {folder}")
    return cell


def _matching(result: str, results: Location) -> list[Location]:
    place = location_of(result)
    if place.exists():
        return [folder.absolute() for folder in cell_folders(place)]  # "." has no name
    if _KEY.fullmatch(result) and _cells_of_key(result, results):
        return cell_folders(Path(result), results)
    store = OutcomeStore(results / "outcomes")
    cells = store.cells()
    if not cells:
        finding = f"is not a folder, and there are no outcomes in {store.folder}"
        raise ReproductionError(f"{result} {finding}. Use --results.")
    same = cells_of_method(cells, result)
    return [store.folder / cell.key for of_protocol in same.values() for cell in of_protocol]


def _cells_of_key(start: str, results: Location) -> list[Location]:
    """The folders of the stored cells whose key begins so."""
    return [folder for folder in described_in(results / "outcomes") if folder.name.startswith(start)]


_SEED_BITS = 32


@dataclass(frozen=True, kw_only=True)
class RerunOptions:
    """How a stored method is run again, with what, and what its record may cause.

    Attributes:
        seed: chooses which of the stored episodes are run again, and perturbations; from the operating system by
            default, so that it cannot be known when a result is stored.
        device: a torch device, or "auto".
        dataset: where the images lie, if not under the dataset's name.
        weights: the file of weights that the study names.
        trusts_code: whether what the study names as `module:callable` may be imported.
        downloads: whether weights that the study names may be fetched from a model hub.
    """

    seed: int = field(default_factory=lambda: secrets.randbits(_SEED_BITS))
    device: str = "auto"
    dataset: Path | None = None
    weights: Path | None = None
    trusts_code: bool = False
    downloads: bool = False


@dataclass(frozen=True, kw_only=True)
class AuditOptions(RerunOptions):
    """How an audit runs methods again.

    Attributes:
        episodes: how many stored episodes of each cell to run again; 0 leaves the methods alone. With 100, a forger of
            3% of the episodes is found with 95%, see `Sample`.
        cells: how many cells the audit has, for which the level of its tests is divided.
    """

    episodes: int = 100
    cells: int = 1


@dataclass(frozen=True, kw_only=True)
class ReproductionOptions(RerunOptions):
    """How much is run again, and where the new outcomes go.

    Attributes:
        episodes: how many of the stored episodes of each cell, drawn at random; all of them by default.
        into: a folder of results that keeps the new outcomes, so that an interrupted reproduction can be resumed.
        arguments: of the command line that asks for it, to be recorded with these.
    """

    episodes: int | None = None
    into: Location | None = None
    arguments: tuple[str, ...] = ()
