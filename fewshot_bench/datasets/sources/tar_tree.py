"""A tar, also one inside another tar, read without unpacking it."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, cast

from fewshot_bench.datasets.disk_space import check_disk_space, readable_bytes
from fewshot_bench.datasets.sources.archive_tree import ArchiveTree, anonymous_file
from fewshot_bench.errors import DatasetError
from fewshot_bench.paths import datasets_folder

_LARGEST_RATIO = 200
_ALWAYS_ALLOWED = 1 << 24
_COPIED_AT_ONCE = 1 << 20
_COMPRESSIONS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
_LONGEST_HEADER = 1 << 16  # extended ones hold a name and a few attributes
_DAMAGED = (
    tarfile.TarError, zlib.error, lzma.LZMAError, struct.error, EOFError, ValueError, LookupError, OverflowError,
    MemoryError, RecursionError, OSError,
)  # fmt: skip


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
        except _DAMAGED as error:
            raise _cut_off(path, error) from error
        return plain

    def _checked(self, path: Path, size: int | None) -> Iterator[tuple[str, tuple[int, int] | None]]:
        self._file.seek(0, io.SEEK_END)
        end = self._file.tell() if size is None else self._start + size
        window = _Window(self._file, self._start, end, longest_read=_LONGEST_HEADER)
        try:
            with tarfile.open(fileobj=cast(IO[bytes], window), mode="r:") as archive:
                for member in archive:
                    if member.isdir():
                        yield member.name, None
                        continue
                    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
                        raise DatasetError(f"{path} holds {member.name!r}, a link or device. It is not read.")
                    if member.size < 0 or member.offset_data + member.size > end - self._start:
                        raise tarfile.ReadError(f"{member.name!r} goes on after the end")
                    yield member.name, (member.offset_data, member.size)
                # tarfile takes a header that makes no sense, or is not there, for the end, whose mark is zeros.
                window.seek(archive.offset)
                if window.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise tarfile.ReadError("its end is missing")
        except _DAMAGED as error:
            raise _cut_off(path, error) from error

    def size(self, file: str) -> int:
        """Bytes of a member."""
        return self._member(file)[1]

    def _read(self, file: str) -> bytes:
        offset, size = self._member(file)
        if self._reopens:
            with self.path.open("rb") as again:
                again.seek(offset)
                return again.read(size)
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
        if written > _ALWAYS_ALLOWED and written > _LARGEST_RATIO * packed:
            raise DatasetError(
                f"{path} unpacks to {readable_bytes(written)} and more from {readable_bytes(packed)}: an archive bomb. "
                "It is not read."
            )
        if written % (1 << 28) < len(block):
            check_disk_space(datasets_folder(), 1 << 28, f"the contents of {path}")
        plain.write(block)
    plain.flush()


def _cut_off(path: Path, error: Exception) -> Exception:
    """One line about a damaged archive; the error itself if it is the disk's, which has a number."""
    if isinstance(error, OSError) and error.errno is not None:
        return error
    return DatasetError(
        f"{path} is not a complete tar archive ({' '.join(str(error).split())}). It was probably cut off while "
        "downloading: obtain it again."
    )
