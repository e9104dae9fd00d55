"""A folder of results that nobody has: for a study that begins anew beside another one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fewshot_bench.atomic import create_exclusively
from fewshot_bench.outcomes.study_record import FOLDER
from fewshot_bench.paths import Place
from fewshot_bench.processes import owner
from fewshot_bench.stored_files import reaching, remove

_CLAIM = "fresh"
"""A file beside the records of studies, behind a URL, where an empty folder cannot be made."""


def free_folder(results: Place) -> Place:
    """The first folder beside one that does not exist yet: itself, results-2, results-3, and so on."""
    return next(folder for folder in _folders(results) if not _exists(folder))


@contextmanager
def fresh_folder(results: Place) -> Iterator[Place]:
    """The same, made for this process alone, however many ask for one at that moment.

    In the end it is removed if it is as empty as it was made.

    Args:
        results: the folder to begin anew beside.

    Raises:
        OSError: it cannot be made.
        PlaceError: the same behind a URL, or nobody can have a folder alone there.
    """
    made = next(folder for folder in _folders(results) if _is_made(folder))
    before = _state(made) if isinstance(made, Path) else None
    try:
        yield made
    finally:
        with suppress(OSError):  # what went wrong first is what counts
            if not isinstance(made, Path):
                remove(made / FOLDER / _CLAIM)  # what was stored by now keeps others off
            elif _state(made) == before:
                made.rmdir()


def _folders(results: Place) -> Iterator[Place]:
    yield results
    number = 1
    while True:
        number += 1
        yield results.with_name(f"{results.name}-{number}")


def _exists(folder: Place) -> bool:
    with reaching(folder):
        return folder.exists()


def _is_made(folder: Place) -> bool:
    """Whether this process has made a folder; False where it was there."""
    if not isinstance(folder, Path):
        content = json.dumps({"owner": owner()}).encode()
        return not _exists(folder) and create_exclusively(folder / FOLDER / _CLAIM, content)
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return False
    return True


def _state(folder: Path) -> tuple[int, int]:
    """What changes as soon as anything is made in a folder, or another takes its place."""
    found = folder.stat()
    return found.st_ino, found.st_mtime_ns
