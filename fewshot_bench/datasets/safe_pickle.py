"""Pickles from strangers: plain data and NumPy arrays are read, nothing is executed, big arrays stay on disk.

A pickle is a program for a small stack machine that may call anything that can be imported. Here the machine knows
only the instructions for plain data, and the only functions it can call are the ones below that rebuild arrays and
byte strings from arguments they have checked. Three ideas carry the rest:

* Byte strings and texts of 1,024 bytes or more are not read: a `_Piece` remembers where they are. An array made of
  one is a view of a memory map of the file.
* What is on the machine's stack but cannot be part of the result as it is (a piece, a function, the arguments of a
  call, an array before its pixels) is `_Unsettled`, and is settled, once, when a list, a dictionary or the caller
  receives it. The result is therefore never walked, however deep it is nested.
* No instruction costs more than a fixed multiple of the bytes of the file that it uses up.

The standard library's unpickler in Python does the plain instructions. Its twin in C would be faster, but keeps its
memo in an array, so that ten bytes of pickle allocate tens of gigabytes, and copies every byte string into memory.
"""

from __future__ import annotations

import codecs
import math
import os
import pickle
import pickletools
import re
import stat
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.errors import DatasetError

LAZY_FROM = 1024
"""Byte strings and texts of so many bytes stay in the file until somebody needs them."""

_LONGEST_LINE = 4096
_LONGEST_INTEGER = 1024
_LARGEST_MEMO_INDEX = 2**32
_LARGEST_KEY = 2**61 - 1
_LARGEST_ARRAY = 2**48
_MOST_DIMENSIONS = 32
_NUMBER_TYPES = frozenset({"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"})
_TEXT_TYPE = re.compile(r"[SU][1-9]\d{0,6}")
_KEY_TYPES = frozenset({str, bytes, int, float, bool, type(None)})


class UnsafePickleError(DatasetError):
    """A pickle asks for more than plain data and arrays of numbers or fixed-size strings."""


class _UnsafeError(Exception):
    """The pickle asks for something that is not done; the message names it."""


class _CutOffError(Exception):
    """The file ends before the pickle does."""


class _DamagedError(Exception):
    """What the file says makes no sense; the message says what."""


def read_pickle(path: Path, opened: BinaryIO | None = None) -> Any:
    """Read a pickle of protocol 0 to 5, written by Python 2 or 3, without executing anything.

    Byte arrays come out as bytes, an `OrderedDict` as dict, NumPy scalars as Python numbers and strings, Python 2's
    `str` as text in which every character is one byte (latin-1). Arrays are read-only; those of 1,024 bytes or more
    are views of one memory map of the file, unless they were written as text (by Python 3 with protocol 0 to 2).
    Whatever follows the end of the pickle is ignored.

    Args:
        path: a file that nobody changes while the arrays are in use.
        opened: the same file, where it has no name of its own; `path` is then for messages only.

    Returns:
        dict, list, tuple, str, bytes, int, float, bool, None and NumPy arrays of numbers or fixed-size strings.

    Raises:
        UnsafePickleError: the pickle asks for anything else; the message names it.
        DatasetError: the file is not a pickle, cut off or damaged.
        OSError: the file cannot be opened.
    """
    if opened is not None:
        return _read(opened, path)
    if not stat.S_ISREG(path.stat().st_mode):
        raise DatasetError(f"{_one_line(path)} is not a file; a pickle was expected.")
    with path.open("rb") as file:
        return _read(file, path)


def _read(file: BinaryIO, path: Path) -> Any:
    found = _what_else_it_is(file.read(512))
    if found:
        raise DatasetError(f"{_one_line(path)} {found}")
    try:
        return _Unpickler(_Source(file)).load()
    except Exception as error:  # bytes of a stranger may raise anything; all of it means the same to the user
        raise _explain(error, path, file.tell()) from error


