"""Wait for another process, and tell the person who waits.

Which process has left something on a disk, and whether it is still there.
"""

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


_OWNER = re.compile(r"(?P<place>[0-9a-f]+)-(?P<number>[1-9][0-9]{0,18})-(?P<began>[0-9]{1,20})")


def owner() -> str:
    """This process in one word: digest of its machine, its number, and when it began.

    The digest tells processes of one machine, or of one container, from those of another without naming either.
    """
    return _owner(os.getpid())  # not cached without the number: a forked process is another one


def is_owner(text: str) -> bool:
    """Whether a text is what `owner` says in some process, on whichever machine."""
    return _OWNER.fullmatch(text) is not None


def is_gone(owner: str) -> bool:
    """Whether a process is known to have ended; False where it may live on, or on another machine.

    Args:
        owner: what `owner` said in that process.
    """
    told = _OWNER.fullmatch(owner)
    if told is None or told["place"] != _place() or os.name != "posix":  # elsewhere os.kill does more than to ask
        return False
    try:
        os.kill(int(told["number"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # it belongs to somebody else, or is no number of a process
        return False
    return _began(int(told["number"])) != told["began"]


@cache
def _owner(number: int) -> str:
    return f"{_place()}-{number}-{_began(number)}"


@cache
def _place() -> str:
    """Digest of the machine since it was started, and of the container: process numbers are unique within these."""
    told = [platform.node()]
    for path in ("/proc/sys/kernel/random/boot_id", "/etc/machine-id"):
        try:
            told.append(Path(path).read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
    with suppress(OSError):
        told.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:12]


def _began(number: int) -> str:
    """When a process began, in ticks since the machine did; "0" where the system does not tell."""
    try:
        line = Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "0"
    state, *fields = line.rpartition(")")[2].split()
    return "gone" if state in "ZX" else fields[18]
