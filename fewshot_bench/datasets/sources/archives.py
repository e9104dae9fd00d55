"""Zips and tars, also tars inside tars, read without unpacking; an index of their members admits nothing dangerous."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import re
import stat
import struct
import tarfile
import tempfile
import threading
import unicodedata
import zipfile
import zlib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Generic, NoReturn, TypeVar, cast

from fewshot_bench._io.locations import datasets_folder
from fewshot_bench.datasets.sources.tree import FileTree, clutter_in
from fewshot_bench.datasets.store import check_disk_space
from fewshot_bench.errors import DatasetError
from fewshot_bench.units import bytes_text

Member = TypeVar("Member")
_MOST_MEMBERS = 20_000_000
_LONGEST_NAME = 4096
_MOST_FOLDERS = 64  # around a member
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_COPIED_AT_ONCE = 1 << 20
# Deflate shrinks at most 1,032 times. Images and arrays of pixels shrink little; only bombs and blank pages come near.
_LARGEST_RATIO = 200
_FIRST_BYTES_OF_TAR = 1 << 24  # allowed whatever the ratio
_FIRST_BYTES_OF_ZIP = 1 << 20
_COMPRESSIONS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
_LONGEST_TAR_HEADER = 1 << 16  # extended ones hold a name and a few attributes
# Python unpacks a block of bzip2 or LZMA whole, however much comes out of it.
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_DAMAGED_TAR = (
    tarfile.TarError, zlib.error, lzma.LZMAError, struct.error, EOFError, ValueError, LookupError, OverflowError,
    MemoryError, RecursionError, OSError,
)  # fmt: skip
_DAMAGED_ZIP = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, OverflowError, NotImplementedError,
    RuntimeError, OSError,
)  # fmt: skip


class ArchiveTree(FileTree, Generic[Member]):
    """An archive whose members were all checked before the first was read.

    Args:
        path: for messages.
        members: name of every entry as the archive has it, and the member; None for a folder.
    """

    def __init__(self, path: Path, members: Iterable[tuple[str, Member | None]]) -> None:
        super().__init__()
        self.path = path
        self._members: dict[str, Member] = {}
        self._contents: dict[str, tuple[list[str], list[str]]] = {"": ([], [])}
        self._spellings: dict[str, str] = {}
        for given, member in members:
            if member is None and given.strip("/") in ("", "."):
                continue
            name = safe_member_name(given, path)
            if member is None:
                continue
            if name in self._members:
                raise DatasetError(
                    f"{path} holds two members called {name!r}; it is unclear which one counts. It is not read."
                )
            self._check_spelling(name)
            self._members[name] = member
            if len(self._members) > _MOST_MEMBERS:
                raise DatasetError(f"{path} has more than {_MOST_MEMBERS:,} members. It is not read.")
            if clutter := clutter_in(name):
                self.clutter |= dict([clutter])
            else:
                self._index(name)
        self._spellings.clear()
        for folders, files in self._contents.values():
            folders.sort()
            files.sort()

    def _check_spelling(self, name: str) -> None:
        other = self._spellings.setdefault(_spelling(name), name)
        if other != name:
            raise DatasetError(
                f"{self.path} holds {other!r} and {name!r}, which are one file on many systems. It is not read."
            )

    def _index(self, name: str) -> None:
        folder, _, file = name.rpartition("/")
        if name in self._contents:
            raise DatasetError(f"{self.path} holds {name!r} as a file and as a folder. It is not read.")
        self._folder(folder)[1].append(file)

    def _folder(self, folder: str) -> tuple[list[str], list[str]]:
        if folder not in self._contents:
            if folder in self._members:
                raise DatasetError(f"{self.path} holds {folder!r} as a file and as a folder. It is not read.")
            self._check_spelling(folder)
            parent, _, name = folder.rpartition("/")
            self._folder(parent)[0].append(name)
            self._contents[folder] = ([], [])
        return self._contents[folder]

    def folders(self, folder: str = "") -> list[str]:
        """Names of the folders in a folder, sorted."""
        return self._contents.get(folder, ([], []))[0]

    def files(self, folder: str = "") -> list[str]:
        """Names of the files in a folder, sorted."""
        return self._contents.get(folder, ([], []))[1]

    def _member(self, file: str) -> Member:
        if file not in self._members:
            raise DatasetError(f"{self.path} has no member {file!r}.")
        return self._members[file]

    @abstractmethod
    def _open(self, file: str) -> IO[bytes]:
        """A stream of a member's bytes."""

    def local(self, file: str) -> IO[bytes]:
        """The member in an anonymous file."""
        copy = self.closing.enter_context(anonymous_file(self.size(file), file))
        with self._open(file) as stream:
            while block := stream.read(_COPIED_AT_ONCE):
                copy.write(block)
        copy.flush()
        copy.seek(0)
        return copy


