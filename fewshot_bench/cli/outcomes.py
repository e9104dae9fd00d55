"""`fewshot-bench outcomes`: import accuracies from elsewhere, and export all outcomes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewshot_bench.cli.options import JsonOption, command_group
from fewshot_bench.cli.output import print_json
from fewshot_bench.cli.study_options import ResultsOption

if TYPE_CHECKING:
    from fewshot_bench._io.locations import Location
    from fewshot_bench.interop import Imported, ImportReport

outcomes = command_group("Import accuracies from elsewhere; export all outcomes.")


@outcomes.command("import")
def import_(
    context: typer.Context,
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="CSV, TSV, Parquet, .npy, .npz, .pt, .safetensors.")
    ],
    method: Annotated[
        list[str] | None,
        typer.Option(help="Name for a column of an array, or the only method of a file to import. Repeatable."),
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Dataset of the episodes.")] = None,
    way: Annotated[int | None, typer.Option(help="Classes per episode.")] = None,
    shot: Annotated[int | None, typer.Option(help="Labelled images per class.")] = None,
    query: Annotated[int | None, typer.Option(min=1, help="Queries per class, for counts of correct answers.")] = None,
    split: Annotated[str | None, typer.Option(help="base, validation or novel (meta-test). Default: novel.")] = None,
    run: Annotated[int | None, typer.Option(help="Run of all rows. Default: 0.")] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Name of the episodes; methods with the same name are paired. Default: the first file's name."
        ),
    ] = None,
    percent: Annotated[
        bool | None, typer.Option("--percent/--fractions", help="Unit of the accuracies. Default: recognised.")
    ] = None,
    transductive: Annotated[
        list[str] | None,
        typer.Option(metavar="METHOD", help="A method that sees all queries of an episode at once. Repeatable."),
    ] = None,
    results: ResultsOption = Path("results"),
    as_json: JsonOption = False,
) -> None:
    """Import per-episode accuracies that other code computed, to compare them.

    One column per method, or a long table with the columns method, episode and accuracy (or correct). Rows of the same
    episode are paired; every report says that this is claimed, not verified.
    """
    from fewshot_bench.cli.study_options import typed_arguments
    from fewshot_bench.interop import ImportOptions, import_outcomes
    from fewshot_bench.outcomes import OutcomeStore

    options = ImportOptions(
        methods=method or (),
        dataset=dataset,
        split=split,
        way=way,
        shot=shot,
        query=query,
        run=run,
        tasks=tasks,
        is_percent=percent,
        transductive=transductive or (),
    )
    report = import_outcomes(files, OutcomeStore(results / "outcomes"), options, arguments=typed_arguments(context))
    if as_json:
        print_json(_record(report))
    else:
        _show(report, results)


def _record(report: ImportReport) -> dict[str, Any]:
    records = [
        {
            "method": imported.cell.method.name,
            "is_transductive": imported.cell.method.is_transductive,
            "task": imported.cell.protocol.task,
            "cell": imported.cell.key,
            "episodes": imported.episodes,
            "already_there": imported.known,
            "has_classes": imported.has_classes,
        }
        for imported in report.imported
    ]
    return {"imported": records, "ignored_columns": report.ignored}


def _show(report: ImportReport, results: Location) -> None:
    """One line for each method and task, then notes and the next command."""
    from fewshot_bench._io.resuming import command_for
    from fewshot_bench._io.text import printable
    from fewshot_bench.report.names import CLAIMED

    for imported in report.imported:
        typer.echo(
            printable(
                f"imported     {_counts(imported)} of {imported.cell.method.marked_name}, {imported.cell.protocol.task}"
            )
        )
    for file, columns in report.ignored.items():
        typer.echo(printable(f"ignored      columns of {file}: {', '.join(columns)}"))
    typer.echo(f"note         {CLAIMED}")
    if not any(imported.cell.method.is_transductive for imported in report.imported):
        typer.echo("note         all count as inductive; name the others with --transductive METHOD")
    if not all(imported.has_classes for imported in report.imported):
        typer.echo("note         without a column 'classes', intervals cover these classes and images only")
    typer.echo(f"next         {command_for(['compare'], results)}")


def _counts(imported: Imported) -> str:
    if not imported.episodes:
        return f"nothing new, {imported.known:,} episodes are already there"
    return f"{imported.episodes:,} episodes" + (
        f" ({imported.known:,} more are already there)" if imported.known else ""
    )


@outcomes.command("export")
def export(
    file: Annotated[Path, typer.Argument(help="File to write, .csv or .parquet.")],
    method: Annotated[
        list[str] | None, typer.Option(help="A method's name or a part of it. Repeatable. Default: all.")
    ] = None,
    dataset: Annotated[list[str] | None, typer.Option(help="A dataset. Repeatable. Default: all.")] = None,
    results: ResultsOption = Path("results"),
    as_json: JsonOption = False,
) -> None:
    """Write all outcomes as a tidy table for pandas and R, one row per method and episode."""
    from fewshot_bench.interop import export_outcomes
    from fewshot_bench.outcomes import OutcomeStore

    rows = export_outcomes(OutcomeStore(results / "outcomes"), file, methods=method or (), datasets=dataset or ())
    if as_json:
        print_json({"file": str(file), "rows": rows})
    else:
        typer.echo(f"exported     {file}, {rows:,} rows")
