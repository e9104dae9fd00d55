"""Files of a folder on a disk or behind a URL: list, read and remove them.

A stranger may have made the folder, so only regular files are read and only folders are entered: no link is followed,
nothing waits for a pipe or reads a device, and no more is read than the size that the file had when it was opened.

What goes wrong behind a URL is one `PlaceError`; what goes wrong on a disk stays the OSError that it is. A file that is
not there is a FileNotFoundError in both.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from fewshot_bench.errors import FewshotBenchError, IrregularFileError, OutcomeError, PlaceError
from fewshot_bench.paths import Place

_TRIES = 4  # of reading a file that is replaced meanwhile
_LONGEST = 300  # characters of somebody else's message
_FILES = (".parquet", ".json", ".lease")  # ends of the names of stored files
_NO_BUCKET = "The specified bucket does not exist"


def check_writable(folder: Place) -> None:
    """See that a folder can be made or written to; makes nothing.

    Raises:
        OSError: a file is in the way, or the folder cannot be written to.
        PlaceError: a URL cannot be reached.
    """
    if not isinstance(folder, Path):
        folders_in(folder)
        return
    folder = folder.absolute()
    there = next(place for place in (folder, *folder.parents) if place.exists())
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
    if not os.access(there, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(there))


def files_under(folder: Place) -> list[str]:
    """The files below a folder, by their names relative to it with "/", in no order; none where there is no folder.

    The files of a folder are listed after those of the folders in it. Who moves several into one file further up, and
    removes them afterwards, is never seen with neither. A link is listed and not followed, and so is a folder that is
    called as a file is, which reading it will name.

    Raises:
        IrregularFileError: the folder itself is a link; see `checked_folder`.
    """
    if isinstance(folder, Path):
        return list(_local_files(str(checked_folder(folder)), ""))
    with reaching(folder):
        return _remote_files(folder)


def folders_in(folder: Place) -> list[str]:
    """Names of the folders in a folder, and of what is neither file nor folder, sorted; none where it is not there.

    Raises:
        IrregularFileError: the folder itself is a link; see `checked_folder`.
    """
    if isinstance(folder, Path):
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(checked_folder(folder)) as entries:
            return sorted(entry.name for entry in entries if not entry.is_file(follow_symlinks=False))
        return []
    with reaching(folder):
        try:
            entries = folder.fs.ls(folder.path, detail=True)
        except FileNotFoundError as error:
            if _is_only_absent(error):
                return []
            raise
        return sorted(PurePosixPath(entry["name"]).name for entry in entries if entry["type"] == "directory")


def checked_folder(folder: Path) -> Path:
    """A folder within somebody's results, if it is one or not there: what a link leads to is not entered.

    A link that a user names is resolved by `own_folder` first.

    Raises:
        IrregularFileError: it is a link, or no folder.
    """
    with suppress(FileNotFoundError, NotADirectoryError):
        mode = os.lstat(folder).st_mode
        if not stat.S_ISDIR(mode):
            raise IrregularFileError(folder, _KINDS.get(stat.S_IFMT(mode), "something else"), "a folder")
    return folder


def own_folder(folder: Place) -> Place:
    """A folder that the user names, which may be a link, as it is on the disk."""
    return folder.resolve() if isinstance(folder, Path) and folder.is_symlink() else folder


def is_file(place: Place) -> bool:
    """Whether there is a file, or something else in its place, which reading it will name."""
    if isinstance(place, Path):
        return os.path.lexists(place)
    with reaching(place):
        return place.is_file()


def read_bytes(place: Place, largest: int | None = None) -> bytes:
    """All of a regular file.

    Args:
        place: of the file; no link is followed.
        largest: how many bytes it may have.

    Raises:
        FileNotFoundError: there is none.
        IrregularFileError: it is a link, a pipe, a device or a folder.
        OutcomeError: it is larger; the sentence does not name the file.
        OSError: it cannot be read; which one is said.
    """
    if isinstance(place, Path):
        return _read_locally(place, largest)
    if largest is not None:
        _check_size(size_of(place), largest)
    with reaching(place):
        return bytes(place.fs.cat_file(place.path))


def read_named(path: Path, largest: int) -> bytes:
    """All of a regular file that a user names, by a link too; anything else would be waited for, or never end.

    Args:
        path: of the file.
        largest: how many bytes it may have.

    Raises:
        FileNotFoundError: there is none.
        IrregularFileError: it is a pipe, a device or a folder.
        OutcomeError: it is larger; the sentence does not name the file.
        OSError: it cannot be read.
    """
    return read_bytes(Path(os.path.realpath(path)), largest)


def read_all(places: Sequence[Place], largest: int | None = None) -> Iterable[bytes]:
    """All of several files of one folder, in their order; those behind a URL are fetched at the same time.

    Args:
        places: of the files.
        largest: how many bytes each may have.

    Raises:
        FileNotFoundError: one of them is not there.
        OutcomeError: as of `read_bytes`.
    """
    if all(isinstance(place, Path) for place in places):
        return (read_bytes(place, largest) for place in places)
    for place in places if largest is not None else ():
        _check_size(size_of(place), largest)
    first = places[0]
    assert not isinstance(first, Path)
    paths = [place.path for place in places if not isinstance(place, Path)]
    with reaching(first):
        found = first.fs.cat(paths, on_error="raise")
        return [bytes(found[path]) for path in paths] if isinstance(found, dict) else [bytes(found)]


def size_of(place: Place) -> int:
    """Bytes of a file.

    Raises:
        FileNotFoundError: there is none.
    """
    if isinstance(place, Path):
        return os.lstat(place).st_size
    with reaching(place):
        return int(place.fs.info(place.path)["size"])


def remove(place: Place) -> None:
    """Remove a file, if it is still there."""
    if isinstance(place, Path):
        if place.is_symlink() or not place.is_dir():
            place.unlink(missing_ok=True)
        return
    with reaching(place), suppress(FileNotFoundError):
        place.fs.rm_file(place.path)


@contextmanager
def reaching(place: Place) -> Iterator[None]:
    """Whatever a file system behind a URL raises, as one sentence; a disk's errors are left as they are.

    Raises:
        PlaceError: the place cannot be reached.
        FileNotFoundError: the file is not there; of what else is not there, such as a bucket, it is a PlaceError.
    """
    try:
        yield
    except (FewshotBenchError, FileExistsError):
        raise
    except Exception as error:
        if isinstance(place, Path) or _is_only_absent(error):
            raise
        raise PlaceError(f"{place} {_finding(error)} What is stored already is as it was.") from error


def _is_only_absent(error: Exception) -> bool:
    return isinstance(error, FileNotFoundError) and not str(error).startswith(_NO_BUCKET)


def _finding(error: Exception) -> str:
    """What somebody else's exception says, and what to do about it."""
    told = " ".join(str(error).split())[:_LONGEST] or type(error).__name__
    kind = type(error).__name__
    if kind in ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError"):
        return (
            f"needs credentials, and none were found ({told}). Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "AWS_PROFILE."
        )
    if isinstance(error, FileNotFoundError):
        return f"is not there ({told}). Make the bucket, or correct its name."
    if isinstance(error, PermissionError):
        return f"is closed to these credentials ({told}). Check them, and what they may do there."
    if isinstance(error, NotImplementedError):
        return f"cannot be written by fsspec, or not in this way ({told or kind}). Use a folder, or an object store."
    return f"cannot be reached ({kind}: {told}). Check the network, the address and the credentials."


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """A regular file for reading, opened without following a link and without waiting for whoever writes to a pipe.

    Raises:
        FileNotFoundError: there is none.
        IrregularFileError: it is something else.
    """
    _check_regular(path, os.lstat(path).st_mode)
    with os.fdopen(os.open(path, _READING), "rb") as file:
        _check_regular(path, os.fstat(file.fileno()).st_mode)  # it may have been replaced meanwhile
        yield file


