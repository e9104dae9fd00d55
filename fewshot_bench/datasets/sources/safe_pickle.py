"""Pickles from strangers: plain data and NumPy arrays are read, nothing is executed, big arrays stay on disk.

A pickle is a program for a small stack machine that may call anything that can be imported. Here the machine knows
only the instructions for plain data, and the only functions it can call are ones of our own that rebuild arrays and
byte strings from arguments they have checked. Three ideas carry the rest:

* Byte strings and texts of 1,024 bytes or more are not read: a lazy value remembers where they are. An array made of
  one is a view of a memory map of the file.
* What is on the machine's stack but cannot be part of the result (a string in the file, a function, the arguments of a
  call, an array before its pixels) is a `LazyValue`. It is resolved, once, when a list, a dictionary or the caller
  receives it. The result is therefore never walked, however deep it is nested.
* No instruction costs more than a fixed multiple of the bytes of the file that it uses up.

The standard library's unpickler in Python does the plain instructions. Its twin in C would be faster, but keeps its
memo in an array, so that ten bytes of pickle allocate tens of gigabytes, and copies every byte string into memory.
"""

from __future__ import annotations

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

from fewshot_bench.datasets.sources.pickle_values import (
    Array,
    CutOffError,
    DamagedError,
    Dtype,
    KnownFunction,
    LazyBytes,
    LazyPython2Line,
    LazyPython2String,
    LazyText,
    LazyTextLine,
    Source,
    UnsafeError,
    array_of,
    items_of,
    resolve,
    tuple_of,
    type_name,
)
from fewshot_bench.datasets.sources.tree import is_web_page
from fewshot_bench.errors import DatasetError


class UnsafePickleError(DatasetError):
    """A pickle asks for more than plain data and arrays of numbers or fixed-size strings."""


def read_pickle(path: Path, opened: BinaryIO | None = None) -> Any:
    """Read a pickle of protocol 0 to 5, written by Python 2 or 3, without executing anything.

    Byte arrays come out as bytes, an `OrderedDict` as dict, NumPy scalars as Python numbers and strings, Python 2's
    `str` as text in which every character is one byte (latin-1). Arrays are read-only; those of 1,024 bytes or more
    are views of one memory map of the file, unless they were written as text (by Python 3 with protocol 0 to 2).
    Whatever follows the end of the pickle is ignored.

    Args:
        path: a file that must not change while the arrays are in use.
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
    found = _other_format(file.read(512))
    if found:
        raise DatasetError(f"{_one_line(path)} {found}")
    try:
        return Unpickler(Source(file)).load()
    except Exception as error:  # bytes of a stranger may raise anything; all of it means the same to the user
        raise _explain(error, path, file.tell()) from error


def _other_format(head: bytes) -> str:
    if not head:
        return "is empty; a pickle was expected. Obtain it again."
    if is_web_page(head):
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
    if isinstance(error, UnsafeError):
        return UnsafePickleError(
            f"{name} asks for {_one_line(error)} near byte {position:,}; only plain data and arrays of numbers or "
            "fixed-size strings are read from a pickle, and nothing was executed. Ask its author for such a file."
        )
    if isinstance(error, CutOffError):
        return DatasetError(
            f"{name} ends before the pickle in it does: it was probably cut off while downloading. Obtain it again."
        )
    if isinstance(error, MemoryError):
        return DatasetError(f"{name} does not fit into memory. Read it on a larger machine.")
    if isinstance(error, OSError):
        return DatasetError(f"{name} cannot be read ({_one_line(error)}). Copy it to another disk.")
    what = _one_line(error) if isinstance(error, DamagedError) else "what it says there makes no sense"
    return DatasetError(f"{name} is not a pickle, or is damaged near byte {position:,} ({what}). Obtain it again.")


def _one_line(text: object) -> str:
    return "".join(mark if mark.isprintable() else ascii(mark)[1:-1] for mark in str(text))


_LARGEST_KEY = 2**61 - 1
_NUMBER_TYPES = frozenset({"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"})
_TEXT_TYPE = re.compile(r"[SU][1-9]\d{0,6}")
_KEY_TYPES = frozenset({str, bytes, int, float, bool, type(None)})


def _reconstruct(source: Source, arguments: tuple[Any, ...]) -> Array:
    subtype, shape, _ = arguments
    if type(subtype) is not KnownFunction or subtype.call is not _ndarray:
        raise UnsafeError(f"an array of the class {type_name(subtype)}")
    if shape != (0,):
        raise DamagedError("an array that is not empty before it has data")
    return Array()


def _frombuffer(source: Source, arguments: tuple[Any, ...]) -> NDArray[Any]:
    data, dtype, shape, order, axis_order = arguments if len(arguments) == 5 else (*arguments, None)
    if order != "K":
        return array_of(source, data, dtype, shape, order)
    array = array_of(source, data, dtype, shape, "C")
    if type(axis_order) is not tuple or len(axis_order) != array.ndim or sorted(axis_order) != [*range(array.ndim)]:
        raise DamagedError("an array whose axes are not in an order")
    return array.transpose(axis_order)


def _scalar(source: Source, arguments: tuple[Any, ...]) -> Any:
    dtype, data = arguments
    return array_of(source, data, dtype, (), "C").item()


def _dtype(source: Source, arguments: tuple[Any, ...]) -> Dtype:
    name, _, _ = arguments
    if type(name) is not str:
        raise DamagedError("a dtype without a name")
    if name not in _NUMBER_TYPES and not _TEXT_TYPE.fullmatch(name):
        raise UnsafeError(f"the dtype '{name[:40]}'")
    return Dtype(np.dtype(name))


def _ndarray(source: Source, arguments: tuple[Any, ...]) -> Any:
    raise UnsafeError("a call of numpy.ndarray")


def _encode(source: Source, arguments: tuple[Any, ...]) -> bytes:
    text, encoding = arguments
    if encoding != "latin1":
        raise UnsafeError("_codecs.encode into anything but latin1")
    if isinstance(text, LazyText):
        return text.latin1()
    if type(text) is not str:
        raise DamagedError("bytes of something that is not text")
    return text.encode("latin1")


def _bytes(source: Source, arguments: tuple[Any, ...]) -> bytes:
    if arguments:
        raise UnsafeError("a call of bytes with arguments")
    return b""


def _bytearray(source: Source, arguments: tuple[Any, ...]) -> Any:
    if not arguments:
        return b""
    data, *encoding = arguments
    if encoding == ["latin-1"]:  # Python 2
        return _encode(source, (data, "latin1"))
    if encoding or type(data) not in (bytes, LazyBytes):
        raise UnsafeError("a call of bytearray with anything but bytes")
    return data


def _ordered_dict(source: Source, arguments: tuple[Any, ...]) -> dict[Any, Any]:
    if not arguments:
        return {}
    (pairs,) = arguments  # Python 2
    if type(pairs) is not list or any(type(pair) not in (list, tuple) for pair in pairs):
        raise DamagedError("a dictionary of something other than pairs")
    source.spend(len(pairs))
    return {checked_key(key): value for key, value in pairs}


def checked_key(value: Any) -> Any:
    """Check a dictionary's key: the hash of nested tuples takes forever, and one can choose numbers of equal hash."""
    if type(value) not in _KEY_TYPES:
        raise UnsafeError(f"a dictionary with a key of type {type_name(value)}")
    if type(value) is int and abs(value) >= _LARGEST_KEY:
        raise UnsafeError("a dictionary with an absurdly large integer as key")
    return value


