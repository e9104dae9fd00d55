"""`fewshot-bench reproduce`: run a stored result again and compare every outcome."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewshot_bench.cli.options import (
    DownloadOption,
    ImagesOption,
    IntoOption,
    JsonOption,
    TrustCodeOption,
    WeightsOption,
    numbers,
    results_or_cell,
)
from fewshot_bench.cli.output import print_json, stdout_console
from fewshot_bench.cli.study_options import DeviceOption, ResultsOption

if TYPE_CHECKING:
    from fewshot_bench._io.locations import Location
    from fewshot_bench.audit import Reproduction, ReproductionOptions


def reproduce(
    context: typer.Context,
    result: Annotated[
        str,
        typer.Argument(
            metavar="RESULT",
            help="A results folder, a cell's folder or key, or a method's name or part of it.",
        ),
    ],
    results: ResultsOption = Path("results"),
    shots: Annotated[str | None, typer.Option(help="Only the cells of these shots, e.g. 1,5.")] = None,
    episodes: Annotated[
        int | None,
        typer.Option(min=1, help="Stored episodes to run again per cell, drawn at random. Default: all."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Selects the episodes. Default: unpredictable.")] = None,
    device: DeviceOption = "auto",
    into: IntoOption = None,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Train and embed again instead of using the caches.")
    ] = False,
    dataset: ImagesOption = None,
    weights: WeightsOption = None,
    trust_code: TrustCodeOption = False,
    download: DownloadOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run a stored result again from its record, and compare every outcome with the stored one.

    Exit code 0: all are equal; 1: some differ; 2: a result cannot be run again here. RESULT is not changed.
    """
    from fewshot_bench.audit import resolve_cells
    from fewshot_bench.cli.study_options import typed_arguments
    from fewshot_bench.errors import FewshotBenchError

    try:
        folders = resolve_cells(result, results, numbers(shots, "--shots") if shots else ())
    except FewshotBenchError:
        results_or_cell(result)  # a file gets its own message
        raise
    from fewshot_bench.audit import ReproductionOptions  # which imports torch

    seeded: dict[str, Any] = {} if seed is None else {"seed": seed}
    options = ReproductionOptions(
        episodes=episodes,
        into=into,
        device=device,
        dataset=dataset,
        weights=weights,
        trusts_code=trust_code,
        downloads=download,
        **seeded,
    )
    if episodes is not None and seed is None:  # for the record of the new outcomes and the resume command
        context.find_root().obj.extend(["--seed", str(options.seed)])
    options = replace(options, arguments=tuple(typed_arguments(context)))
    try:
        done, failures = _reproduced(folders, options, retrain)
    except KeyboardInterrupt:
        if into is not None:
            raise
        raise typer.Abort("stopped, and nothing was kept. With --into DIR, reproduce can resume later.") from None
    _show(done, failures, as_json)
    _conclude(done, failures, len(folders), as_json)


def _reproduced(
    folders: list[Location], options: ReproductionOptions, retrain: bool
) -> tuple[list[Reproduction], dict[str, str]]:
    """The reproductions of cells, and for the other cells why they cannot be run again."""
    from fewshot_bench.audit import reproduce_cell, without_caches
    from fewshot_bench.cli.progress_bars import ProgressBars
    from fewshot_bench.errors import FewshotBenchError

    done, failures = [], {}
    with without_caches() if retrain else nullcontext(), ProgressBars() as progress:
        for folder in folders:
            try:
                done.append(reproduce_cell(folder, options, progress=progress))
            except FewshotBenchError as error:
                failures[folder.name] = str(error)
    return done, failures


def _show(done: list[Reproduction], failures: dict[str, str], as_json: bool) -> None:
    from fewshot_bench.audit import print_reproduction

    if as_json:
        records: list[dict[str, Any]] = [reproduction.as_dict() for reproduction in done]
        records += [{"key": key, "error": reason} for key, reason in failures.items()]
        print_json(records)
        return
    console = stdout_console()
    for reproduction in done:
        print_reproduction(reproduction, console)


def _conclude(done: list[Reproduction], failures: dict[str, str], cells: int, as_json: bool) -> None:
    """Print the conclusion; raises typer.Exit if outcomes differ, ReproductionError if a cell could not be run."""
    from fewshot_bench._io.text import printable
    from fewshot_bench.errors import ReproductionError

    differing = [reproduction.key for reproduction in done if not reproduction.is_equal]
    reasons = [reason if cells == 1 else f"{key}: {reason}" for key, reason in failures.items()]
    if differing:
        for reason in reasons:
            typer.echo(printable(f"not run again: {reason}"), err=True)
        typer.echo(f"{len(differing)} of {cells} cells: outcomes differ ({', '.join(differing)})", err=as_json)
        raise typer.Exit(1)
    if reasons:
        several = f"{len(reasons)} of {cells} cells were not run again; " if cells > 1 else ""
        raise ReproductionError(several + " ".join(reasons))
    if not as_json:
        compared = (
            "every outcome"
            if all(reproduction.seed is None for reproduction in done)
            else "every outcome that was run again"
        )
        typer.echo(f"{'1 cell' if cells == 1 else f'{cells} cells'}: {compared} is the one stored")
