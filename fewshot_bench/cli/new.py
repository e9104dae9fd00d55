"""`fewshot-bench new`: begin a package with code of your own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fewshot_bench.cli.options import JsonOption
from fewshot_bench.cli.output import print_json


def new(
    kind: Annotated[str, typer.Argument(help="adaptation, loss, backbone or dataset.")],
    name: Annotated[str, typer.Argument(help="Its name in commands, such as my-method.")],
    into: Annotated[
        Path,
        typer.Option(
            "--into",
            metavar="FOLDER",
            help="Parent of the new folder. Default: the current folder.",
            show_default=False,
        ),
    ] = Path(),
    as_json: JsonOption = False,
) -> None:
    """Write a small package with your own adaptation, loss, backbone or dataset: code, test and entry point.

    How to go on: docs/own-code.md
    """
    from fewshot_bench.study.known_names import taken_names
    from fewshot_bench.testing import write_package

    folder = write_package(kind, name, into, taken=taken_names(kind))
    text = (folder / "README.md").read_text(encoding="utf-8")
    commands = [f"cd {folder}", *(line.strip() for line in text.splitlines() if line.startswith("    "))]
    if as_json:
        print_json({"folder": str(folder), "next": commands})
        return
    typer.echo(f"wrote the {kind} {name} into {folder}. Next:\n")
    typer.echo("\n".join(f"    {command}" for command in commands))
