"""What the stack machine of a pickle works on: the file, strings that stay in it, arrays built from checked parts."""

from __future__ import annotations

import codecs
import math
import os
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

_LARGEST_ARRAY = 2**48
_MOST_DIMENSIONS = 32
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


class LazyValue:
    """Something on the stack that stands for a part of the result: a string in the file, a function, arguments."""

    __slots__ = ()

    def resolve(self) -> Any:
        """The part of the result, the same object each time."""
        raise NotImplementedError


Buffer = tuple["bytes | NDArray[np.uint8]", int, int]
"""Where an array's data are: in what, from which byte, how many bytes."""


class LazyBytes(LazyValue):
    """A byte string of the file that has not been read."""

    __slots__ = ("_length", "_offset", "_source", "_value")

    def __init__(self, source: Source, offset: int, length: int) -> None:
        self._source = source
        self._offset = offset
        self._length = length
        self._value: Any = None

    def resolve(self) -> Any:
        """The value, read when it is first asked for."""
        if self._value is None:
            self._value = self._read()
        return self._value

    def buffer(self) -> Buffer:
        """The bytes as the data of an array."""
        return self._source.pixels, self._offset, self._length

    @staticmethod
    def decode(raw: bytes) -> Any:
        """The value that the bytes stand for."""
        return raw

    def _read(self) -> Any:
        return self.decode(self._source.read_at(self._offset, self._length))


class LazyPython2String(LazyBytes):
    """A `str` of Python 2: bytes when an array is made of it, else text."""

    __slots__ = ()

    @staticmethod
    def decode(raw: bytes) -> str:
        """Text in which every character is one byte."""
        return raw.decode("latin1")


class LazyText(LazyBytes):
    """A text; or bytes, which protocols 0 to 2 oblige Python 3 to write as text in latin-1."""

    __slots__ = ("_latin1",)

    def __init__(self, source: Source, offset: int, length: int) -> None:
        super().__init__(source, offset, length)
        self._latin1: bytes | None = None

    def latin1(self) -> bytes:
        """The text's bytes, the same object each time; the text itself is not kept."""
        if self._latin1 is None:
            self._latin1 = self._read().encode("latin1")
        return self._latin1

    def buffer(self) -> Buffer:
        """The bytes that the text stands for, as the data of an array."""
        data = self.latin1()
        return data, 0, len(data)

    @staticmethod
    def decode(raw: bytes) -> str:
        """Text in UTF-8."""
        return raw.decode("utf-8", "surrogatepass")


class LazyTextLine(LazyText):
    """A text of protocol 0."""

    __slots__ = ()

    @staticmethod
    def decode(raw: bytes) -> str:
        """Text with escapes for what is not latin-1."""
        return raw.decode("raw-unicode-escape")


class LazyPython2Line(LazyText):
    """A `str` of Python 2 in protocol 0: quoted, with escapes."""

    __slots__ = ()

    @staticmethod
    def decode(raw: bytes) -> str:
        """Text between its quotes."""
        if len(raw) < 2 or raw[:1] != raw[-1:] or raw[:1] not in (b"'", b'"'):
            raise DamagedError("a string without quotes")
        return codecs.escape_decode(raw[1:-1])[0].decode("latin1")


class LazyTuple(LazyValue):
    """A tuple with a lazy item: usually the arguments of a call, sometimes just a tuple."""

    __slots__ = ("_value", "items")

    def __init__(self, items: tuple[Any, ...]) -> None:
        self.items = items
        self._value: tuple[Any, ...] | None = None

    def resolve(self) -> tuple[Any, ...]:
        """The tuple with every item resolved."""
        if self._value is None:
            self._value = tuple(resolve(item) for item in self.items)
        return self._value


class KnownFunction(LazyValue):
    """One of the few known globals; it stands for one of our own functions, never for the global itself."""

    __slots__ = ("call", "name")

    def __init__(self, name: str, call: Callable[[Source, tuple[Any, ...]], Any]) -> None:
        self.name = name
        self.call = call

    def resolve(self) -> Any:
        """Refuse: a function is not plain data."""
        raise UnsafeError(f"{self.name} as a value")


def resolve(value: Any) -> Any:
    """The part of the result that a value stands for: mostly the value itself."""
    return value.resolve() if isinstance(value, LazyValue) else value


