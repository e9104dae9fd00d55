"""`fewshot-bench status`: the progress of the studies in a results folder."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from fewshot_bench.cli.options import JsonOption
from fewshot_bench.cli.output import print_json, stdout_console
from fewshot_bench.cli.study_options import ResultsOption


def status(
    results: ResultsOption = Path("results"),
    watch: Annotated[
        bool | None,
        typer.Option("--watch/--once", help="Show until complete, or once. Default: --watch on a terminal."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the progress of the studies in a results folder: episodes, failures, speed, time left, active processes.

    Read-only, from any machine that sees the folder. Ctrl-C stops watching, not the study.
    """
    from fewshot_bench.report.status import Watch, show_live, status_text

    console, seen = stdout_console(), Watch(results)
    if as_json:
        print_json(seen.look().as_dict())
    elif sys.stdout.isatty() if watch is None else watch:
        with suppress(KeyboardInterrupt):
            show_live(seen, str(results), console)
    else:
        console.print(status_text(seen.look(), str(results), width=console.width), soft_wrap=True)
