"""Write a file whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY_SUFFIX = ".tmp"


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside the target, flush to the disk, then rename over it.

    The folder itself is not flushed: a power failure may then lose the newest file, which the next run makes again,
    but never leaves half of one under its final name.

    Args:
        path: the target; its folder is made if needed.
        content: all of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def create_exclusively(path: Path, content: bytes) -> bool:
    """Make a small file unless there is one of that name; of several processes that try, one succeeds.

    Args:
        path: the target; its folder is made if needed.
        content: all of it, small enough to be written at once.

    Returns:
        Whether this call has made it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("xb") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


@contextmanager
def whole_or_not(path: Path) -> Iterator[Path]:
    """Name a temporary file for a library to write; flush it to the disk and rename it when the block ends well.

    Args:
        path: the target on a local disk; its folder is made if needed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        with temporary.open("xb") as file:
            mode = os.stat(file.fileno()).st_mode  # as the user wishes; libraries may have another opinion
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(mode)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
