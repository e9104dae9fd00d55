"""A zip, read without unpacking it."""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from fewshot_bench.datasets.disk_space import readable_bytes
from fewshot_bench.datasets.sources.archive_tree import ArchiveTree
from fewshot_bench.errors import DatasetError

# Deflate shrinks at most 1,032 times. Images and arrays of pixels shrink little; only bombs and blank pages come near.
_LARGEST_RATIO = 200
_ALWAYS_ALLOWED = 1 << 20
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError)


class ZipTree(ArchiveTree[zipfile.ZipInfo]):
    """The members of a zip."""

    description = "zip"

    def __init__(self, path: Path, file: IO[bytes] | None = None) -> None:
        try:
            self._zip = zipfile.ZipFile(file or path)
        except _DAMAGED as error:
            raise DatasetError(
                f"{path} is not a complete zip archive ({error}). It was probably cut off while downloading: "
                "obtain it again."
            ) from error
        try:
            super().__init__(path, self._checked(path))
        except DatasetError:
            self._zip.close()
            raise

    def _checked(self, path: Path) -> Iterator[tuple[str, zipfile.ZipInfo]]:
        total, packed = 0, 0
        for member in self._zip.infolist():
            mode = member.external_attr >> 16
            if mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_IFMT(mode) == 0):
                raise DatasetError(f"{path} holds {member.filename!r}, a link or device. It is not read.")
            if member.is_dir():
                continue
            if member.flag_bits & 1:
                raise DatasetError(f"{path} is encrypted ({member.filename!r}). Unpack it with its password first.")
            total += member.file_size
            packed += member.compress_size
            if total > _ALWAYS_ALLOWED and total > _LARGEST_RATIO * packed:
                raise DatasetError(
                    f"{path} claims to unpack to {readable_bytes(total)} and more from {readable_bytes(packed)}: "
                    "an archive bomb. It is not read."
                )
            yield member.filename, member

    def size(self, file: str) -> int:
        """Bytes of a member when unpacked."""
        return self._member(file).file_size

    def _open(self, file: str) -> IO[bytes]:
        return cast(IO[bytes], _Guarded(self._zip.open(self._member(file)), f"{file} in {self.path}"))

    def _read(self, file: str) -> bytes:
        with self._open(file) as stream:
            return stream.read()

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
            raise DatasetError(f"{self._what} is damaged ({error}). Obtain the archive again.") from error

    def __enter__(self) -> _Guarded:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
