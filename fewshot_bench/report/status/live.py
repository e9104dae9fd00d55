"""The table of studies that are under way, shown anew every second."""

from __future__ import annotations

import time

from rich.console import Console
from rich.live import Live

from fewshot_bench.report.status.look import Watch
from fewshot_bench.report.status.terminal import status_text

_EVERY = 1.0  # seconds between two looks
_SHARE = 10
"""A look that takes long, as at a network disk, is taken so many times more seldom."""


def show_live(watch: Watch, results: str, console: Console) -> None:
    """Show how far everything is until it is complete, or somebody stops it.

    Args:
        watch: looks.
        results: the folder, as the user wrote it.
        console: of a terminal.

    Raises:
        OutcomeError: there is nothing in the folder to look at.
    """
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            began = time.monotonic()
            state = watch.look()
            height = None if state.is_complete else console.height
            live.update(status_text(state, results, width=console.width, height=height), refresh=True)
            if state.is_complete:
                return
            time.sleep(max(_EVERY, _SHARE * (time.monotonic() - began)))
