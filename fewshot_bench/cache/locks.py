"""One process at a time at one entry of the cache: to make it, or to remove it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from fewshot_bench.progress import Progress
from fewshot_bench.waiting import holding


def lock_file(path: Path) -> Path:
    """The lock of an entry. The system takes it back from a process that dies, however that comes about."""
    return path.with_name(f".{path.name}.lock")


@contextmanager
def alone(path: Path, what: str, progress: Progress) -> Iterator[None]:
    """Be the only process that makes an entry; wait for another as long as it lives.

    Where no lock is to be had, because the folder cannot be written to or its file system knows none, the block runs
    all the same: entries are written whole and by several processes alike, so a lock saves work, nothing more.

    Args:
        path: of the entry; its folder is made if need be.
        what: it is, for the person who waits.
        progress: shown that it waits.
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
    """Hold all locks of an entry, unless another process holds one.

    Args:
        path: a file, or a folder that may have locks inside.

    Yields:
        Whether no other process holds one; where there are no locks at all, none does.
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
