"""Files of a folder on a disk or behind a URL: list, read and remove them, and write each whole or not at all.

A stranger may have made the folder, so only regular files are read and only folders are entered: no link is followed,
no pipe or device is opened, and no more is read than the size that the file had when it was opened.

Behind a URL every failure is a `LocationError`; on a disk it stays the OSError that it is. A missing file is a
FileNotFoundError in both.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from fewshot_bench._io.locations import Location
from fewshot_bench._io.locks import is_gone, is_owner, owner
from fewshot_bench.errors import FewshotBenchError, IrregularFileError, LocationError, OutcomeError

TEMPORARY_SUFFIX = ".tmp"
_TRIES = 4  # of reading a file that is replaced meanwhile
_LONGEST_MESSAGE = 300  # characters of a library's message
_LONGEST_SILENCE = 86_400.0  # seconds after which the unfinished file of another machine counts as abandoned
_FILES = (".parquet", ".json", ".lease")  # ends of the names of stored files
_NO_BUCKET = "The specified bucket does not exist"
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "r2", "memory"}
"""File systems of fsspec in which a file appears whole or not at all."""
_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError")
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


def check_writable(folder: Location) -> None:
    """See that a folder can be made or written to, without making it.

    Raises:
        OSError: a file is in the way, or the folder cannot be written to.
        LocationError: a URL cannot be reached.
    """
    if not isinstance(folder, Path):
        folders_in(folder)
        return
    folder = folder.absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(existing))
    if not os.access(existing, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(existing))


def files_under(folder: Location) -> list[str]:
    """The files below a folder, by their names relative to it with "/", in no order; none if there is no folder.

    The files of a folder are listed after those of its subfolders, so that files which are merged into one further up
    are never both missing. A link is listed and not followed, and so is a folder with the name of a file.

    Raises:
        IrregularFileError: the folder itself is a link; see `checked_folder`.
    """
    if isinstance(folder, Path):
        return list(_local_files(str(checked_folder(folder)), ""))
    with reaching(folder):
        return _remote_files(folder)


def folders_in(folder: Location) -> list[str]:
    """Names of the folders in a folder, and of what is neither file nor folder, sorted; none if there is no folder.

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
    """A folder within results, which is a folder or missing: no link is entered.

    `own_folder` resolves a link that the user names.

    Raises:
        IrregularFileError: it is a link, or not a folder.
    """
    with suppress(FileNotFoundError, NotADirectoryError):
        mode = os.lstat(folder).st_mode
        if not stat.S_ISDIR(mode):
            raise IrregularFileError(folder, _KINDS.get(stat.S_IFMT(mode), "something else"), "a folder")
    return folder


def own_folder(folder: Location) -> Location:
    """A folder that the user names, with a link resolved."""
    return folder.resolve() if isinstance(folder, Path) and folder.is_symlink() else folder


def is_file(location: Location) -> bool:
    """Whether there is a file, or on a disk anything of that name."""
    if isinstance(location, Path):
        return os.path.lexists(location)
    with reaching(location):
        return location.is_file()


def read_bytes(location: Location, largest: int | None = None) -> bytes:
    """The content of a regular file.

    Args:
        location: of the file; no link is followed.
        largest: the most bytes that it may have.

    Raises:
        FileNotFoundError: there is none.
        IrregularFileError: it is a link, a pipe, a device or a folder.
        OutcomeError: it is larger; the sentence does not name the file.
        OSError: it cannot be read; the error names the file.
    """
    if isinstance(location, Path):
        return _read_locally(location, largest)
    if largest is not None:
        _check_size(size_of(location), largest)
    with reaching(location):
        return bytes(location.fs.cat_file(location.path))


def read_named(path: Path, largest: int) -> bytes:
    """The content of a regular file that a user names, which may be a link.

    Args:
        path: of the file.
        largest: the most bytes that it may have.

    Raises:
        FileNotFoundError: there is none.
        IrregularFileError: it is a pipe, a device or a folder.
        OutcomeError: it is larger; the sentence does not name the file.
        OSError: it cannot be read.
    """
    return read_bytes(Path(os.path.realpath(path)), largest)