def _what_else_it_is(head: bytes) -> str:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "is empty; a pickle was expected. Obtain it again."
    if start.startswith((b"<!doctype", b"<html")):
        return (
            "is a web page, not a pickle: a download page was saved in place of the file. Download the file itself, "
            "with a browser if need be."
        )
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "is a zip archive, not a pickle. Unpack it and give the file inside."
    if head.startswith(b"\x1f\x8b"):
        return "is compressed with gzip, not a pickle. Unpack it and give the file inside."
    if head[257:262] == b"ustar" and head[0] != pickle.PROTO[0]:
        return "is a tar archive, not a pickle. Unpack it and give the file inside."
    return ""


def _explain(error: Exception, path: Path, position: int) -> DatasetError:
    name = _one_line(path)
    if isinstance(error, _UnsafeError):
        return UnsafePickleError(
            f"{name} asks for {_one_line(error)} near byte {position:,}; only plain data and arrays of numbers or "
            "fixed-size strings are read from a pickle, and nothing was executed. Ask its author for such a file."
        )
    if isinstance(error, _CutOffError):
        return DatasetError(
            f"{name} ends before the pickle in it does: it was probably cut off while downloading. Obtain it again."
        )
    if isinstance(error, MemoryError):
        return DatasetError(f"{name} does not fit into memory. Read it on a larger machine.")
    if isinstance(error, OSError):
        return DatasetError(f"{name} cannot be read ({_one_line(error)}). Copy it to another disk.")
    what = _one_line(error) if isinstance(error, _DamagedError) else "what it says there makes no sense"
    return DatasetError(f"{name} is not a pickle, or is damaged near byte {position:,} ({what}). Obtain it again.")


def _one_line(text: object) -> str:
    return "".join(mark if mark.isprintable() else ascii(mark)[1:-1] for mark in str(text))


class _Source:
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
            raise _CutOffError
        return data

    def readline(self) -> bytes:
        """Read a line of a number or a name, with its end."""
        line = self._file.readline(_LONGEST_LINE)
        if not line.endswith(b"\n"):
            raise _DamagedError(f"a line of {_LONGEST_LINE:,} bytes") if len(line) == _LONGEST_LINE else _CutOffError
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
            raise _CutOffError

    def skip_line(self) -> tuple[int, int]:
        """Pass over a line of any length and return where it begins and its length without the end."""
        offset = self._file.tell()
        while not (line := self._file.readline(1 << 16)).endswith(b"\n"):
            if not line:
                raise _CutOffError
        return offset, self._file.tell() - offset - 1

    def spend(self, work: int) -> None:
        """Pay for work on an object that a hostile pickle could ask for many times; an honest one asks once."""
        self._credit -= work
        if self._credit < 0:
            raise _UnsafeError("the same work again and again")


class _Unsettled:
    """Something on the stack that cannot be in the result as it is."""

    __slots__ = ()

    def settled(self) -> Any:
        """What the result gets in its place, the same object each time."""
        raise NotImplementedError


_Buffer = tuple["bytes | NDArray[np.uint8]", int, int]
"""Where an array's data are: in what, from which byte, how many bytes."""


class _Piece(_Unsettled):
    """A byte string of the file that has not been read."""

    __slots__ = ("_length", "_offset", "_source", "_value")

    def __init__(self, source: _Source, offset: int, length: int) -> None:
        self._source = source
        self._offset = offset
        self._length = length
        self._value: Any = None

    def settled(self) -> Any:
        if self._value is None:
            self._value = self._read()
        return self._value

    def buffer(self) -> _Buffer:
        """The bytes as the data of an array."""
        return self._source.pixels, self._offset, self._length

    @staticmethod
    def decode(raw: bytes) -> Any:
        """The value that the bytes stand for."""
        return raw

    def _read(self) -> Any:
        return self.decode(self._source.read_at(self._offset, self._length))


class _OldString(_Piece):
    """A `str` of Python 2: bytes when an array is made of it, else text."""

    __slots__ = ()

    @staticmethod
    def decode(raw: bytes) -> str:
        return raw.decode("latin1")


