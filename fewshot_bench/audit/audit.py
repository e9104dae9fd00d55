"""The audit of stored results: every check of every cell, from what is stored and what is on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec

import pandas as pd

from fewshot_bench._io.locations import Location
from fewshot_bench.audit.finding import (
    METHOD_CHECKS,
    Audit,
    CellAudit,
    Finding,
    MethodChecks,
    not_checked,
    pooled_findings,
    unchecked_method,
)
from fewshot_bench.audit.images import IMAGES, PRETRAINING, LocalImages, check_images, check_pretraining, find_images
from fewshot_bench.audit.selection import AuditOptions
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
    read_parts,
    redrawn_tasks,
)
from fewshot_bench.errors import FewshotBenchError
from fewshot_bench.outcomes import Cell
from fewshot_bench.progress import SILENT, Progress

_UNVERIFIED = "the accuracies were imported; a file claims which episodes they are of, and nothing verifies it"


def audit_cells(
    folders: Sequence[Location], options: AuditOptions | None = None, *, progress: Progress = SILENT
) -> Audit:
    """Check several cells, each alone and what differs in all of them together; see `audit_cell`."""
    options = replace(options or AuditOptions(), cells=max(1, len(folders)))
    cells = tuple(audit_cell(folder, options, progress=progress) for folder in folders)
    return Audit(options.seed, cells, pooled_findings(cells))


def audit_cell(folder: Location, options: AuditOptions | None = None, *, progress: Progress = SILENT) -> CellAudit:
    """Check one cell.

    Nothing that its files name is executed, unless the options trust code.

    Args:
        folder: of the cell.
        options: how the method is run again, and with what.
        progress: shown the training and embedding of methods that are run again.
    """
    options, folder = options or AuditOptions(), folder.absolute()  # "." has no name
    cell, described = check_description(folder)
    if cell is None:
        return CellAudit(folder.name, "", "", (described,))
    frame, parts = read_parts(cell, folder)
    audit = CellAudit(
        folder.name, cell.protocol.task, cell.method.name, (), is_transductive=cell.method.is_transductive
    )
    if cell.protocol.is_claimed:
        unverified = not_checked((COUNTS, SIZES, TASKS, DIGEST, IMAGES, *METHOD_CHECKS, PRETRAINING), _UNVERIFIED)
        return replace(audit, findings=(described, parts, *unverified))
    images = find_images(cell, folder, options.dataset)
    known, sizes = class_sizes(cell, images)
    episodes = None
    if frame is None:
        tasks = Finding(TASKS, "not checked", "it is not known which episodes are stored")
    elif known.sizes is None:
        tasks = Finding(TASKS, "not checked", known.source)
    else:
        try:
            episodes = redrawn_tasks(cell.protocol, known.sizes, frame)
            tasks = check_tasks(episodes, known)
        except FewshotBenchError as error:
            tasks = Finding(TASKS, "fail", str(error))
    counts = [] if frame is None else [check_counts(cell, frame, episodes)]
    checked = _check_method(cell, frame, images, known.sizes, options, progress)
    findings = (
        described,
        parts,
        *counts,
        sizes,
        tasks,
        check_digest(cell, known),
        check_images(cell, images),
        *checked.findings,
        check_pretraining(cell),
    )
    return replace(audit, findings=findings, sample=checked.sample, changes=checked.changes)


def _check_method(
    cell: Cell,
    frame: pd.DataFrame | None,
    images: LocalImages,
    sizes: Sequence[int] | None,
    options: AuditOptions,
    progress: Progress,
) -> MethodChecks:
    """The checks that run the method again; or why it cannot be made here."""
    if frame is None or sizes is None:
        return unchecked_method("it is not known which tasks are stored")
    if options.episodes < 1:
        return unchecked_method("no episode should be run again; --episodes says how many")
    if images.dataset is None:
        return unchecked_method(images.reason)
    if not images.is_same:
        return unchecked_method(
            "the images here are not those of the outcomes; say where those lie with --dataset PATH"
        )
    if find_spec("torch") is None:
        return unchecked_method("PyTorch is not installed here")
    from fewshot_bench.audit.method_checks import check_method

    return check_method(cell, frame, images.dataset, sizes, options, progress)
