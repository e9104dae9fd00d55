"""Build a missing cache entry once, however many processes need it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from fewshot_bench._io.resuming import note_saved
from fewshot_bench.cache.entries import entry_lock, keep_within, size_limit
from fewshot_bench.progress import Progress

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
_warned: set[Path] = set()


def build_once(
    path: Path,
    what: str,
    *,
    read: Callable[[Path], T | None],
    build: Callable[[], T],
    write: Callable[[Path, T], None],
    progress: Progress,
) -> T:
    """The content of a cache entry; if missing, one process builds and stores it while the others wait.

    If that process is killed, one of the waiting processes builds the entry. A folder that is full or cannot be written
    to costs the entry and one line of warning, not the work.

    Args:
        path: of the entry, named by a digest of everything that decides its content.
        what: the entry in words.
        read: the content of a file; None if it is damaged or outdated.
        build: computes the content.
        write: writes it, atomically.
        progress: shown while another process is waited for.

    Raises:
        CacheError: the size limit of the cache cannot be read; raised before anything is built.
    """
    limit = size_limit()
    seen = _state(path)
    content = read_entry(path, read)
    if content is not None:
        return content
    with entry_lock(path, what, progress):
        if _state(path) != seen:  # another process has built it meanwhile
            content = read_entry(path, read)
        if content is not None:
            return content
        content = build()
        is_stored = _write(path, what, content, write)
    if is_stored and limit is not None:
        keep_within(limit, path)
    return content


def _state(path: Path) -> tuple[int, int] | None:
    with suppress(OSError):
        state = path.stat()
        return state.st_ino, state.st_mtime_ns
    return None


def read_entry(path: Path, read: Callable[[Path], T | None]) -> T | None:
    """The content of a cache entry; None if it is missing, or `read` gives None."""
    try:
        content = read(path) if path.is_file() else None
    except OSError:  # removed meanwhile, or a disk that no longer answers
        return None
    if content is not None:
        # Marks the time of the last use, which many disks do not record.
        with suppress(OSError):
            os.utime(path)
    return content


def _write(path: Path, what: str, content: T, write: Callable[[Path, T], None]) -> bool:
    try:
        write(path, content)
    except OSError as error:
        if path.parent not in _warned:
            _warned.add(path.parent)
            reason = error.strerror or error
            _LOG.warning("note: %s: not stored in %s (%s); computed again next time", what, path.parent, reason)
        return False
    note_saved()
    return True
