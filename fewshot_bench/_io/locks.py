"""Wait for another process, and tell the person who waits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from fewshot_bench.progress import Progress


@contextmanager
def holding(lock_file: Path, why: str, progress: Progress) -> Iterator[None]:
    """Hold a lock; wait for another process as long as it lives.

    The file stays: to delete it would let two others hold "the" lock.

    Args:
        lock_file: in a folder that is there.
        why: what is shown while it waits.
        progress: that shows it.

    Raises:
        OSError: the file cannot be made.
        NotImplementedError: its file system knows no locks.
    """
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        with progress.step(why, 0):
            lock.acquire()
    try:
        yield
    finally:
        lock.release()