def read_all(locations: Sequence[Location], largest: int | None = None) -> Iterable[bytes]:
    """The contents of several files of one folder, in their order; behind a URL they are fetched in parallel.

    Args:
        locations: of the files.
        largest: the most bytes that each may have.

    Raises:
        FileNotFoundError: one of them is missing.
        OutcomeError: as in `read_bytes`.
    """
    if all(isinstance(location, Path) for location in locations):
        return (read_bytes(location, largest) for location in locations)
    for location in locations if largest is not None else ():
        _check_size(size_of(location), largest)
    first = locations[0]
    assert not isinstance(first, Path)
    paths = [location.path for location in locations if not isinstance(location, Path)]
    with reaching(first):
        found = first.fs.cat(paths, on_error="raise")
        return [bytes(found[path]) for path in paths] if isinstance(found, dict) else [bytes(found)]


def size_of(location: Location) -> int:
    """Bytes of a file; raises FileNotFoundError if there is none."""
    if isinstance(location, Path):
        return os.lstat(location).st_size
    with reaching(location):
        return int(location.fs.info(location.path)["size"])


def remove(location: Location) -> None:
    """Remove a file, if it is still there."""
    if isinstance(location, Path):
        if location.is_symlink() or not location.is_dir():
            location.unlink(missing_ok=True)
        return
    with reaching(location), suppress(FileNotFoundError):
        location.fs.rm_file(location.path)


@contextmanager
def reaching(location: Location) -> Iterator[None]:
    """Turn any error of a file system behind a URL into one sentence; errors of a disk are not changed.

    Raises:
        LocationError: the location cannot be reached, or its bucket is missing.
        FileNotFoundError: the file is missing.
    """
    try:
        yield
    except (FewshotBenchError, FileExistsError):
        raise
    except Exception as error:
        if isinstance(location, Path) or _is_only_absent(error):
            raise
        raise LocationError(f"{location} {_finding(error)} Stored results were not changed.") from error


def _is_only_absent(error: Exception) -> bool:
    return isinstance(error, FileNotFoundError) and not str(error).startswith(_NO_BUCKET)


def _finding(error: Exception) -> str:
    """The message of a library's exception, and what to do about it."""
    kind = type(error).__name__
    message = " ".join(str(error).split())[:_LONGEST_MESSAGE] or kind
    if kind in _NO_CREDENTIALS:
        return (
            f"needs credentials, and none were found ({message}). Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "AWS_PROFILE."
        )
    if isinstance(error, FileNotFoundError):
        return f"is not there ({message}). Make the bucket, or correct its name."
    if isinstance(error, PermissionError):
        return f"is closed to these credentials ({message}). Check them, and what they may do there."
    if isinstance(error, NotImplementedError):
        return f"cannot be written by fsspec, or not in this way ({message}). Use a folder, or an object store."
    return f"cannot be reached ({kind}: {message}). Check the network, the address and the credentials."


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """A regular file for reading, opened without following a link or waiting for the writer of a pipe.

    Raises:
        FileNotFoundError: it is missing.
        IrregularFileError: it is not a regular file.
    """
    _check_regular(path, os.lstat(path).st_mode)
    with os.fdopen(os.open(path, _READING), "rb") as file:
        _check_regular(path, os.fstat(file.fileno()).st_mode)  # it may have been replaced meanwhile
        yield file


def _check_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise IrregularFileError(path, _KINDS.get(stat.S_IFMT(mode), "something else"))


def _check_size(size: int, largest: int | None) -> None:
    if largest is not None and size > largest:
        raise OutcomeError(f"it should have at most {largest:,} bytes, not {size:,}")


def _read_locally(path: Path, largest: int | None) -> bytes:
    """The content of a file; it is opened again if another machine replaces it meanwhile, as on NFS."""
    for tries_left in reversed(range(_TRIES)):
        try:
            return _read_once(path, largest)
        except OSError as error:
            if error.errno == errno.ESTALE and tries_left:
                continue
            if error.errno is not None and error.filename is None:  # an error of an open file
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


def _remote_files(folder: Location) -> list[str]:
    assert not isinstance(folder, Path)
    root = folder.path.rstrip("/") + "/"
    return [path[len(root) :] for path in folder.fs.find(folder.path) if path.startswith(root)]


def write_atomically(location: Location, content: bytes) -> None:
    """Write beside the target, flush to the disk, then rename over it; in an object store, write the object.

    The folder itself is not flushed: a power failure may lose the newest file, which the next run makes again, but
    never leaves half of one under its final name.

    Args:
        location: the target; its folder is made if needed.
        content: all of it.

    Raises:
        OSError: the disk is full, read-only, gone, ...; the old file was not changed.
        LocationError: the same behind a URL.
    """
    if isinstance(location, Path):
        _remove_abandoned_beside(location)
    write_once(location, content)