def anonymous_file(size: int, what: str) -> IO[bytes]:
    """An unnamed file on the disk of the datasets, if there is space for it."""
    folder = datasets_folder()
    folder.mkdir(parents=True, exist_ok=True)
    check_disk_space(folder, size, f"the contents of {what}")
    return tempfile.TemporaryFile(dir=folder)


def safe_member_name(name: str, archive: Path) -> str:
    """A member's name in plain form; raises DatasetError if it is absolute, leads outside, or is nonsense."""
    plain = name.replace("\\", "/")
    parts = [part for part in plain.split("/") if part not in ("", ".")]
    if plain.startswith("/") or ".." in parts or "\0" in plain or (parts and parts[0][1:2] == ":") or not parts:
        raise DatasetError(f"{archive} holds a member called {name!r}, which leads outside of it. It is not read.")
    if len(plain) > _LONGEST_NAME or len(parts) > _MOST_FOLDERS:
        raise DatasetError(
            f"{archive} holds a member whose name has {len(plain):,} characters and {len(parts):,} folders "
            f"({name[:40]!r}...). It is not read."
        )
    if _CONTROL_CHARACTERS.search(plain) and not clutter_in(plain):
        raise DatasetError(f"{archive} holds a member called {name!r}, with control characters. It is not read.")
    return "/".join(parts)


def _spelling(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


class TarTree(ArchiveTree[tuple[int, int]]):
    """The regular files of an uncompressed tar, by offset and size; a compressed tar is decompressed once, unnamed."""

    description = "tar"

    def __init__(
        self,
        path: Path,
        file: IO[bytes] | None = None,
        start: int = 0,
        size: int | None = None,
        *,
        stays_open: bool = True,
    ) -> None:
        self._lock = threading.Lock()
        self._start = start
        with ExitStack() as opened:
            self._file = file or self._plain(path, opened)
            super().__init__(path, self._checked(path, size))
            # A thousand tars, one per class, are more than a process may hold open: those are opened for each read.
            self._reopens = not stays_open and self._file.name == str(path)
            if not self._reopens:
                self.closing.push(opened.pop_all())

    def _plain(self, path: Path, opened: ExitStack) -> IO[bytes]:
        """The archive without compression."""
        packed = opened.enter_context(path.open("rb"))
        first = packed.read(6)
        packed.seek(0)
        unpack = next((open_ for magic, open_ in _COMPRESSIONS.items() if first.startswith(magic)), None)
        if unpack is None:
            return packed
        plain = opened.enter_context(anonymous_file(path.stat().st_size, str(path)))
        try:
            with unpack(packed) as stream:
                _decompress(stream, plain, path)
        except _DAMAGED_TAR as error:
            raise _cut_off(path, error) from error
        return plain

    def _checked(self, path: Path, size: int | None) -> Iterator[tuple[str, tuple[int, int] | None]]:
        self._file.seek(0, io.SEEK_END)
        end = self._file.tell() if size is None else self._start + size
        window = _Window(self._file, self._start, end, longest_read=_LONGEST_TAR_HEADER)
        try:
            with tarfile.open(fileobj=cast(IO[bytes], window), mode="r:") as archive:
                for member in archive:
                    if member.isdir():
                        yield member.name, None
                        continue
                    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
                        raise DatasetError(f"{path} holds {member.name!r}, a link or device. It is not read.")
                    if member.size < 0 or member.offset_data + member.size > end - self._start:
                        raise tarfile.ReadError(f"{member.name!r} continues after the end")
                    yield member.name, (member.offset_data, member.size)
                # tarfile takes a header that makes no sense, or is not there, for the end, whose mark is zeros.
                window.seek(archive.offset)
                if window.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise tarfile.ReadError("its end is missing")
        except _DAMAGED_TAR as error:
            raise _cut_off(path, error) from error

    def size(self, file: str) -> int:
        """Bytes of a member."""
        return self._member(file)[1]

    def _read(self, file: str) -> bytes:
        offset, size = self._member(file)
        if self._reopens:
            with self.path.open("rb") as stream:
                stream.seek(offset)
                return stream.read(size)
        with self._lock:
            self._file.seek(self._start + offset)
            return self._file.read(size)

    def _open(self, file: str) -> IO[bytes]:
        offset, size = self._member(file)
        window = _Window(self._file, self._start + offset, self._start + offset + size)
        return cast(IO[bytes], window)

    def nested(self, archive: str) -> TarTree:
        """A tar that is a member of this one, read in place."""
        offset, size = self._member(archive)
        return TarTree(self.path / archive, self._file, self._start + offset, size)


class _Window(io.RawIOBase):
    """A part of a file as a file of its own."""

    def __init__(self, file: IO[bytes], start: int, end: int, *, longest_read: int | None = None) -> None:
        self._file, self._start, self._end, self._position = file, start, end, 0
        self._longest_read = longest_read

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._end - self._start}[whence]
        self._position = max(0, base + offset)
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._end - self._start - self._position)
        wanted = left if size is None or size < 0 else min(size, left)
        if self._longest_read is not None and wanted > self._longest_read:
            raise tarfile.ReadError(f"a header of {wanted:,} bytes")
        self._file.seek(self._start + self._position)
        block = self._file.read(wanted)
        self._position += len(block)
        return block