class _Text(_Piece):
    """A text; or bytes, which protocols 0 to 2 oblige Python 3 to write as text in latin-1."""

    __slots__ = ("_latin1",)

    def __init__(self, source: _Source, offset: int, length: int) -> None:
        super().__init__(source, offset, length)
        self._latin1: bytes | None = None

    def latin1(self) -> bytes:
        """The text's bytes, the same object each time; the text itself is not kept."""
        if self._latin1 is None:
            self._latin1 = self._read().encode("latin1")
        return self._latin1

    def buffer(self) -> _Buffer:
        data = self.latin1()
        return data, 0, len(data)

    @staticmethod
    def decode(raw: bytes) -> str:
        return raw.decode("utf-8", "surrogatepass")


class _TextLine(_Text):
    """A text of protocol 0."""

    __slots__ = ()

    @staticmethod
    def decode(raw: bytes) -> str:
        return raw.decode("raw-unicode-escape")


class _OldStringLine(_Text):
    """A `str` of Python 2 in protocol 0: quoted, with escapes."""

    __slots__ = ()

    @staticmethod
    def decode(raw: bytes) -> str:
        if len(raw) < 2 or raw[:1] != raw[-1:] or raw[:1] not in (b"'", b'"'):
            raise _DamagedError("a string without quotes")
        return codecs.escape_decode(raw[1:-1])[0].decode("latin1")


class _Arguments(_Unsettled):
    """A tuple of which an item is unsettled: usually the arguments of a call, sometimes just a tuple."""

    __slots__ = ("_value", "items")

    def __init__(self, items: tuple[Any, ...]) -> None:
        self.items = items
        self._value: tuple[Any, ...] | None = None

    def settled(self) -> tuple[Any, ...]:
        if self._value is None:
            self._value = tuple(_settle(item) for item in self.items)
        return self._value


def _settle(value: Any) -> Any:
    return value.settled() if isinstance(value, _Unsettled) else value


def _tuple(items: list[Any]) -> tuple[Any, ...] | _Arguments:
    """A tuple that can be the arguments of a call; of the tuples in it, which cannot, none is left unsettled."""
    if not any(isinstance(item, _Unsettled) for item in items):
        return tuple(items)
    return _Arguments(tuple(item.settled() if type(item) is _Arguments else item for item in items))


def _items(arguments: Any) -> tuple[Any, ...]:
    if type(arguments) is _Arguments:
        return arguments.items
    if type(arguments) is not tuple:
        raise _UnsafeError(f"a call or a state with a {_type_name(arguments)} in place of a tuple")
    return arguments


def _type_name(value: Any) -> str:
    return value.name if type(value) is _Function else type(value).__name__.strip("_").lower()


class _Function(_Unsettled):
    """A global of the few that are known; it stands for one of our own functions, never for the global itself."""

    __slots__ = ("call", "name")

    def __init__(self, name: str, call: Callable[[_Source, tuple[Any, ...]], Any]) -> None:
        self.name = name
        self.call = call

    def settled(self) -> Any:
        raise _UnsafeError(f"{self.name} as a value")


class _Dtype(_Unsettled):
    """A dtype between the call that names its type and the state that says its byte order."""

    __slots__ = ("_has_state", "dtype")

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self._has_state = False

    def settled(self) -> Any:
        raise _UnsafeError("numpy.dtype as a value")

    def set_state(self, source: _Source, state: tuple[Any, ...]) -> None:
        """Take the byte order of (version, byte order, subarray, names, fields, item size, alignment, flags)."""
        if self._has_state or len(state) != 8 or state[1] not in ("<", ">", "|") or state[5] not in (-1, self._size):
            raise _DamagedError("a dtype whose state is not one")
        if any(part is not None for part in state[2:5]):
            raise _UnsafeError("a structured dtype")
        self.dtype = self.dtype.newbyteorder(state[1])
        self._has_state = True

    @property
    def _size(self) -> int:
        return self.dtype.itemsize