def write_once(location: Location, content: bytes) -> None:
    """Write a file like `write_atomically`, without looking for unfinished files of the same name.

    Args:
        location: the target; its folder is made if needed.
        content: all of it.

    Raises:
        OSError: the disk is full, read-only, gone, ...
        LocationError: the same behind a URL.
    """
    if isinstance(location, Path):
        with _unfinished(location) as temporary, temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return
    with reaching(location):
        if location.protocol in _OBJECT_STORES:
            location.fs.pipe_file(location.path, content)
            return
        location.fs.makedirs(location.parent.path, exist_ok=True)
        unfinished = location.parent / temporary_name(location.name)
        location.fs.pipe_file(unfinished.path, content)
        location.fs.mv(unfinished.path, location.path)


def create_exclusively(location: Location, content: bytes) -> bool:
    """Make a small file unless it exists; if several processes try, exactly one succeeds.

    Args:
        location: the target; its folder is made if needed.
        content: all of it, small enough to be written at once.

    Returns:
        Whether this call made it.

    Raises:
        OSError: the disk cannot be written to.
        LocationError: the same behind a URL, or its file system cannot promise exclusiveness.
    """
    try:
        if isinstance(location, Path):
            _create_locally(location, content)
        else:
            _create_remotely(location, content)
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
            mode = os.stat(file.fileno()).st_mode  # the user's; libraries may set another
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(mode)


def temporary_name(name: str) -> str:
    """A name for the unfinished content of a file, which tells its owner."""
    return f".{name}.{owner()}-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"


def is_abandoned(name: str) -> bool:
    """Whether a file of this name is the unfinished content of a process that is known to have ended."""
    return is_unfinished(name) and is_gone(_writer(name))


def is_unfinished(name: str) -> bool:
    """Whether a file of this name is the unfinished content of any process, which may still write it."""
    return name.startswith(".") and name.endswith(TEMPORARY_SUFFIX) and is_owner(_writer(name))


def remove_abandoned(folder: Location) -> None:
    """Remove the unfinished files of dead processes in a folder and its subfolders.

    Processes of this machine are known to have ended; files of another machine have not changed for a day.
    """
    for name in files_under(folder):
        last = name.rpartition("/")[2]
        if is_abandoned(last) or (is_unfinished(last) and is_unchanged_for(folder / name, _LONGEST_SILENCE)):
            remove(folder / name)


def is_unchanged_for(location: Location, seconds: float) -> bool:
    """Whether a file has not changed for a while, by the clock of its disk; False if unknown, as behind a URL.

    A file that is made beside it tells the time: on a network disk that of the server, so no machine's clock counts.
    """
    if not isinstance(location, Path):
        return False
    # Opening the file again avoids cached answers, as of NFS.
    with suppress(OSError, IrregularFileError), open_regular(location) as file:
        changed = os.fstat(file.fileno()).st_mtime
        return _now_on_the_disk(location.parent) - changed >= seconds
    return False


def _writer(name: str) -> str:
    """The owner in the name of an unfinished file."""
    return name.removesuffix(TEMPORARY_SUFFIX).rpartition(".")[2].rpartition("-")[0]


def _now_on_the_disk(folder: Path) -> float:
    """Seconds since 1970 by the clock of the disk."""
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
    """Remove the unfinished files of dead processes for one target."""
    with suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            if entry.name.startswith(f".{path.name}.") and is_abandoned(entry.name):
                os.unlink(entry.path)


@contextmanager
def _unfinished(path: Path) -> Iterator[Path]:
    """Name a temporary file, which becomes the target once the block has written and flushed it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(temporary_name(path.name))
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is not None and error.filename is None:  # such as a full disk
            error.filename = str(path)
        raise
    finally:
        with suppress(OSError):  # of a lost disk; the first error counts
            temporary.unlink(missing_ok=True)


def _create_locally(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():  # which no process would ever remove
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    file = path.open("xb")
    try:
        with file:
            file.write(content)
    except BaseException:  # a full disk still has room for the name
        path.unlink(missing_ok=True)
        raise


def _create_remotely(location: Location, content: bytes) -> None:
    assert not isinstance(location, Path)
    if location.protocol not in _OBJECT_STORES:
        raise LocationError(
            f"{location}: fsspec's file system {location.protocol} cannot make a file only where there is none, which "
            "processes need to share a study. Use a folder, or an object store such as s3://."
        )
    with reaching(location):
        location.fs.pipe_file(location.path, content, mode="create")  # a conditional PUT
