"""A zip, read without unpacking it."""

from __future__ import annotations

import errno
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NoReturn, cast

from fewshot_bench.datasets.disk_space import readable_bytes
from fewshot_bench.datasets.sources.archive_tree import ArchiveTree
from fewshot_bench.errors import DatasetError

# Deflate shrinks at most 1,032 times. Images and arrays of pixels shrink little; only bombs and blank pages come near.
_LARGEST_RATIO = 200
_ALWAYS_ALLOWED = 1 << 20
_DAMAGED = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, OverflowError, NotImplementedError,
    RuntimeError, OSError,
)  # fmt: skip
# Python unpacks a block of bzip2 or LZMA whole, however much comes out of it.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class ZipTree(ArchiveTree[zipfile.ZipInfo]):
    """The members of a zip."""

    description = "zip"

    def __init__(self, path: Path, file: IO[bytes] | None = None) -> None:
        try:
            self._zip = zipfile.ZipFile(file or path)
        except _DAMAGED as error:
            _raise_if_the_disk_is_meant(error)
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
            if member.compress_type not in _METHODS:
                raise DatasetError(
                    f"{path} is compressed in a rare way (method {member.compress_type}, {member.filename!r}). Unpack "
                    "it and give the folder."
                )
            total += member.file_size
            packed += member.compress_size
            if packed > whole:
                raise DatasetError(f"{path} holds members that overlap: an archive bomb. It is not read.")
            if total > _ALWAYS_ALLOWED and total > _LARGEST_RATIO * packed:
                raise DatasetError(
                    f"{path} claims to unpack to {readable_bytes(total)} and more from {readable_bytes(packed)}: "
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
        except _DAMAGED as error:
            _raise_damage(error, what)

    def _read(self, file: str) -> bytes:
        with self._open(file) as stream:
            # Without a size, all that the member unpacks to is in memory before it is cut to what it claims.
            return stream.read(self.size(file))

    def close(self) -> None:
        """Close the archive and all files."""
        super().close()
        self._zip.close()


class _Guarded:
    """A member under way, whose damage is one line."""

    def __init__(self, stream: IO[bytes], what: str) -> None:
        self._stream, self._what = stream, what

    def read(self, size: int = -1) -> bytes:
        try:
            return self._stream.read(size)
        except _DAMAGED as error:
            _raise_damage(error, self._what)

    def __enter__(self) -> _Guarded:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()


def _raise_damage(error: Exception, what: str) -> NoReturn:
    _raise_if_the_disk_is_meant(error)
    raise DatasetError(f"{what} is damaged ({error}). Obtain the archive again.") from error


def _raise_if_the_disk_is_meant(error: Exception) -> None:
    """A seek to where no archive is, as damaged ones ask for, is an invalid argument; anything else is the disk's."""
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
        raise error