_CALLS: dict[str, Callable[[Source, tuple[Any, ...]], Any]] = {
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
FUNCTIONS = {tuple(name.rsplit(".", 1)): KnownFunction(name, call) for name, call in _CALLS.items()}
"""The globals that are known, by module and name."""

LAZY_FROM = 1024
"""Byte strings and texts of so many bytes stay in the file until they are needed."""

_LONGEST_INTEGER = 1024
_LARGEST_MEMO_INDEX = 2**32
_PLAIN_INSTRUCTIONS = (
    *(pickle.PROTO, pickle.MARK, pickle.POP, pickle.POP_MARK, pickle.DUP),
    *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.INT, pickle.BININT, pickle.BININT1, pickle.BININT2),
    *(pickle.LONG, pickle.LONG1, pickle.FLOAT, pickle.BINFLOAT),
    *(pickle.EMPTY_TUPLE, pickle.EMPTY_LIST, pickle.EMPTY_DICT, pickle.GLOBAL, pickle.STACK_GLOBAL),
    *(pickle.GET, pickle.BINGET, pickle.LONG_BINGET, pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE),
)
"""Those that the base class does as they should be done."""


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


# The base class is private, but has had this name since Python 3.0; joblib builds on it too.
class Unpickler(pickle._Unpickler):
    """The stack machine, reduced to plain data and the functions that are known."""

    def __init__(self, source: Source) -> None:
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
                return resolve(self.stack.pop())
            instruction = dispatch.get(key[0])
            if instruction is None:
                raise _refusal(key)
            instruction(self)  # type: ignore[arg-type]  # typeshed's table is that of the C class
        raise CutOffError

    def find_class(self, module: str, name: str) -> KnownFunction:
        """Look a global up among the functions that are known; nothing is imported."""
        function = FUNCTIONS.get((module, name))
        if function is None:
            raise UnsafeError(f"{module[:80]}.{name[:80]}")
        return function

    def _load_frame(self) -> None:
        # Frames are transparent: their content follows, and strings are found at their place in the file.
        (length,) = struct.unpack("<Q", self.read(8))
        self._source.check_is_left(length)

    def _load_long4(self) -> None:
        (length,) = struct.unpack("<i", self.read(4))
        if not 0 <= length <= _LONGEST_INTEGER:
            raise DamagedError(f"an integer of {length:,} bytes")
        self.append(int.from_bytes(self.read(length), "little", signed=True))

    def _load_string_after(self, kind: type[LazyBytes], format: str) -> None:
        (length,) = struct.unpack(format, self.read(struct.calcsize(format)))
        if length < 0:
            raise DamagedError("a string of negative length")
        if length < LAZY_FROM:
            self.append(kind.decode(self.read(length)))
        else:
            self.append(kind(self._source, self._source.skip(length), length))

    def _load_line(self, kind: type[LazyBytes]) -> None:
        offset, length = self._source.skip_line()
        line = kind(self._source, offset, length)
        self.append(line if length >= LAZY_FROM else line.resolve())

    def _load_tuple(self) -> None:
        items = self.pop_mark()  # which changes what `self.append` is
        self.append(tuple_of(items))

    def _load_short_tuple(self, length: int) -> None:
        if len(self.stack) < length:
            raise DamagedError("a tuple of more items than there are")
        self.stack[-length:] = [tuple_of(self.stack[-length:])]

    def pop_mark(self) -> list[Any]:
        """Take everything above the last mark off the stack."""
        items = self.stack
        self.stack = self.metastack.pop()
        self.append = self.stack.append
        return items

    def _load_list(self) -> None:
        items = self.pop_mark()
        self.append([resolve(item) for item in items])

    def _load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._set_items(items)

    def _load_append(self) -> None:
        value = resolve(self.stack.pop())
        self._last(list).append(value)

    def _load_appends(self) -> None:
        items = self.pop_mark()
        self._last(list).extend([resolve(item) for item in items])

    def _load_setitem(self) -> None:
        value = self.stack.pop()
        self._set_items([self.stack.pop(), value])

    def _load_setitems(self) -> None:
        self._set_items(self.pop_mark())

    def _load_put(self) -> None:
        index = int(self.readline()[:-1])
        if not 0 <= index < _LARGEST_MEMO_INDEX:
            raise DamagedError("a memo of absurd size")
        self.memo[index] = self.stack[-1]

    def _load_reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        if type(function) is not KnownFunction:
            raise UnsafeError(f"a call of a {type_name(function)}")
        self.stack[-1] = function.call(self._source, items_of(arguments))

    def _load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if not isinstance(target, (Array, Dtype)):
            raise UnsafeError(f"a change of the state of {type_name(target)}")
        target.set_state(self._source, items_of(state))

    def _last(self, kind: type[Any]) -> Any:
        if type(self.stack[-1]) is not kind:
            raise UnsafeError(f"an item added to a {type_name(self.stack[-1])}")
        return self.stack[-1]

    def _set_items(self, items: list[Any]) -> None:
        target = self._last(dict)
        if len(items) % 2:
            raise DamagedError("a key without a value")
        for index in range(0, len(items), 2):
            target[checked_key(resolve(items[index]))] = resolve(items[index + 1])

    _own_instructions: ClassVar[dict[bytes, Any]] = {
        pickle.FRAME: _load_frame,
        pickle.LONG4: _load_long4,
        pickle.SHORT_BINBYTES: partial(_load_string_after, kind=LazyBytes, format="<B"),
        pickle.BINBYTES: partial(_load_string_after, kind=LazyBytes, format="<I"),
        pickle.BINBYTES8: partial(_load_string_after, kind=LazyBytes, format="<Q"),
        pickle.BYTEARRAY8: partial(_load_string_after, kind=LazyBytes, format="<Q"),
        pickle.SHORT_BINSTRING: partial(_load_string_after, kind=LazyPython2String, format="<B"),
        pickle.BINSTRING: partial(_load_string_after, kind=LazyPython2String, format="<i"),
        pickle.SHORT_BINUNICODE: partial(_load_string_after, kind=LazyText, format="<B"),
        pickle.BINUNICODE: partial(_load_string_after, kind=LazyText, format="<I"),
        pickle.BINUNICODE8: partial(_load_string_after, kind=LazyText, format="<Q"),
        pickle.STRING: partial(_load_line, kind=LazyPython2Line),
        pickle.UNICODE: partial(_load_line, kind=LazyTextLine),
        pickle.TUPLE: _load_tuple,
        pickle.TUPLE1: partial(_load_short_tuple, length=1),
        pickle.TUPLE2: partial(_load_short_tuple, length=2),
        pickle.TUPLE3: partial(_load_short_tuple, length=3),
        pickle.LIST: _load_list,
        pickle.DICT: _load_dict,
        pickle.APPEND: _load_append,
        pickle.APPENDS: _load_appends,
        pickle.SETITEM: _load_setitem,
        pickle.SETITEMS: _load_setitems,
        pickle.PUT: _load_put,
        pickle.REDUCE: _load_reduce,
        pickle.BUILD: _load_build,
    }
    # Whatever is in neither table is refused.
    dispatch: ClassVar = {code[0]: pickle._Unpickler.dispatch[code[0]] for code in _PLAIN_INSTRUCTIONS}
    dispatch.update((code[0], instruction) for code, instruction in _own_instructions.items())


def _refusal(code: bytes) -> Exception:
    for opcode in pickletools.opcodes:
        if opcode.code == code.decode("latin1"):
            return UnsafeError(f"the instruction {opcode.name}")
    return DamagedError(f"no instruction has the code 0x{code.hex()}")
