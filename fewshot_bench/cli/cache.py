"""`fewshot-bench cache`: list and remove what is kept to save time."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from fewshot_bench._io.text import printable
from fewshot_bench.cli.options import JsonOption, command_group
from fewshot_bench.cli.output import print_json

if TYPE_CHECKING:
    from fewshot_bench.cache import Entry

cache = command_group("List and remove what is kept to save time. All of it can be made again.")


@cache.command("ls")
def ls(as_json: JsonOption = False) -> None:
    """List embeddings, trained networks, own images and downloads, the least recently used first."""
    from fewshot_bench._io.locations import cache_folder
    from fewshot_bench.cache import cache_entries

    entries = cache_entries()
    if as_json:
        facts = [entry.as_dict() for entry in entries]
        total = sum(entry.bytes for entry in entries)
        print_json({"folder": str(cache_folder()), "bytes": total, "entries": facts})
        return
    _print(entries)
    typer.echo(f"{_count(entries)} in {cache_folder()}")


@cache.command("clear")
def clear(
    pattern: Annotated[
        str, typer.Argument(help="Only entries whose description or name contains this; * and ? match anything.")
    ] = "",
    max_size: Annotated[
        str | None, typer.Option(help="Remove until the rest fits, e.g. 10GB; the least recently used first.")
    ] = None,
    older_than: Annotated[
        str | None, typer.Option(help="Only entries unused for this long, e.g. 30d (min, h, d, w).")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before everything is removed.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove everything, or what the options select; never what another process is making."""
    from fewshot_bench.cache import cache_entries, clear_cache, parse_age, parse_bytes, to_be_removed

    entries = to_be_removed(
        cache_entries(),
        pattern,
        max_bytes=None if max_size is None else parse_bytes(max_size, "--max-size"),
        unused_for=None if older_than is None else parse_age(older_than, "--older-than"),
    )
    if entries and not (pattern or max_size or older_than or yes) and not _is_confirmed(entries):
        typer.echo("Nothing was removed.", err=True)
        return
    cleared = clear_cache(entries)
    left = cache_entries()
    if as_json:
        content = {
            "removed": [entry.as_dict() for entry in cleared.removed],
            "left_alone": [{**entry.as_dict(), "reason": reason} for entry, reason in cleared.left_alone],
            "left": [entry.as_dict() for entry in left],
        }
        print_json(content)
        return
    typer.echo(f"removed {_count(cleared.removed)}; left {_count(left)}")
    for entry, reason in cleared.left_alone:
        typer.echo(f"left alone: {printable(entry.what)} ({printable(reason)})")


def _is_confirmed(entries: list[Entry]) -> bool:
    if not sys.stdin.isatty():
        raise typer.BadParameter("removing everything needs a confirmation and a terminal; or add --yes.")
    _print(entries, err=True)
    return typer.confirm(f"Remove all {_count(entries)}?", err=True)


def _print(entries: list[Entry], *, err: bool = False) -> None:
    from datetime import datetime

    from fewshot_bench.units import bytes_text

    names = [printable(entry.what) for entry in entries]
    width = max(map(len, names), default=0)
    for entry, name in zip(entries, names, strict=True):
        used = datetime.fromtimestamp(entry.last_used).strftime("%Y-%m-%d %H:%M")
        typer.echo(f"{name:<{width}}  {bytes_text(entry.bytes):>10}  last used {used}", err=err)


def _count(entries: list[Entry]) -> str:
    from fewshot_bench.units import bytes_text

    noun = "entry" if len(entries) == 1 else "entries"
    return f"{len(entries)} {noun}, {bytes_text(sum(entry.bytes for entry in entries))}"
