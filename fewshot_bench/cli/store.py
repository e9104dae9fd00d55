"""`fewshot-bench store`: compact, check, merge and prune stored outcomes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewshot_bench._io.text import printable
from fewshot_bench.cli.options import JsonOption, command_group, results_folder
from fewshot_bench.cli.output import print_json
from fewshot_bench.cli.study_options import ResultsOption

if TYPE_CHECKING:
    from fewshot_bench._io.locations import Location
    from fewshot_bench.outcomes.checking import CellCheck
    from fewshot_bench.outcomes.maintenance import Compacted, Damaged

store = command_group("Compact, check, merge and prune stored outcomes.")

_DAMAGED = 1
"""Exit code of a check or a compaction that found damage."""
_REFUSED = 1
_COMPACTED = ("cell", "parts", "bytes_before", "bytes_after", "void_failures", "damage")


@store.command()
def compact(results: ResultsOption = Path("results"), as_json: JsonOption = False) -> None:
    """Put all parts of each cell into one; old parts are removed after the new one has been read back.

    Exit code 0: all cells are compact; 1: some are damaged, and only the others are compact.
    """
    from fewshot_bench.outcomes.maintenance import Damaged, compact_store, outcomes_of

    found = compact_store(outcomes_of(results))
    damaged = sum(isinstance(result, Damaged) for result in found)
    if as_json:
        print_json([_as_dict(result) for result in found])
    else:
        for result in found:
            typer.echo(printable(_line(result)))
        typer.echo(f"{len(found)} cells{f', {damaged} of them damaged' if damaged else ''}; nothing else was changed")
    if damaged:
        raise typer.Exit(_DAMAGED)


def _as_dict(result: Compacted | Damaged) -> dict[str, Any]:
    """What compaction did to a cell, for JSON."""
    from fewshot_bench.outcomes.maintenance import Damaged

    if isinstance(result, Damaged):
        return {**dict.fromkeys(_COMPACTED), "cell": result.key, "damage": [result.damage]}
    values: tuple[Any, ...] = (result.cell.key, result.parts, result.bytes_before, result.bytes_after, result.void, [])
    return dict(zip(_COMPACTED, values, strict=True))


def _line(result: Compacted | Damaged) -> str:
    """What compaction did to a cell, in one line."""
    from fewshot_bench.outcomes.maintenance import Damaged

    if isinstance(result, Damaged):
        return f"{result.key}  damaged: {result.damage}"
    size = f"{result.bytes_before:>12,} -> {result.bytes_after:>11,} bytes"
    return f"{result.cell.key}  {result.parts:>5,} -> 1 parts  {size}  {result.cell.method.marked_name}"


@store.command()
def check(results: ResultsOption = Path("results"), as_json: JsonOption = False) -> None:
    """Read every stored byte: digests, descriptions, copies that disagree, and missing episodes.

    Exit code 0: everything is intact; 1: something is damaged.
    """
    from fewshot_bench.outcomes.checking import check_store
    from fewshot_bench.outcomes.maintenance import outcomes_of

    found = check_store(outcomes_of(results))
    if as_json:
        print_json([result.as_dict() for result in found])
    else:
        for result in found:
            _show(result)
        damaged = sum(bool(result.damage) for result in found)
        typer.echo(f"{len(found)} cells, {damaged} of them damaged" if damaged else f"{len(found)} cells, all whole")
    if any(result.damage for result in found):
        raise typer.Exit(_DAMAGED)


def _show(found: CellCheck) -> None:
    """One line for a cell, and one for each damage or note."""
    about = "?" if found.cell is None else f"{found.cell.method.marked_name}, {found.cell.protocol.task}"
    verdict = "damaged" if found.damage else "whole"
    episodes = f"{sum(found.episodes.values()):,} episodes of {len(found.episodes)} runs"
    typer.echo(printable(f"{found.key}  {verdict:<8} {found.parts:>5,} parts, {episodes}  {about}"))
    for kind, sentences in (("damage", found.damage), ("note", found.notes)):
        for sentence in sentences:
            typer.echo(printable(f"  {kind:<7} {sentence}"))


@store.command()
def merge(
    sources: Annotated[
        list[str], typer.Argument(metavar="FOLDER...", help="Results folders or URLs, for instance of other machines.")
    ],
    results: ResultsOption = Path("results"),
    as_json: JsonOption = False,
) -> None:
    """Copy the outcomes of other folders into RESULTS; if any contradict each other, nothing is copied."""
    from fewshot_bench.outcomes.maintenance import merge as merged

    cells = merged([results_folder(source) for source in sources], results / "outcomes")
    if as_json:
        records = [{"cell": result.cell.key, "copied": result.copied, "known": result.known} for result in cells]
        print_json(records)
        return
    for result in cells:
        counts = f"{result.copied:>5,} parts copied, {result.known:,} there already"
        typer.echo(
            printable(f"{result.cell.key}  {counts}  {result.cell.method.marked_name}, {result.cell.protocol.task}")
        )
    typer.echo(f"{len(cells)} cells are in {results / 'outcomes'}")
    _tell_next(results)


@store.command()
def prune(
    cell: Annotated[str, typer.Argument(help="A cell's key or the start of it, or a method's name or label.")],
    results: ResultsOption = Path("results"),
    is_sure: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove one cell and all of its outcomes permanently."""
    from fewshot_bench.outcomes.maintenance import cell_named
    from fewshot_bench.outcomes.maintenance import prune as pruned

    folder, described = cell_named(results / "outcomes", cell)
    about = "" if described is None else printable(f" ({described.method.marked_name}, {described.protocol.task})")
    if not is_sure and not _is_confirmed(f"Remove {folder}{about} and all of its outcomes?"):
        typer.echo("Nothing was removed.", err=True)
        raise typer.Exit(_REFUSED)
    files = pruned(folder)
    if as_json:
        print_json({"cell": folder.name, "files": files})
    else:
        typer.echo(f"removed      {folder}{about}, {files:,} files")
        _tell_next(results)


def _is_confirmed(question: str) -> bool:
    """Ask the user; a script without a terminal gets an error instead of an abort."""
    try:
        return typer.confirm(question, err=True)
    except typer.Abort as error:
        if not isinstance(error.__context__, EOFError):
            raise
        typer.echo("", err=True)
        raise typer.BadParameter("removing a cell needs a confirmation and a terminal; or add --yes.") from error


def _tell_next(results: Location) -> None:
    from fewshot_bench._io.resuming import command_for

    typer.echo(f"next         {command_for(['leaderboard'], results)}")