def tuple_of(items: list[Any]) -> tuple[Any, ...] | LazyTuple:
    """A tuple that may be the arguments of a call; tuples in it, which may not, are resolved."""
    if not any(isinstance(item, LazyValue) for item in items):
        return tuple(items)
    return LazyTuple(tuple(item.resolve() if type(item) is LazyTuple else item for item in items))


def items_of(arguments: Any) -> tuple[Any, ...]:
    """The items of a tuple of arguments or of a state, lazy or not."""
    if type(arguments) is LazyTuple:
        return arguments.items
    if type(arguments) is not tuple:
        raise UnsafeError(f"a call or a state with a {type_name(arguments)} in place of a tuple")
    return arguments


def type_name(value: Any) -> str:
    """Type of a value, for a message."""
    return value.name if type(value) is KnownFunction else type(value).__name__.lower()


class Dtype(LazyValue):
    """A dtype between the call that names its type and the state that says its byte order."""

    __slots__ = ("_has_state", "dtype")

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self._has_state = False

    def resolve(self) -> Any:
        """Refuse: a dtype is not plain data."""
        raise UnsafeError("numpy.dtype as a value")

    def set_state(self, source: Source, state: tuple[Any, ...]) -> None:
        """Take the byte order of (version, byte order, subarray, names, fields, item size, alignment, flags)."""
        if self._has_state or len(state) != 8 or state[1] not in ("<", ">", "|") or state[5] not in (-1, self._size):
            raise DamagedError("a dtype with a malformed state")
        if any(part is not None for part in state[2:5]):
            raise UnsafeError("a structured dtype")
        self.dtype = self.dtype.newbyteorder(state[1])
        self._has_state = True

    @property
    def _size(self) -> int:
        return self.dtype.itemsize


class Array(LazyValue):
    """An array between the call that makes an empty one and the state with its shape and data."""

    __slots__ = ("_array",)

    def __init__(self) -> None:
        self._array: NDArray[Any] | None = None

    def resolve(self) -> NDArray[Any]:
        """The array, once it has its data."""
        if self._array is None:
            raise DamagedError("an array without data")
        return self._array

    def set_state(self, source: Source, state: tuple[Any, ...]) -> None:
        """Take (version, shape, dtype, whether in Fortran order, data)."""
        if self._array is not None or len(state) != 5 or state[0] != 1 or type(state[3]) not in (bool, int):
            raise DamagedError("an array with a malformed state")
        self._array = array_of(source, state[4], state[2], state[1], "F" if state[3] else "C")


def array_of(source: Source, data: Any, dtype: Any, shape: Any, order: Any) -> NDArray[Any]:
    """A read-only array that shares its memory with the data."""
    if type(dtype) is not Dtype or type(shape) is not tuple or order not in ("C", "F"):
        raise DamagedError("an array without a dtype, shape or order")
    buffer, offset, length = _buffer(data)
    if _bytes_in(shape, dtype.dtype.itemsize) != length:
        raise DamagedError(f"an array whose shape does not fit its {length:,} bytes")
    array: NDArray[Any] = np.ndarray(shape, dtype.dtype, buffer=buffer, offset=offset, order=order)
    if array.dtype.kind == "U":
        source.spend(length)
        _check_characters(array)
    return array


def _buffer(data: Any) -> Buffer:
    if isinstance(data, LazyBytes):
        return data.buffer()
    if type(data) is str:
        data = data.encode("latin1")
    if type(data) is not bytes:
        raise UnsafeError(f"an array of Python objects (its data are {type_name(data)})")
    return data, 0, len(data)


def _bytes_in(shape: tuple[Any, ...], itemsize: int) -> int:
    if len(shape) > _MOST_DIMENSIONS or any(type(extent) is not int or extent < 0 for extent in shape):
        raise DamagedError("an array with a malformed shape")
    # Empty arrays may have large extents too, but not such that their product overflows in NumPy.
    if itemsize * math.prod(max(extent, 1) for extent in shape) > _LARGEST_ARRAY:
        raise DamagedError("an array of an absurd shape")
    return itemsize * int(math.prod(shape))


def _check_characters(array: NDArray[Any]) -> None:
    """NumPy does not check code points, and Python fails with a SystemError when it meets a false one."""
    if array.size and array.reshape(-1, order="A").view(array.dtype.byteorder + "u4").max() > 0x10FFFF:
        raise DamagedError("a character that does not exist")
