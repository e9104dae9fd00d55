"""Where commands print their results: tables for people, JSON for programs; both on stdout, and nothing else there."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

_WIDE = 1_000  # columns


def stdout_console() -> Console:
    """Stdout for tables; in a pipe or a file, tables are as wide as their names, unless COLUMNS says otherwise.

    Colours need a terminal that has them; NO_COLOR and FORCE_COLOR count.
    """
    from rich.console import Console  # which `--help` does not need

    is_wide = not sys.stdout.isatty() and not os.environ.get("COLUMNS")
    return Console(width=_WIDE if is_wide else None)


def print_json(content: Any) -> None:
    """Print content as JSON; numbers that JSON does not have, such as NaN, become null."""
    typer.echo(json.dumps(_of_json(content), indent=1, allow_nan=False))


def _of_json(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _of_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_of_json(entry) for entry in value]
    return value