def _decompress(stream: IO[bytes], plain: IO[bytes], path: Path) -> None:
    packed = path.stat().st_size
    written = 0
    while block := stream.read(_COPIED_AT_ONCE):
        written += len(block)
        if written > _FIRST_BYTES_OF_TAR and written > _LARGEST_RATIO * packed:
            raise DatasetError(
                f"{path} unpacks to {bytes_text(written)} and more from {bytes_text(packed)}: an archive bomb. "
                "It is not read."
            )
        if written % (1 << 28) < len(block):
            check_disk_space(datasets_folder(), 1 << 28, f"the contents of {path}")
        plain.write(block)
    plain.flush()


def _cut_off(path: Path, error: Exception) -> Exception:
    """A `DatasetError` about a damaged archive; the error itself if it has a number and so comes from the disk."""
    if isinstance(error, OSError) and error.errno is not None:
        return error
    return DatasetError(
        f"{path} is not a complete tar archive ({' '.join(str(error).split())}). It was probably cut off while "
        "downloading: obtain it again."
    )


class ZipTree(ArchiveTree[zipfile.ZipInfo]):
    """The members of a zip."""

    description = "zip"

    def __init__(self, path: Path, file: IO[bytes] | None = None) -> None:
        try:
            self._zip = zipfile.ZipFile(file or path)
        except _DAMAGED_ZIP as error:
            _raise_if_disk_failed(error)
            raise DatasetError(
                f"{path} is not a complete zip archive ({error}). It was probably cut off while downloading: "
                "obtain it again."
            ) from error
        try:
            super().__init__(path, self._checked(path))
        except DatasetError:
            self._zip.close()
            raise

    def _checked(self, path: Path) -> Iterator[tuple[str, zipfile.ZipInfo | None]]:
        total, packed = 0, 0
        whole = os.fstat(self._zip.fp.fileno()).st_size if self._zip.fp else 0
        for member in self._zip.infolist():
            mode = member.external_attr >> 16
            if mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_IFMT(mode) == 0):
                raise DatasetError(f"{path} holds {member.filename!r}, a link or device. It is not read.")
            # zipfile cuts names at the first NUL; the name with it is refused.
            name = member.orig_filename if "\0" in member.orig_filename else member.filename
            if name.endswith("/"):  # ZipInfo.is_dir() fails on an empty name
                yield name, None
                continue
            if member.flag_bits & 1:
                raise DatasetError(f"{path} is encrypted ({member.filename!r}). Unpack it with its password first.")
            if member.compress_type not in _ZIP_METHODS:
                raise DatasetError(
                    f"{path} is compressed in a rare way (method {member.compress_type}, {member.filename!r}). Unpack "
                    "it and give the folder."
                )
            total += member.file_size
            packed += member.compress_size
            if packed > whole:
                raise DatasetError(f"{path} holds members that overlap: an archive bomb. It is not read.")
            if total > _FIRST_BYTES_OF_ZIP and total > _LARGEST_RATIO * packed:
                raise DatasetError(
                    f"{path} claims to unpack to {bytes_text(total)} and more from {bytes_text(packed)}: "
                    "an archive bomb. It is not read."
                )
            yield name, member

    def size(self, file: str) -> int:
        """Bytes of a member when unpacked."""
        return self._member(file).file_size

    def _open(self, file: str) -> IO[bytes]:
        member, what = self._member(file), f"{file} in {self.path}"
        try:
            return cast(IO[bytes], _Guarded(self._zip.open(member), what))
        except _DAMAGED_ZIP as error:
            _raise_damage(error, what)

    def _read(self, file: str) -> bytes:
        with self._open(file) as stream:
            # Without a size, all that the member unpacks to is in memory before it is cut to what it claims.
            return stream.read(self.size(file))

    def nested(self, archive: str) -> TarTree:
        """A tar that is a member, unpacked into an anonymous file."""
        return TarTree(self.path / archive, self.local(archive))

    def close(self) -> None:
        """Close the archive and all files."""
        super().close()
        self._zip.close()


class _Guarded:
    """An open member of a zip; damage in it is a `DatasetError`."""

    def __init__(self, stream: IO[bytes], what: str) -> None:
        self._stream, self._what = stream, what

    def read(self, size: int = -1) -> bytes:
        try:
            return self._stream.read(size)
        except _DAMAGED_ZIP as error:
            _raise_damage(error, self._what)

    def __enter__(self) -> _Guarded:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()


def _raise_damage(error: Exception, what: str) -> NoReturn:
    _raise_if_disk_failed(error)
    raise DatasetError(f"{what} is damaged ({error}). Obtain the archive again.") from error


def _raise_if_disk_failed(error: Exception) -> None:
    """Damaged archives ask for seeks to invalid places (EINVAL); any other error number comes from the disk."""
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
        raise error