class _Array(_Unsettled):
    """An array between the call that makes an empty one and the state with its shape and data."""

    __slots__ = ("_array",)

    def __init__(self) -> None:
        self._array: NDArray[Any] | None = None

    def settled(self) -> NDArray[Any]:
        if self._array is None:
            raise _DamagedError("an array without data")
        return self._array

    def set_state(self, source: _Source, state: tuple[Any, ...]) -> None:
        """Take (version, shape, dtype, whether in Fortran order, data)."""
        if self._array is not None or len(state) != 5 or state[0] != 1 or type(state[3]) not in (bool, int):
            raise _DamagedError("an array whose state is not one")
        self._array = _array(source, state[4], state[2], state[1], "F" if state[3] else "C")


def _array(source: _Source, data: Any, dtype: Any, shape: Any, order: Any) -> NDArray[Any]:
    """A read-only array that shares its memory with the data."""
    if type(dtype) is not _Dtype or type(shape) is not tuple or order not in ("C", "F"):
        raise _DamagedError("an array without a dtype, shape or order")
    buffer, offset, length = _buffer(data)
    if _bytes_in(shape, dtype.dtype.itemsize) != length:
        raise _DamagedError(f"an array whose shape does not fit its {length:,} bytes")
    array: NDArray[Any] = np.ndarray(shape, dtype.dtype, buffer=buffer, offset=offset, order=order)
    if array.dtype.kind == "U":
        source.spend(length)
        _check_characters(array)
    return array


def _buffer(data: Any) -> _Buffer:
    if isinstance(data, _Piece):
        return data.buffer()
    if type(data) is str:
        data = data.encode("latin1")
    if type(data) is not bytes:
        raise _UnsafeError(f"an array of Python objects (its data are {_type_name(data)})")
    return data, 0, len(data)


def _bytes_in(shape: tuple[Any, ...], itemsize: int) -> int:
    if len(shape) > _MOST_DIMENSIONS or any(type(extent) is not int or extent < 0 for extent in shape):
        raise _DamagedError("an array whose shape is not one")
    # Empty arrays may have large extents too, but not such that their product overflows in NumPy.
    if itemsize * math.prod(max(extent, 1) for extent in shape) > _LARGEST_ARRAY:
        raise _DamagedError("an array of an absurd shape")
    return itemsize * int(math.prod(shape))


def _check_characters(array: NDArray[Any]) -> None:
    """NumPy does not check code points, and Python fails with a SystemError when it meets a false one."""
    if array.size and array.reshape(-1, order="A").view(array.dtype.byteorder + "u4").max() > 0x10FFFF:
        raise _DamagedError("a character that does not exist")


# The functions that a pickle can call. Each checks its arguments itself; too many or too few are a ValueError.


def _reconstruct(source: _Source, arguments: tuple[Any, ...]) -> _Array:
    subtype, shape, _ = arguments
    if type(subtype) is not _Function or subtype.call is not _ndarray:
        raise _UnsafeError(f"an array of the class {_type_name(subtype)}")
    if shape != (0,):
        raise _DamagedError("an array that is not empty before it has data")
    return _Array()


def _frombuffer(source: _Source, arguments: tuple[Any, ...]) -> NDArray[Any]:
    data, dtype, shape, order, axis_order = arguments if len(arguments) == 5 else (*arguments, None)
    if order != "K":
        return _array(source, data, dtype, shape, order)
    array = _array(source, data, dtype, shape, "C")
    if type(axis_order) is not tuple or len(axis_order) != array.ndim or sorted(axis_order) != [*range(array.ndim)]:
        raise _DamagedError("an array whose axes are not in an order")
    return array.transpose(axis_order)


def _scalar(source: _Source, arguments: tuple[Any, ...]) -> Any:
    dtype, data = arguments
    return _array(source, data, dtype, (), "C").item()


