"""Make what is missing in the cache once, however many processes want it; go on where nothing can be kept."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from fewshot_bench._io.resuming import note_saved
from fewshot_bench.cache.entries import alone, keep_within, size_limit
from fewshot_bench.progress import Progress

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
_told: set[Path] = set()


def made_once(
    path: Path,
    what: str,
    *,
    read: Callable[[Path], T | None],
    make: Callable[[], T],
    write: Callable[[Path, T], None],
    progress: Progress,
) -> T:
    """What an entry of the cache holds; made and kept where it is missing, by one process while the others wait.

    A process that is killed meanwhile leaves the work to one of those who wait. A folder that cannot be written to, or
    is full, costs the entry and one line of warning, not the work.

    Args:
        path: of the entry, whose name is a digest of everything that decides its content.
        what: it is, in words.
        read: what a file holds; None where it is damaged, or is no longer what it should be.
        make: computes it.
        write: writes it, whole or not at all.
        progress: shown that another process is waited for.

    Raises:
        CacheError: the bound of the cache cannot be read; said before anything is made.
    """
    limit = size_limit()
    seen = _state(path)
    found = kept(path, read)
    if found is not None:
        return found
    with alone(path, what, progress):
        if _state(path) != seen:  # another process has made it meanwhile
            found = kept(path, read)
        if found is not None:
            return found
        made = make()
        is_kept = _write(path, what, made, write)
    if is_kept and limit is not None:
        keep_within(limit, path)
    return made


def _state(path: Path) -> tuple[int, int] | None:
    with suppress(OSError):
        state = path.stat()
        return state.st_ino, state.st_mtime_ns
    return None


def kept(path: Path, read: Callable[[Path], T | None]) -> T | None:
    """What an entry of the cache holds; None where it is missing, or `read` does not want it.

    Args:
        path: of the entry.
        read: what a file holds.
    """
    try:
        found = read(path) if path.is_file() else None
    except OSError:  # removed meanwhile, or a disk that no longer answers
        return None
    if found is not None:
        # The time of the last use: disks are often mounted so that they do not record when a file is read.
        with suppress(OSError):
            os.utime(path)
    return found


def _write(path: Path, what: str, made: T, write: Callable[[Path, T], None]) -> bool:
    try:
        write(path, made)
    except OSError as error:
        if path.parent not in _told:
            _told.add(path.parent)
            reason = error.strerror or error
            _LOG.warning("note: %s: not kept in %s (%s); made again next time", what, path.parent, reason)
        return False
    note_saved()
    return True
