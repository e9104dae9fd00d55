"""The command that goes on in a folder of results, from the one that began there.

Whether this process has saved work that the same command goes on from, for the last words of one that is stopped.
"""

from __future__ import annotations

import shlex
import threading
from collections.abc import Sequence

from fewshot_bench._io.locations import Place

_USUAL = "results"


def goes_on_in(arguments: Sequence[str], results: Place) -> list[str]:
    """The arguments of a command with another folder of results, and without --fresh, which would begin yet another.

    Args:
        arguments: of the command.
        results: the folder.
    """
    kept = [text for text in _without("--results", arguments) if text != "--fresh"]
    return [*kept, *_naming(results)]


def command_for(arguments: Sequence[str], results: Place | str) -> str:
    """A command of this program as one line, for a folder of results.

    Args:
        arguments: without the folder.
        results: the folder, as it is called here.
    """
    return shlex.join(["fewshot-bench", *arguments, *_naming(results)])


def command_in(command: str, results: Place, *, did_its_part: bool = False) -> str:
    """The same of a recorded command, which says only the last part of a path or URL.

    Args:
        command: as one line; a stranger's text. What no shell would take is left as it is.
        results: the folder, as it is called here.
        did_its_part: whether nothing is left of its shard: what goes on is the command for all of them.
    """
    try:
        arguments = goes_on_in(shlex.split(command), results)
    except ValueError:
        return command
    return shlex.join(_without("--shard", arguments) if did_its_part else arguments)


def _naming(results: Place | str) -> list[str]:
    """What names a folder of results; nothing for the usual one."""
    return [] if str(results) == _USUAL else ["--results", str(results)]


def _without(option: str, arguments: Sequence[str]) -> list[str]:
    """Arguments without an option and its value."""
    before = ["", *arguments]
    return [
        text
        for text, previous in zip(arguments, before, strict=False)
        if option not in (text, previous) and not text.startswith(f"{option}=")
    ]


SAVED = "What is finished is on disk"
"""What a stopped command says if it has saved something; a process that started others looks for it in their words."""

_saved = threading.Event()


def note_saved() -> None:
    """Take note that work was saved: outcomes, an epoch, an entry of the cache, a dataset."""
    _saved.set()


def is_anything_saved() -> bool:
    """Whether work was saved since the command began."""
    return _saved.is_set()


def begin() -> None:
    """A command begins: what others have saved before in this process is not its work."""
    _saved.clear()
