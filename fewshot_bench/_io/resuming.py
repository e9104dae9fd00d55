"""The command that resumes a study, and whether a stopped command has saved work to resume from."""

from __future__ import annotations

import shlex
import threading
from collections.abc import Sequence

from fewshot_bench._io.locations import Location

SAVED = "What is finished is on disk"
"""The words of a stopped command that has saved work; a process that started others looks for them."""
_DEFAULT_RESULTS = "results"
_saved = threading.Event()


def resume_arguments(arguments: Sequence[str], results: Location) -> list[str]:
    """The arguments that resume a command in a folder of results: without `--fresh`, which begins another."""
    kept = [text for text in _without("--results", arguments) if text != "--fresh"]
    return [*kept, *_results_option(results)]


def command_for(arguments: Sequence[str], results: Location | str) -> str:
    """A command of this program as one line, for a folder of results by its name here."""
    return shlex.join(["fewshot-bench", *arguments, *_results_option(results)])


def resume_command(command: str, results: Location, *, did_its_part: bool = False) -> str:
    """The line that resumes a recorded command, which has only the last part of each path or URL.

    Args:
        command: as one line; a stranger's text. A line that no shell takes is returned unchanged.
        results: the folder, by its name here.
        did_its_part: whether its shard is complete, so that the command without `--shard` resumes the study.
    """
    try:
        arguments = resume_arguments(shlex.split(command), results)
    except ValueError:
        return command
    return shlex.join(_without("--shard", arguments) if did_its_part else arguments)


def note_saved() -> None:
    """Note that work was saved: outcomes, an epoch, an entry of the cache, a dataset."""
    _saved.set()


def is_anything_saved() -> bool:
    """Whether work was saved since the command began."""
    return _saved.is_set()


def begin() -> None:
    """Begin a command, which has saved nothing yet."""
    _saved.clear()


def _results_option(results: Location | str) -> list[str]:
    return [] if str(results) == _DEFAULT_RESULTS else ["--results", str(results)]


def _without(option: str, arguments: Sequence[str]) -> list[str]:
    """Arguments without an option and its value."""
    before = ["", *arguments]
    return [
        text
        for text, previous in zip(arguments, before, strict=False)
        if option not in (text, previous) and not text.startswith(f"{option}=")
    ]