_READING = (  # some systems lack some of them
    os.O_RDONLY
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_BINARY", 0)
)
_KINDS = {
    stat.S_IFREG: "a file",
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def _check_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise IrregularFileError(path, _KINDS.get(stat.S_IFMT(mode), "something else"))


def _check_size(size: int, largest: int | None) -> None:
    if largest is not None and size > largest:
        raise OutcomeError(f"it should have at most {largest:,} bytes, not {size:,}")


def _read_locally(path: Path, largest: int | None) -> bytes:
    """All of a file, opened anew where another machine removed or replaced it between opening and reading, as on NFS.

    Raises:
        FileNotFoundError: there is none, or none any more.
        OutcomeError: it is no regular file, or larger.
        OSError: it cannot be read; which one is said.
    """
    for tries_left in reversed(range(_TRIES)):
        try:
            return _read_once(path, largest)
        except OSError as error:
            if error.errno == errno.ESTALE and tries_left:
                continue
            if error.errno is not None and error.filename is None:  # as of what was open already
                error.filename = str(path)
            raise
    raise AssertionError("the last try returns or raises")


def _read_once(path: Path, largest: int | None) -> bytes:
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        _check_size(size, largest)
        return file.read(size)  # and no more, if it grows meanwhile


def _local_files(folder: str, prefix: str) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            below = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        for name in below:
            if name.endswith(_FILES):
                yield prefix + name
            yield from _local_files(os.path.join(folder, name), f"{prefix}{name}/")
        with os.scandir(folder) as entries:
            yield from [prefix + entry.name for entry in entries if not entry.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):  # removed meanwhile, or never there
        return


def _remote_files(folder: Place) -> list[str]:
    assert not isinstance(folder, Path)
    root = folder.path.rstrip("/") + "/"
    return [path[len(root) :] for path in folder.fs.find(folder.path) if path.startswith(root)]