def _dtype(source: _Source, arguments: tuple[Any, ...]) -> _Dtype:
    name, _, _ = arguments
    if type(name) is not str:
        raise _DamagedError("a dtype without a name")
    if name not in _NUMBER_TYPES and not _TEXT_TYPE.fullmatch(name):
        raise _UnsafeError(f"the dtype '{name[:40]}'")
    return _Dtype(np.dtype(name))


def _ndarray(source: _Source, arguments: tuple[Any, ...]) -> Any:
    raise _UnsafeError("a call of numpy.ndarray")


def _encode(source: _Source, arguments: tuple[Any, ...]) -> bytes:
    text, encoding = arguments
    if encoding != "latin1":
        raise _UnsafeError("_codecs.encode into anything but latin1")
    if isinstance(text, _Text):
        return text.latin1()
    if type(text) is not str:
        raise _DamagedError("bytes of something that is no text")
    return text.encode("latin1")


def _bytes(source: _Source, arguments: tuple[Any, ...]) -> bytes:
    if arguments:
        raise _UnsafeError("a call of bytes with arguments")
    return b""


def _bytearray(source: _Source, arguments: tuple[Any, ...]) -> Any:
    if not arguments:
        return b""
    data, *encoding = arguments
    if encoding == ["latin-1"]:  # Python 2
        return _encode(source, (data, "latin1"))
    if encoding or type(data) not in (bytes, _Piece):
        raise _UnsafeError("a call of bytearray with anything but bytes")
    return data


def _ordered_dict(source: _Source, arguments: tuple[Any, ...]) -> dict[Any, Any]:
    if not arguments:
        return {}
    (pairs,) = arguments  # Python 2
    if type(pairs) is not list or any(type(pair) not in (list, tuple) for pair in pairs):
        raise _DamagedError("a dictionary of something else than pairs")
    source.spend(len(pairs))
    return {_key(key): value for key, value in pairs}


def _key(value: Any) -> Any:
    """Check a dictionary's key: the hash of nested tuples takes forever, and one can choose numbers of equal hash."""
    if type(value) not in _KEY_TYPES:
        raise _UnsafeError(f"a dictionary with a key of type {_type_name(value)}")
    if type(value) is int and abs(value) >= _LARGEST_KEY:
        raise _UnsafeError("a dictionary with an absurdly large integer as key")
    return value


_CALLS: dict[str, Callable[[_Source, tuple[Any, ...]], Any]] = {
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy._core.multiarray._reconstruct": _reconstruct,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _frombuffer,
    "numpy._core.numeric._frombuffer": _frombuffer,
    "numpy.ndarray": _ndarray,
    "numpy.dtype": _dtype,
    "_codecs.encode": _encode,
    "__builtin__.bytes": _bytes,
    "builtins.bytes": _bytes,
    "__builtin__.bytearray": _bytearray,
    "builtins.bytearray": _bytearray,
    "collections.OrderedDict": _ordered_dict,
}
_FUNCTIONS = {tuple(name.rsplit(".", 1)): _Function(name, call) for name, call in _CALLS.items()}


class _Memo:
    """Objects by number; picklers count up from 0 or 1, and a list takes a tenth of a dictionary's memory."""

    def __init__(self) -> None:
        self._counted: list[Any] = []
        self._others: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self._counted) + len(self._others)

    def __getitem__(self, index: int) -> Any:
        return self._counted[index - 1] if 0 < index <= len(self._counted) else self._others[index]

    def __setitem__(self, index: int, value: Any) -> None:
        if index == len(self._counted) + 1:
            self._counted.append(value)
            self._others.pop(index, None)
        elif 0 < index <= len(self._counted):
            self._counted[index - 1] = value
        else:
            self._others[index] = value


