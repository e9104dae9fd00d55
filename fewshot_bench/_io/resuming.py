"""The command that resumes a study, and whether a stopped command has saved anything to resume from."""

from __future__ import annotations

import shlex
import threading
from collections.abc import Sequence

from fewshot_bench._io.locations import Place

_USUAL = "results"


def resume_arguments(arguments: Sequence[str], results: Place) -> list[str]:
    """The arguments that resume a command in a results folder: with that folder, and without --fresh."""
    kept = [text for text in _without("--results", arguments) if text != "--fresh"]
    return [*kept, *_naming(results)]


def command_for(arguments: Sequence[str], results: Place | str) -> str:
    """A command of this program as one line; the folder of results is added to its arguments."""
    return shlex.join(["fewshot-bench", *arguments, *_naming(results)])


def command_in(command: str, results: Place, *, did_its_part: bool = False) -> str:
    """The command that resumes a recorded one, which names only the last part of a path or URL.

    Args:
        command: as one line; a stranger's text, unchanged if no shell would take it.
        results: the folder of results.
        did_its_part: whether its shard is complete; the command for all shards then resumes it.
    """
    try:
        arguments = resume_arguments(shlex.split(command), results)
    except ValueError:
        return command
    return shlex.join(_without("--shard", arguments) if did_its_part else arguments)


def _naming(results: Place | str) -> list[str]:
    """The option for a folder of results; none for the usual one."""
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
"""Part of the message of a stopped command that has saved work; `sweep --jobs` looks for it in those of workers."""

_saved = threading.Event()


def note_saved() -> None:
    """Note that work was saved: outcomes, an epoch, an entry of the cache, a dataset."""
    _saved.set()


def is_anything_saved() -> bool:
    """Whether work was saved since the command began."""
    return _saved.is_set()


def begin() -> None:
    """Begin a command: what earlier ones of this process have saved does not count."""
    _saved.clear()
