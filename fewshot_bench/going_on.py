"""The command that goes on in a folder of results, from the one that began there."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from fewshot_bench.paths import Place

_USUAL = "results"


def goes_on_in(arguments: Sequence[str], results: Place) -> list[str]:
    """The arguments of a command with another folder of results, and without --fresh, which would begin yet another.

    Args:
        arguments: of the command.
        results: the folder.
    """
    kept = [text for place, text in enumerate(arguments) if not _is_about_the_folder(text, arguments[:place])]
    return kept if str(results) == _USUAL else [*kept, "--results", str(results)]


def _is_about_the_folder(text: str, before: Sequence[str]) -> bool:
    return text in ("--fresh", "--results") or text.startswith("--results=") or list(before[-1:]) == ["--results"]


def command_in(command: str, results: Place) -> str:
    """The same of a recorded command, which says only the last part of a path or URL.

    Args:
        command: as one line; a stranger's text. What no shell would take is left as it is.
        results: the folder, as it is called here.
    """
    try:
        return shlex.join(goes_on_in(shlex.split(command), results))
    except ValueError:
        return command