_PLAIN_INSTRUCTIONS = (
    *(pickle.PROTO, pickle.MARK, pickle.POP, pickle.POP_MARK, pickle.DUP),
    *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.INT, pickle.BININT, pickle.BININT1, pickle.BININT2),
    *(pickle.LONG, pickle.LONG1, pickle.FLOAT, pickle.BINFLOAT),
    *(pickle.EMPTY_TUPLE, pickle.EMPTY_LIST, pickle.EMPTY_DICT, pickle.GLOBAL, pickle.STACK_GLOBAL),
    *(pickle.GET, pickle.BINGET, pickle.LONG_BINGET, pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE),
)
"""Those that the base class does as they should be done."""


# The base class is private, but has had this name since Python 3.0; joblib builds on it too.
class _Unpickler(pickle._Unpickler):
    """The stack machine, reduced to plain data and the functions above."""

    def __init__(self, source: _Source) -> None:
        super().__init__(source, encoding="latin1")
        self._source = source
        self.read = source.read
        self.readline = source.readline
        self.metastack: list[list[Any]] = []
        self.stack: list[Any] = []
        self.memo = _Memo()
        self.append = self.stack.append

    def load(self) -> Any:
        """Run the program until it stops."""
        next_byte, dispatch = self._source.next_byte, self.dispatch
        while key := next_byte(1):
            if key == pickle.STOP:
                return _settle(self.stack.pop())
            instruction = dispatch.get(key[0])
            if instruction is None:
                raise _refusal(key)
            instruction(self)  # type: ignore[arg-type]  # typeshed's table is that of the C class
        raise _CutOffError

    def find_class(self, module: str, name: str) -> _Function:
        """Look a global up among the functions above; nothing is imported."""
        function = _FUNCTIONS.get((module, name))
        if function is None:
            raise _UnsafeError(f"{module[:80]}.{name[:80]}")
        return function

    def load_frame(self) -> None:
        """Frames are transparent: their content is what follows, and a piece is found where it is in the file."""
        (length,) = struct.unpack("<Q", self.read(8))
        self._source.check_is_left(length)

    def load_long4(self) -> None:
        (length,) = struct.unpack("<i", self.read(4))
        if not 0 <= length <= _LONGEST_INTEGER:
            raise _DamagedError(f"an integer of {length:,} bytes")
        self.append(int.from_bytes(self.read(length), "little", signed=True))

    def load_piece_after(self, kind: type[_Piece], format: str) -> None:
        """Push a string whose length comes before it, or pass over it if it is long."""
        (length,) = struct.unpack(format, self.read(struct.calcsize(format)))
        if length < 0:
            raise _DamagedError("a string of negative length")
        if length < LAZY_FROM:
            self.append(kind.decode(self.read(length)))
        else:
            self.append(kind(self._source, self._source.skip(length), length))

    def load_line(self, kind: type[_Piece]) -> None:
        """Push a string that ends with its line, or pass over it if it is long."""
        offset, length = self._source.skip_line()
        line = kind(self._source, offset, length)
        self.append(line if length >= LAZY_FROM else line.settled())

    def load_tuple(self) -> None:
        items = self.pop_mark()  # which changes what `self.append` is
        self.append(_tuple(items))

    def load_short_tuple(self, length: int) -> None:
        """Replace the last one to three items by a tuple of them."""
        if len(self.stack) < length:
            raise _DamagedError("a tuple of more items than there are")
        self.stack[-length:] = [_tuple(self.stack[-length:])]

    def pop_mark(self) -> list[Any]:
        """Take everything above the last mark off the stack."""
        items = self.stack
        self.stack = self.metastack.pop()
        self.append = self.stack.append
        return items

    def load_list(self) -> None:
        items = self.pop_mark()
        self.append([_settle(item) for item in items])

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._set_items(items)

    def load_append(self) -> None:
        value = _settle(self.stack.pop())
        self._last(list).append(value)

    def load_appends(self) -> None:
        items = self.pop_mark()
        self._last(list).extend([_settle(item) for item in items])

    def load_setitem(self) -> None:
        value = self.stack.pop()
        self._set_items([self.stack.pop(), value])

    def load_setitems(self) -> None:
        self._set_items(self.pop_mark())

    def load_put(self) -> None:
        index = int(self.readline()[:-1])
        if not 0 <= index < _LARGEST_MEMO_INDEX:
            raise _DamagedError("a memo of absurd size")
        self.memo[index] = self.stack[-1]

    def load_reduce(self) -> None:
        """Call one of our own functions."""
        arguments = self.stack.pop()
        function = self.stack[-1]
        if type(function) is not _Function:
            raise _UnsafeError(f"a call of a {_type_name(function)}")
        self.stack[-1] = function.call(self._source, _items(arguments))

    def load_build(self) -> None:
        """Give an array its shape and data, or a dtype its byte order."""
        state = self.stack.pop()
        target = self.stack[-1]
        if not isinstance(target, (_Array, _Dtype)):
            raise _UnsafeError(f"a change of the state of {_type_name(target)}")
        target.set_state(self._source, _items(state))

    def _last(self, kind: type[Any]) -> Any:
        if type(self.stack[-1]) is not kind:
            raise _UnsafeError(f"an item added to a {_type_name(self.stack[-1])}")
        return self.stack[-1]

    def _set_items(self, items: list[Any]) -> None:
        target = self._last(dict)
        if len(items) % 2:
            raise _DamagedError("a key without a value")
        for index in range(0, len(items), 2):
            target[_key(_settle(items[index]))] = _settle(items[index + 1])

    _own_instructions: ClassVar[dict[bytes, Any]] = {
        pickle.FRAME: load_frame,
        pickle.LONG4: load_long4,
        pickle.SHORT_BINBYTES: partial(load_piece_after, kind=_Piece, format="<B"),
        pickle.BINBYTES: partial(load_piece_after, kind=_Piece, format="<I"),
        pickle.BINBYTES8: partial(load_piece_after, kind=_Piece, format="<Q"),
        pickle.BYTEARRAY8: partial(load_piece_after, kind=_Piece, format="<Q"),
        pickle.SHORT_BINSTRING: partial(load_piece_after, kind=_OldString, format="<B"),
        pickle.BINSTRING: partial(load_piece_after, kind=_OldString, format="<i"),
        pickle.SHORT_BINUNICODE: partial(load_piece_after, kind=_Text, format="<B"),
        pickle.BINUNICODE: partial(load_piece_after, kind=_Text, format="<I"),
        pickle.BINUNICODE8: partial(load_piece_after, kind=_Text, format="<Q"),
        pickle.STRING: partial(load_line, kind=_OldStringLine),
        pickle.UNICODE: partial(load_line, kind=_TextLine),
        pickle.TUPLE: load_tuple,
        pickle.TUPLE1: partial(load_short_tuple, length=1),
        pickle.TUPLE2: partial(load_short_tuple, length=2),
        pickle.TUPLE3: partial(load_short_tuple, length=3),
        pickle.LIST: load_list,
        pickle.DICT: load_dict,
        pickle.APPEND: load_append,
        pickle.APPENDS: load_appends,
        pickle.SETITEM: load_setitem,
        pickle.SETITEMS: load_setitems,
        pickle.PUT: load_put,
        pickle.REDUCE: load_reduce,
        pickle.BUILD: load_build,
    }
    # Whatever is in neither table is refused.
    dispatch: ClassVar = {code[0]: pickle._Unpickler.dispatch[code[0]] for code in _PLAIN_INSTRUCTIONS}
    dispatch.update((code[0], instruction) for code, instruction in _own_instructions.items())


def _refusal(code: bytes) -> Exception:
    for opcode in pickletools.opcodes:
        if opcode.code == code.decode("latin1"):
            return _UnsafeError(f"the instruction {opcode.name}")
    return _DamagedError(f"no instruction has the code 0x{code.hex()}")
