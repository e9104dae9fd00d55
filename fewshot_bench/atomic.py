"""Write a file whole or not at all, on a disk or behind a URL."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fewshot_bench.errors import IrregularFileError, PlaceError
from fewshot_bench.paths import Place
from fewshot_bench.processes import is_gone, is_owner, owner
from fewshot_bench.stored_files import files_under, open_regular, reaching, remove

TEMPORARY_SUFFIX = ".tmp"
_LONGEST_SILENCE = 86_400.0
"""Seconds after which nobody is taken to write at unfinished content, whichever machine began it."""
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "r2", "memory"}
"""File systems of fsspec in which a file appears whole or not at all."""


def write_atomically(place: Place, content: bytes) -> None:
    """Write beside the target, flush to the disk, then rename over it; in an object store, one object at once.

    The folder itself is not flushed: a power failure may then lose the newest file, which the next run makes again,
    but never leaves half of one under its final name.

    Args:
        place: the target; its folder is made if needed.
        content: all of it.

    Raises:
        OSError: the disk is full, read-only, gone, ...; what was there before is as it was.
        PlaceError: the same behind a URL.
    """
    if isinstance(place, Path):
        _remove_abandoned_beside(place)
    write_once(place, content)


def write_once(place: Place, content: bytes) -> None:
    """The same of a file whose name comes with its content: nobody has left an unfinished one, so none is looked for.

    Args:
        place: the target; its folder is made if needed.
        content: all of it.

    Raises:
        OSError: the disk is full, read-only, gone, ...
        PlaceError: the same behind a URL.
    """
    if isinstance(place, Path):
        with _unfinished(place) as temporary, temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return
    with reaching(place):
        if _is_object_store(place):
            place.fs.pipe_file(place.path, content)
            return
        place.fs.makedirs(place.parent.path, exist_ok=True)
        unfinished = place.parent / temporary_name(place.name)
        place.fs.pipe_file(unfinished.path, content)
        place.fs.mv(unfinished.path, place.path)


def create_exclusively(place: Place, content: bytes) -> bool:
    """Make a small file unless there is one of that name; of several processes that try, one succeeds.

    Args:
        place: the target; its folder is made if needed.
        content: all of it, small enough to be written at once.

    Returns:
        Whether this call has made it.

    Raises:
        OSError: the disk cannot be written to.
        PlaceError: the same behind a URL, or that file system cannot promise it.
    """
    try:
        if isinstance(place, Path):
            _create_locally(place, content)
        else:
            _create_remotely(place, content)
    except FileExistsError:
        return False
    return True


@contextmanager
def whole_or_not(path: Path) -> Iterator[Path]:
    """Name a temporary file for a library to write; flush it to the disk and rename it when the block ends well.

    Args:
        path: the target on a local disk; its folder is made if needed.
    """
    _remove_abandoned_beside(path)
    with _unfinished(path) as temporary:
        with temporary.open("xb") as file:
            mode = os.stat(file.fileno()).st_mode  # as the user wishes; libraries may have another opinion
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(mode)


def temporary_name(name: str) -> str:
    """A name for the unfinished content of a file, which says whose it is."""
    return f".{name}.{owner()}-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"


def is_abandoned(name: str) -> bool:
    """Whether a file is unfinished content of a process that is known to have ended.

    Args:
        name: of the file.
    """
    return is_unfinished(name) and is_gone(_writer(name))


def is_unfinished(name: str) -> bool:
    """Whether a file is unfinished content of some process, which may be at it still.

    Args:
        name: of the file.
    """
    return name.startswith(".") and name.endswith(TEMPORARY_SUFFIX) and is_owner(_writer(name))


def remove_abandoned(folder: Place) -> None:
    """Remove, in a folder and those below it, what processes have left unfinished.

    Of this machine's they are known to have ended; what those of another have begun has not changed for a day.
    """
    for name in files_under(folder):
        last = name.rpartition("/")[2]
        if is_abandoned(last) or (is_unfinished(last) and is_unchanged_for(folder / name, _LONGEST_SILENCE)):
            remove(folder / name)


def is_unchanged_for(place: Place, seconds: float) -> bool:
    """Whether a file has not changed for so long, by the clock of the disk on which it lies.

    A file that is made beside it says what time that is: on a disk of the network it is the server's, and no machine's
    time of day counts.

    Args:
        place: of the file.
        seconds: how long.

    Returns:
        False also where it cannot be told, as behind a URL.
    """
    if not isinstance(place, Path):
        return False
    # What is opened anew is not answered from memory, as on NFS.
    with suppress(OSError, IrregularFileError), open_regular(place) as file:
        changed = os.fstat(file.fileno()).st_mtime
        return _now_on_the_disk(place.parent) - changed >= seconds
    return False


def _writer(name: str) -> str:
    """The owner that the name of an unfinished file says."""
    return name.removesuffix(TEMPORARY_SUFFIX).rpartition(".")[2].rpartition("-")[0]


def _now_on_the_disk(folder: Path) -> float:
    """Seconds since 1970 by the clock that dates the files of a folder."""
    probe = folder / temporary_name("now")
    try:
        with probe.open("xb") as file:
            file.write(b".")
            file.flush()
            os.fsync(file.fileno())
            return os.fstat(file.fileno()).st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _remove_abandoned_beside(path: Path) -> None:
    """The same of one file: whoever writes it cleans up after those who could not."""
    with suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            if entry.name.startswith(f".{path.name}.") and is_abandoned(entry.name):
                os.unlink(entry.path)


@contextmanager
def _unfinished(path: Path) -> Iterator[Path]:
    """Name a temporary file, which becomes the target when the block has written and flushed it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(temporary_name(path.name))
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is not None and error.filename is None:  # as of a disk that is full
            error.filename = str(path)
        raise
    finally:
        with suppress(OSError):  # of a disk that is gone; what went wrong first is what counts
            temporary.unlink(missing_ok=True)


def _create_locally(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():  # nobody's file, so nobody would ever give it up
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    file = path.open("xb")
    try:
        with file:
            file.write(content)
    except BaseException:  # a full disk has room for a name
        path.unlink(missing_ok=True)
        raise


def _create_remotely(place: Place, content: bytes) -> None:
    assert not isinstance(place, Path)
    if not _is_object_store(place):
        raise PlaceError(
            f"{place}: fsspec's file system {place.protocol} cannot make a file only where there is none, which "
            "processes need to share a study. Use a folder, or an object store such as s3://."
        )
    with reaching(place):
        place.fs.pipe_file(place.path, content, mode="create")  # a conditional PUT


def _is_object_store(place: Place) -> bool:
    return not isinstance(place, Path) and place.protocol in _OBJECT_STORES
