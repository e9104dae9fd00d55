"""Remove from the cache: everything, what matches, or the least recently used until the rest fits."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from filelock import FileLock

from fewshot_bench.atomic import is_abandoned
from fewshot_bench.cache.entries import EMBEDDINGS, FOLDERS, LEFTOVER, Entry, cache_entries, target_of
from fewshot_bench.cache.locks import unused
from fewshot_bench.paths import cache_folder

_BEING_WRITTEN = 60
"""Seconds after which nobody is writing to a temporary file any more, where neither a lock nor its name tells."""


@dataclass(frozen=True)
class Cleared:
    """What has become of entries that were to be removed.

    Attributes:
        removed: those that are gone.
        left_alone: those that another process makes or writes, or that cannot be removed, each with the reason.
    """

    removed: list[Entry]
    left_alone: list[tuple[Entry, str]]


def to_be_removed(
    entries: Sequence[Entry], pattern: str = "", *, max_bytes: int | None = None, unused_for: float | None = None
) -> list[Entry]:
    """Which entries should go; each argument leaves fewer to choose from.

    Args:
        entries: the least recently used first.
        pattern: part of the words or of the name, or with wildcards; only these go.
        max_bytes: only until what matches fits into so many bytes.
        unused_for: only what was not used for so many seconds.
    """
    matching = [entry for entry in entries if _matches(entry, pattern)]
    total = sum(entry.bytes for entry in matching)
    oldest = time.time() - (unused_for or 0)
    chosen: list[Entry] = []
    for entry in sorted(matching, key=lambda entry: entry.kind != LEFTOVER):  # useless, so first
        if max_bytes is not None and total <= max_bytes and entry.kind != LEFTOVER:
            break
        if unused_for is None or entry.last_used <= oldest:
            chosen.append(entry)
            total -= entry.bytes
    return chosen


def clear_cache(entries: Sequence[Entry]) -> Cleared:
    """Remove entries, but none that another process makes or writes; then the locks of entries that are gone."""
    cleared = Cleared([], [])
    for entry in entries:
        reason = _remove(entry)
        if reason:
            cleared.left_alone.append((entry, reason))
        else:
            cleared.removed.append(entry)
    _remove_locks()
    return cleared


def keep_within(limit: int, written: Path) -> None:
    """Remove the least recently used embeddings until all fit; those that are too large by themselves are not kept.

    Networks of base stages and images of the user's count, but stay: a network that is trained again on a GPU may be
    another one, whose study would begin anew in the middle.

    Args:
        limit: bytes.
        written: the newest entry.
    """
    with suppress(OSError):
        if written.parent.name == EMBEDDINGS and written.stat().st_size > limit:
            written.unlink()
    entries = cache_entries()
    removable = [entry for entry in entries if entry.kind in (EMBEDDINGS, LEFTOVER)]
    others = sum(entry.bytes for entry in entries) - sum(entry.bytes for entry in removable)
    clear_cache(to_be_removed(removable, max_bytes=max(0, limit - others)))


def _matches(entry: Entry, pattern: str) -> bool:
    wanted = f"*{pattern.lower()}*"
    return any(fnmatchcase(text.lower(), wanted) for text in (entry.what, entry.name))


def _remove(entry: Entry) -> str:
    """Why an entry is still there; empty where it is gone."""
    is_leftover = entry.kind == LEFTOVER
    is_recent = time.time() - entry.last_used < _BEING_WRITTEN
    if is_leftover and is_recent and not is_abandoned(entry.path.name):
        return "perhaps being written"
    with unused(target_of(entry.path) if is_leftover else entry.path) as is_unused:
        if not is_unused:
            return "in use by another process"
        try:
            shutil.rmtree(entry.path) if entry.path.is_dir() else entry.path.unlink(missing_ok=True)
        except OSError as error:
            return error.strerror or str(error)
    return ""


def _remove_locks() -> None:
    """Remove locks that nobody holds of entries that are not there; who waits for one takes the next of its name."""
    for folder in FOLDERS:
        for path in (cache_folder() / folder).glob("*.lock"):
            entry = path.with_name(path.name.removeprefix(".").removesuffix(".lock"))
            if entry.exists() or entry.with_suffix(".safetensors").exists():
                continue
            with suppress(OSError, NotImplementedError), FileLock(path, timeout=0):  # file systems may know no locks
                path.unlink()
