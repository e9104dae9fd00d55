"""`fewshot-bench audit`: can a stored result be believed?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fewshot_bench.cli.options import (
    DownloadOption,
    ImagesOption,
    JsonOption,
    ResultArgument,
    TrustCodeOption,
    WeightsOption,
)
from fewshot_bench.cli.output import print_json, stdout_console
from fewshot_bench.cli.study_options import DeviceOption, ResultsOption

if TYPE_CHECKING:
    from fewshot_bench.audit import Audit

_NOT_CONFIRMED = 1
"""Exit code if no check failed, but a method was not run again: that confirms nothing."""


def audit(
    result: ResultArgument = None,
    results: ResultsOption = Path("results"),
    episodes: Annotated[
        int, typer.Option(min=0, help="Stored episodes to run again per cell; 0: do not run methods.")
    ] = 100,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Selects the episodes and their perturbations. Default: unpredictable."),
    ] = None,
    device: DeviceOption = "auto",
    dataset: ImagesOption = None,
    weights: WeightsOption = None,
    trust_code: TrustCodeOption = False,
    download: DownloadOption = False,
    as_json: JsonOption = False,
) -> None:
    """Check that stored results are complete, correct, on the tasks they name, without leaks, and reproducible.

    Nothing that the results name is executed without --trust-code or downloaded without --download.

    Exit code 0: every method was run again with equal predictions; 1: not confirmed; 2: a check failed.
    """
    from fewshot_bench.audit import AuditOptions, audit_cells, cell_folders, print_audit, print_conclusion
    from fewshot_bench.cli.progress_bars import ProgressBars

    options = AuditOptions(
        episodes=episodes,
        device=device,
        dataset=dataset,
        weights=weights,
        trusts_code=trust_code,
        downloads=download,
        **({} if seed is None else {"seed": seed}),
    )
    with ProgressBars() as progress:
        done = audit_cells(cell_folders(result or results, results), options, progress=progress)
    if as_json:
        print_json(done.as_dict())
    else:
        console = stdout_console()
        for audited in done.cells:
            print_audit(audited, console, in_full=len(done.cells) == 1)
        print_conclusion(done, console)
    _conclude(done)


def _conclude(done: Audit) -> None:
    """End with the exit code: raises AuditError if a check failed, typer.Exit if a result was not confirmed."""
    from fewshot_bench.errors import AuditError

    if done.failures:
        failed = sum(bool(cell.failures) for cell in done.cells)
        which = f"{failed} of {len(done.cells)} cells" if failed else f"{len(done.cells)} cells together"
        raise AuditError(f"{which} failed the audit: {'; '.join(done.failures)}.")
    if done.outcome != "passed":
        raise typer.Exit(_NOT_CONFIRMED)
