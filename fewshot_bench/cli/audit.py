"""`fewshot-bench audit`: can a stored result be believed?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fewshot_bench.cli.options import (
    DeviceOption,
    DownloadOption,
    ImagesOption,
    JsonOption,
    ResultArgument,
    ResultsOption,
    TrustCodeOption,
    WeightsOption,
)

if TYPE_CHECKING:
    from fewshot_bench.audit import CellAudit


def audit(
    result: ResultArgument = Path("results"),
    results: ResultsOption = Path("results"),
    episodes: Annotated[
        int, typer.Option(min=0, help="Stored episodes of each cell to run again; 0 leaves the methods alone.")
    ] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Chooses which episodes, and how they are disturbed.")] = 0,
    device: DeviceOption = "auto",
    dataset: ImagesOption = None,
    weights: WeightsOption = None,
    trust_code: TrustCodeOption = False,
    download: DownloadOption = False,
    as_json: JsonOption = False,
) -> None:
    """Check stored results: complete, counted right, on the tasks they name, without leaks, and coming out again.

    Nothing that the results name is executed without --trust-code, or fetched without --download.
    """
    from rich.console import Console

    from fewshot_bench.audit import AuditOptions, audit_cell, cell_folders, print_audit
    from fewshot_bench.cli.progress import ProgressBars

    options = AuditOptions(
        episodes=episodes,
        seed=seed,
        device=device,
        dataset=dataset,
        weights=weights,
        trusts_code=trust_code,
        downloads=download,
    )
    with ProgressBars() as progress:
        audits = [audit_cell(folder, options, progress=progress) for folder in cell_folders(result, results)]
    if as_json:
        typer.echo(json.dumps([one.as_dict() for one in audits], indent=1))
    else:
        console = Console()
        for one in audits:
            print_audit(one, console, in_full=len(audits) == 1)
    _conclude(audits, as_json)


def _conclude(audits: list[CellAudit], as_json: bool) -> None:
    """Say what it comes to.

    Raises:
        AuditError: a check failed.
    """
    from fewshot_bench.errors import AuditError

    failures = [f"{one.key} ({', '.join(one.failures)})" for one in audits if one.failures]
    if failures:
        raise AuditError(f"{len(failures)} of {len(audits)} cells failed the audit: {'; '.join(failures)}.")
    open_checks = sum(finding.verdict == "not checked" for one in audits for finding in one.findings)
    if not as_json:
        cells = "1 cell" if len(audits) == 1 else f"{len(audits)} cells"
        typer.echo(f"{cells}: no check failed, {open_checks} could not be made")
