"""`fewshot-bench store`: look after stored outcomes: compact, check, merge, prune."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewshot_bench._io.text import printable
from fewshot_bench.cli.options import JsonOption, command_group, results_folder
from fewshot_bench.cli.study_options import ResultsOption

if TYPE_CHECKING:
    from fewshot_bench._io.locations import Place
    from fewshot_bench.outcomes.checking import CellCheck
    from fewshot_bench.outcomes.maintenance import Compacted, Damaged

store = command_group("Look after stored outcomes.")

_DAMAGED = 1
"""Exit code of a check or a compaction that found damage."""
_REFUSED = 1
_COMPACTED = ("cell", "parts", "bytes_before", "bytes_after", "void_failures", "damage")


@store.command()
def compact(results: ResultsOption = Path("results"), as_json: JsonOption = False) -> None:
    """Put all parts of each cell into one; an old part goes only when the new one has been read back.

    Exit code 0: all are compact; 1: something is damaged, and the cells without damage are compact.
    """
    from fewshot_bench.outcomes.maintenance import Damaged, compact_store, outcomes_of

    found = compact_store(outcomes_of(results))
    damaged = sum(isinstance(one, Damaged) for one in found)
    if as_json:
        typer.echo(json.dumps([_as_dict(one) for one in found], indent=1))
    else:
        for one in found:
            typer.echo(printable(_line(one)))
        typer.echo(f"{len(found)} cells{f', {damaged} of them damaged' if damaged else ''}; nothing else has changed")
    if damaged:
        raise typer.Exit(_DAMAGED)


def _as_dict(one: Compacted | Damaged) -> dict[str, Any]:
    """What a compaction has done to a cell, for JSON."""
    from fewshot_bench.outcomes.maintenance import Damaged

    if isinstance(one, Damaged):
        return {**dict.fromkeys(_COMPACTED), "cell": one.key, "damage": [one.damage]}
    values: tuple[Any, ...] = (one.cell.key, one.parts, one.bytes_before, one.bytes_after, one.void, [])
    return dict(zip(_COMPACTED, values, strict=True))


def _line(one: Compacted | Damaged) -> str:
    """The same for people."""
    from fewshot_bench.outcomes.maintenance import Damaged

    if isinstance(one, Damaged):
        return f"{one.key}  damaged: {one.damage}"
    size = f"{one.bytes_before:>12,} -> {one.bytes_after:>11,} bytes"
    return f"{one.cell.key}  {one.parts:>5,} -> 1 parts  {size}  {one.cell.method.marked_name}"


@store.command()
def check(results: ResultsOption = Path("results"), as_json: JsonOption = False) -> None:
    """Read every byte that is stored: digests, descriptions, copies that disagree, and what is missing.

    Exit code 0: all is whole; 1: something is damaged.
    """
    from fewshot_bench.outcomes.checking import check_store
    from fewshot_bench.outcomes.maintenance import outcomes_of

    found = check_store(outcomes_of(results))
    if as_json:
        typer.echo(json.dumps([one.as_dict() for one in found], indent=1))
    else:
        for one in found:
            _show(one)
        damaged = sum(bool(one.damage) for one in found)
        typer.echo(f"{len(found)} cells, {damaged} of them damaged" if damaged else f"{len(found)} cells, all whole")
    if any(one.damage for one in found):
        raise typer.Exit(_DAMAGED)


def _show(found: CellCheck) -> None:
    """One line for a cell, and one for each thing that is to be said about it."""
    about = "?" if found.cell is None else f"{found.cell.method.marked_name}, {found.cell.protocol.task}"
    verdict = "damaged" if found.damage else "whole"
    episodes = f"{sum(found.episodes.values()):,} episodes of {len(found.episodes)} runs"
    typer.echo(printable(f"{found.key}  {verdict:<8} {found.parts:>5,} parts, {episodes}  {about}"))
    for kind, told in (("damage", found.damage), ("note", found.notes)):
        for sentence in told:
            typer.echo(printable(f"  {kind:<7} {sentence}"))


@store.command()
def merge(
    sources: Annotated[
        list[str], typer.Argument(metavar="FOLDER...", help="Folders or URLs of results, of other machines.")
    ],
    results: ResultsOption = Path("results"),
    as_json: JsonOption = False,
) -> None:
    """Copy the outcomes of other folders into RESULTS; where they contradict each other, nothing is copied."""
    from fewshot_bench.outcomes.maintenance import merge as merged

    cells = merged([results_folder(source) for source in sources], results / "outcomes")
    if as_json:
        told = [{"cell": one.cell.key, "copied": one.copied, "known": one.known} for one in cells]
        typer.echo(json.dumps(told, indent=1))
        return
    for one in cells:
        counts = f"{one.copied:>5,} parts copied, {one.known:,} there already"
        typer.echo(printable(f"{one.cell.key}  {counts}  {one.cell.method.marked_name}, {one.cell.protocol.task}"))
    typer.echo(f"{len(cells)} cells are in {results / 'outcomes'}")
    _tell_next(results)


@store.command()
def prune(
    cell: Annotated[str, typer.Argument(help="A cell's key or its start, or a method's name or label.")],
    results: ResultsOption = Path("results"),
    is_sure: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove one cell and all of its outcomes, for good."""
    from fewshot_bench.outcomes.maintenance import cell_named
    from fewshot_bench.outcomes.maintenance import prune as pruned

    folder, described = cell_named(results / "outcomes", cell)
    about = "" if described is None else printable(f" ({described.method.marked_name}, {described.protocol.task})")
    if not is_sure and not _is_confirmed(f"Remove {folder}{about} and all of its outcomes?"):
        typer.echo("nothing was removed", err=True)
        raise typer.Exit(_REFUSED)
    files = pruned(folder)
    if as_json:
        typer.echo(json.dumps({"cell": folder.name, "files": files}))
    else:
        typer.echo(f"removed      {folder}{about}, {files:,} files")
        _tell_next(results)


def _is_confirmed(question: str) -> bool:
    """Ask. Where nobody is there to answer, as in a script, say so instead of ending as if Ctrl-C had been typed."""
    try:
        return typer.confirm(question, err=True)
    except typer.Abort as error:
        if not isinstance(error.__context__, EOFError):
            raise
        typer.echo("", err=True)
        raise typer.BadParameter("nobody is here to confirm that it is removed; add --yes.") from error


def _tell_next(results: Place) -> None:
    from fewshot_bench._io.resuming import command_for

    typer.echo(f"next         {command_for(['leaderboard'], results)}")
