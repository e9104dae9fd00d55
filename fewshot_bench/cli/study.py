"""`fewshot-bench study`: a study that comes with the package, as a file to edit."""

from __future__ import annotations

from typing import Annotated

import typer


def study(name: Annotated[str, typer.Argument(help="See: fewshot-bench ls studies.")]) -> None:
    """Print a study that comes with the package, to edit: fewshot-bench study quickstart > mine.toml."""
    from fewshot_bench.study.study_file import known_preset

    typer.echo(known_preset(name), nl=False)
