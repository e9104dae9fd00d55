"""The audit of stored results: every check of every cell, from what is stored and what is here.

From what somebody types to the folders of the stored cells that are meant.

From what somebody types to the stored cells that should be run again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from fewshot_bench._io.locations import Place, place_of
from fewshot_bench._io.storage import is_file, own_folder
from fewshot_bench.audit.finding import Audit, CellAudit, Finding, not_checked, pooled_findings
from fewshot_bench.audit.images import CHECK as IMAGES
from fewshot_bench.audit.images import CHECK_PRETRAINING as PRETRAINING
from fewshot_bench.audit.images import check_images, check_pretraining, images_here
from fewshot_bench.audit.method_checks import CHECKS as METHOD_CHECKS
from fewshot_bench.audit.method_checks import AuditOptions, run_again
from fewshot_bench.audit.stored_checks import (
    COUNTS,
    DIGEST,
    SIZES,
    TASKS,
    check_counts,
    check_description,
    check_digest,
    check_tasks,
    class_sizes,
    draw_again,
    read_parts,
)
from fewshot_bench.episodes import Episodes
from fewshot_bench.errors import AuditError, FewshotBenchError, ReproductionError
from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.outcomes.manifest import MANIFEST, described_in
from fewshot_bench.progress import SILENT, Progress
from fewshot_bench.report import cells_of_method


def audit_cells(folders: Sequence[Place], options: AuditOptions | None = None, *, progress: Progress = SILENT) -> Audit:
    """Check several cells, each alone and what differs in all of them together.

    Args:
        folders: of the cells.
        options: see `audit_cell`.
        progress: see `audit_cell`.
    """
    options = replace(options or AuditOptions(), cells=max(1, len(folders)))
    cells = tuple(audit_cell(folder, options, progress=progress) for folder in folders)
    return Audit(options.seed, cells, pooled_findings(cells))


def audit_cell(folder: Place, options: AuditOptions | None = None, *, progress: Progress = SILENT) -> CellAudit:
    """Check one cell.

    Nothing that its files name is executed, unless the options trust code.

    Args:
        folder: of the cell.
        options: what the auditor brings along.
        progress: shown the training and embedding of methods that are run again.
    """
    options, folder = options or AuditOptions(), folder.absolute()  # "." has no name
    cell, described = check_description(folder)
    if cell is None:
        return CellAudit(folder.name, "", "", (described,))
    frame, parts = read_parts(cell, folder)
    if cell.protocol.is_claimed:
        findings = [described, parts, *_claimed()]
        return CellAudit(folder.name, *_about(cell), tuple(findings), is_transductive=cell.method.is_transductive)
    here = images_here(cell, options, folder)
    known, sizes = class_sizes(cell, here)
    groups, tasks = _tasks(cell, frame, known.sizes, known.source)
    if groups is not None:
        tasks = check_tasks(groups, known)
    findings = [described, parts]
    if frame is not None:
        findings.append(check_counts(cell, frame, groups))
    findings += [sizes, tasks, check_digest(cell, known), check_images(cell, here)]
    again = run_again(cell, frame, here, known.sizes, options, progress)
    findings += [*again.findings, check_pretraining(cell)]
    is_transductive = cell.method.is_transductive
    return CellAudit(folder.name, *_about(cell), tuple(findings), again.sample, again.turned, is_transductive)


def _about(cell: Cell) -> tuple[str, str]:
    return cell.protocol.task, cell.method.name


def _claimed() -> list[Finding]:
    """What cannot be checked of accuracies that were imported."""
    reason = "the accuracies were imported; a file claims which episodes they are of, and nothing verifies it"
    return not_checked((COUNTS, SIZES, TASKS, DIGEST, IMAGES, *METHOD_CHECKS, PRETRAINING), reason)


def _tasks(
    cell: Cell, frame: pd.DataFrame | None, sizes: Sequence[int] | None, source: str
) -> tuple[list[Episodes] | None, Finding]:
    """The tasks of all stored episodes; without them, the reason as a finding."""
    if frame is None:
        return None, Finding(TASKS, "not checked", "nobody can say which episodes are stored")
    if sizes is None:
        return None, Finding(TASKS, "not checked", source)
    try:
        return draw_again(cell.protocol, sizes, frame), Finding(TASKS, "not checked", "")
    except FewshotBenchError as error:
        return None, Finding(TASKS, "fail", str(error))


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
