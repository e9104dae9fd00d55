"""Locks between processes, and the owners of what processes leave on a disk."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

from fewshot_bench.progress import Progress


@contextmanager
def holding(lock_file: Path, why: str, progress: Progress) -> Iterator[None]:
    """Hold a lock, once every process that holds it has released it or ended.

    The lock file stays: if it were deleted, two processes could hold the lock.

    Args:
        lock_file: in an existing folder.
        why: shown while it waits.
        progress: that shows it.

    Raises:
        OSError: the file cannot be made.
        NotImplementedError: its file system has no locks.
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


_OWNER = re.compile(r"(?P<machine>[0-9a-f]+)-(?P<number>[1-9][0-9]{0,18})-(?P<began>[0-9]{1,20})")


def owner() -> str:
    """This process in one word: digest of its machine or container, its number, and when it began."""
    return _owner(os.getpid())  # cached by number, since a forked process is another owner


def is_owner(text: str) -> bool:
    """Whether a text is the `owner` of some process, on any machine."""
    return _OWNER.fullmatch(text) is not None


def is_gone(owner: str) -> bool:
    """Whether a process is known to have ended; False if it may live, or ran on another machine."""
    match = _OWNER.fullmatch(owner)
    if match is None or match["machine"] != _machine() or os.name != "posix":  # elsewhere os.kill may kill
        return False
    try:
        os.kill(int(match["number"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # it belongs to another user, or the number is impossible
        return False
    return _began(int(match["number"])) != match["began"]


@cache
def _owner(number: int) -> str:
    return f"{_machine()}-{number}-{_began(number)}"


@cache
def _machine() -> str:
    """Digest of the machine since its last start, and of the container, within which process numbers are unique."""
    facts = [platform.node()]
    for path in ("/proc/sys/kernel/random/boot_id", "/etc/machine-id"):
        with suppress(OSError, ValueError):
            facts.append(Path(path).read_text(encoding="ascii"))
    with suppress(OSError):
        facts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]


def _began(number: int) -> str:
    """When a process began, in ticks since the machine started; "0" if the system does not tell."""
    try:
        line = Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "0"
    state, *fields = line.rpartition(")")[2].split()
    return "gone" if state in "ZX" else fields[18]
