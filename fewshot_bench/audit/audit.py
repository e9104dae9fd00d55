"""The audit of stored results: every check of every cell, from what is stored and what is here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from fewshot_bench.audit.description import check_description
from fewshot_bench.audit.finding import CellAudit, Finding, not_checked
from fewshot_bench.audit.images import CHECK as IMAGES
from fewshot_bench.audit.images import check_images, images_here
from fewshot_bench.audit.method import CHECKS as METHOD_CHECKS
from fewshot_bench.audit.method import AuditOptions, run_again
from fewshot_bench.audit.pretraining import CHECK as PRETRAINING
from fewshot_bench.audit.pretraining import check_pretraining
from fewshot_bench.audit.stored import COUNTS, check_counts, read_parts
from fewshot_bench.audit.summary import Audit, pooled_findings
from fewshot_bench.audit.tasks import DIGEST, SIZES, TASKS, check_digest, check_tasks, class_sizes, draw_again
from fewshot_bench.episodes import Episodes
from fewshot_bench.errors import FewshotBenchError
from fewshot_bench.outcomes import Cell
from fewshot_bench.paths import Place
from fewshot_bench.progress import SILENT, Progress


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
