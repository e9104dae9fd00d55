"""The entries of the cache: built once however many processes need one, listed, and removed by pattern, age or size."""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from fewshot_bench._io.locations import cache_folder
from fewshot_bench._io.locks import holding
from fewshot_bench._io.resuming import note_saved
from fewshot_bench._io.storage import TEMPORARY_SUFFIX, is_abandoned
from fewshot_bench._io.tensors import DamagedFileError, read_metadata
from fewshot_bench.errors import CacheError
from fewshot_bench.progress import Progress

EMBEDDINGS, BASE_STAGES, OWN_IMAGES, DOWNLOADS = "embeddings", "checkpoints", "own-images", "downloads"
TRIALS, COMPILED, PROBES = "trials", "compiled", "probes"
"""Folders of the cache; nothing else is ever listed or removed."""
FOLDERS = (EMBEDDINGS, BASE_STAGES, OWN_IMAGES, DOWNLOADS, TRIALS, COMPILED, PROBES)
LEFTOVER = "leftover"


@dataclass(frozen=True)
class Entry:
    """An entry of the cache, which can be removed by itself.

    Attributes:
        path: a file, or a folder of files.
        kind: its folder in the cache; "leftover" for the unfinished file of a process that died.
        what: the entry in words.
        bytes: its size.
        last_used: when it was built or last read, in seconds since 1970.
        facts: other metadata, as plain data.
    """

    path: Path
    kind: str
    what: str
    bytes: int
    last_used: float
    facts: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, with the time of the last use as ISO 8601 in UTC."""
        used = datetime.fromtimestamp(self.last_used, timezone.utc).isoformat(timespec="seconds")
        return {
            "name": self.name,
            "kind": self.kind,
            "what": self.what,
            "bytes": self.bytes,
            "last_used": used,
            "facts": self.facts,
        }

    @property
    def name(self) -> str:
        """Path below the cache."""
        return f"{self.path.parent.name}/{self.path.name}"


def cache_entries() -> list[Entry]:
    """Everything in the cache, the least recently used first."""
    found = [
        entry
        for folder in FOLDERS
        for path in _paths(cache_folder() / folder)
        if (entry := _entry(folder, path)) is not None
    ]
    return sorted(found, key=lambda entry: (entry.last_used, entry.name))


def _paths(folder: Path) -> Iterator[Path]:
    try:
        yield from sorted(path for path in folder.iterdir() if path.suffix != ".lock")
    except OSError:
        return


def _entry(folder: str, path: Path) -> Entry | None:
    """None if another process has removed it meanwhile."""
    with suppress(OSError):
        if path.name.startswith("."):
            return Entry(path, LEFTOVER, f"unfinished file of {folder}", *_size_and_time(path), {})
        if path.is_dir():
            return Entry(path, folder, _words_of_folder(folder, path.name), *_size_and_time(path), {})
        facts = _facts(path)
        unknown = f"{folder} of another version, or damaged"
        what = facts.pop("what", "fastest computations on one machine" if folder == TRIALS else unknown)
        return Entry(path, folder, what, *_size_and_time(path), facts)
    return None


def _words_of_folder(kind: str, name: str) -> str:
    return f"own images {re.sub(r'-[0-9a-f]{16}$', '', name)}" if kind == OWN_IMAGES else f"{kind}: {name}"


def _size_and_time(path: Path) -> tuple[int, float]:
    states = [file.stat() for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
    last_used = max((state.st_mtime for state in states), default=path.stat().st_mtime)
    return sum(state.st_size for state in states), last_used


def _facts(path: Path) -> dict[str, Any]:
    try:
        return dict(read_metadata(path)) if path.suffix == ".safetensors" else {}
    except DamagedFileError:
        return {}


def target_of(leftover: Path) -> Path:
    """The entry that a leftover temporary file was meant for."""
    name = leftover.name.removeprefix(".").removesuffix(TEMPORARY_SUFFIX)
    return leftover.with_name(name.rpartition(".")[0])


SIZE_VARIABLE = "FEWSHOT_BENCH_CACHE_SIZE"

_BYTES = {"B": 1} | {
    f"{prefix}{kind}": base**power
    for kind, base in (("B", 1000), ("iB", 1024))
    for power, prefix in enumerate("KMGT", start=1)
}
_SECONDS = {"min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def parse_bytes(text: str, source: str) -> int:
    """A size in bytes: a number and one of B, KB, MB, GB, TB (powers of 1000), KiB, MiB, GiB, TiB (of 1024).

    Raises:
        CacheError: the text, from a source named in the message, is anything else.
    """
    return int(_parse(text, source, _BYTES, "10GB"))


def parse_age(text: str, source: str) -> float:
    """An age in seconds: a number and one of min, h, d, w.

    Raises:
        CacheError: the text, from a source named in the message, is anything else.
    """
    return _parse(text, source, _SECONDS, "30d")


def size_limit() -> int | None:
    """The size limit of the cache in bytes, from `$FEWSHOT_BENCH_CACHE_SIZE`; None without a limit.

    Raises:
        CacheError: the variable is not a size.
    """
    text = os.environ.get(SIZE_VARIABLE, "")
    return parse_bytes(text, SIZE_VARIABLE) if text else None


def _parse(text: str, source: str, units: Mapping[str, int], example: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([A-Za-z]+)", text.strip(), re.ASCII)
    value = float(found[1]) * units.get(found[2], 0) if found else 0.0
    if found is None or found[2] not in units or not isfinite(value):
        raise CacheError(f"{source} takes a number and a unit ({', '.join(units)}) such as {example}, not '{text}'.")
    return value


def lock_file(path: Path) -> Path:
    """The lock file of an entry; the system releases the lock of a process that dies."""
    return path.with_name(f".{path.name}.lock")


@contextmanager
def entry_lock(path: Path, what: str, progress: Progress) -> Iterator[None]:
    """Be the only process that builds an entry, after waiting for any other.

    Where no lock can be taken, because the folder is read-only or its file system has none, the block runs all the
    same: entries are written atomically and are equal, so a lock only saves work.

    Args:
        path: of the entry; its folder is created if missing.
        what: the entry in words.
        progress: shown while it waits.
    """
    with ExitStack() as held:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(holding(lock_file(path), f"waiting for another process: {what}", progress))
        except (OSError, NotImplementedError):
            pass
        yield


@contextmanager
def unused(path: Path) -> Iterator[bool]:
    """Hold all locks of an entry: a file, or a folder that may have locks inside.

    Yields:
        Whether no other process holds one of them.
    """
    with ExitStack() as held:
        is_unused = True
        try:
            for place in (lock_file(path), *path.glob(".*.lock")):
                held.enter_context(FileLock(place, timeout=0))
        except Timeout:
            is_unused = False
        except (OSError, NotImplementedError):
            pass
        yield is_unused


_BEING_WRITTEN = 60
"""Seconds after which a temporary file counts as abandoned, if neither its lock nor its name tells."""


@dataclass(frozen=True)
class Cleared:
    """The result of removing entries.

    Attributes:
        removed: the removed entries.
        left_alone: entries in use by another process, or that cannot be removed, each with the reason.
    """

    removed: list[Entry]
    left_alone: list[tuple[Entry, str]]


def to_be_removed(
    entries: Sequence[Entry], pattern: str = "", *, max_bytes: int | None = None, unused_for: float | None = None
) -> list[Entry]:
    """Choose entries to remove; each argument narrows the choice.

    Args:
        entries: the least recently used first.
        pattern: part of the words or of the name, perhaps with wildcards.
        max_bytes: remove only until the matching entries fit into so many bytes.
        unused_for: only entries that were not used for so many seconds.
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
    """Remove entries that no other process uses, and the locks of missing entries."""
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
    """Remove the least recently used embeddings until the cache fits into a size.

    Trained networks and the user's images count but stay: a network trained again on a GPU may differ, and its study
    would have to start again.

    Args:
        limit: in bytes.
        written: the newest entry, removed at once if it alone is too large.
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
    """Remove an entry; returns why it is still there, or nothing."""
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
    """Remove unheld locks of missing entries; a waiting process takes the next lock of that name."""
    for folder in FOLDERS:
        for path in (cache_folder() / folder).glob("*.lock"):
            entry = path.with_name(path.name.removeprefix(".").removesuffix(".lock"))
            if entry.exists() or entry.with_suffix(".safetensors").exists():
                continue
            with suppress(OSError, NotImplementedError), FileLock(path, timeout=0):  # a file system may have no locks
                path.unlink()


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
