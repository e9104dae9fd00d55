"""The file that a pickle is read from, and the ways in which reading it ends early."""

from __future__ import annotations

import os
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

_LONGEST_LINE = 4096


class UnsafeError(Exception):
    """The pickle asks for something that is not done; the message names it."""


class CutOffError(Exception):
    """The file ends before the pickle does."""


class DamagedError(Exception):
    """What the file says makes no sense; the message says what."""


class Source:
    """The file, and how much work it may still ask for beyond what its own length pays.

    Attributes:
        pixels: memory map of the whole file, uint8 [bytes].
    """

    def __init__(self, file: BinaryIO) -> None:
        self.pixels: NDArray[np.uint8] = np.memmap(file, dtype=np.uint8, mode="r")
        file.seek(0)
        self.next_byte = file.read
        self._file = file
        self._size = self._credit = len(self.pixels)

    def read(self, count: int) -> bytes:
        """Read a few bytes; who reads many checks the length first, because this allocates them."""
        data = self._file.read(count)
        if len(data) != count:
            raise CutOffError
        return data

    def readline(self) -> bytes:
        """Read a line of a number or a name, with its end."""
        line = self._file.readline(_LONGEST_LINE)
        if not line.endswith(b"\n"):
            raise DamagedError(f"a line of {_LONGEST_LINE:,} bytes") if len(line) == _LONGEST_LINE else CutOffError
        return line

    def read_at(self, offset: int, length: int) -> bytes:
        """Read bytes that have been skipped."""
        position = self._file.tell()
        self._file.seek(offset)
        data = self.read(length)
        self._file.seek(position)
        return data

    def skip(self, length: int) -> int:
        """Pass over so many bytes and return where they begin."""
        self.check_is_left(length)
        offset = self._file.tell()
        self._file.seek(length, os.SEEK_CUR)
        return offset

    def check_is_left(self, length: int) -> None:
        """Check a length that the pickle claims against what is left of the file."""
        if length > self._size - self._file.tell():
            raise CutOffError

    def skip_line(self) -> tuple[int, int]:
        """Pass over a line of any length and return where it begins and its length without the end."""
        offset = self._file.tell()
        while not (line := self._file.readline(1 << 16)).endswith(b"\n"):
            if not line:
                raise CutOffError
        return offset, self._file.tell() - offset - 1

    def spend(self, work: int) -> None:
        """Pay for work on an object that a hostile pickle could ask for many times; an honest one asks once."""
        self._credit -= work
        if self._credit < 0:
            raise UnsafeError("the same work again and again")
