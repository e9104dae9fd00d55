"""The stack machine that a pickle is a program for, without the instructions that could do harm.

The functions that a pickle can call. Each checks its arguments itself; too many or too few are a ValueError.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import struct
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.datasets.safe_pickle.lazy_values import (
    Array,
    Dtype,
    Function,
    OldString,
    OldStringLine,
    Piece,
    Text,
    TextLine,
    array_of,
    items_of,
    settle,
    tuple_of,
    type_name,
)
from fewshot_bench.datasets.safe_pickle.source import CutOffError, DamagedError, Source, UnsafeError

_LARGEST_KEY = 2**61 - 1
_NUMBER_TYPES = frozenset({"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"})
_TEXT_TYPE = re.compile(r"[SU][1-9]\d{0,6}")
_KEY_TYPES = frozenset({str, bytes, int, float, bool, type(None)})


def _reconstruct(source: Source, arguments: tuple[Any, ...]) -> Array:
    subtype, shape, _ = arguments
    if type(subtype) is not Function or subtype.call is not _ndarray:
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
    if isinstance(text, Text):
        return text.latin1()
    if type(text) is not str:
        raise DamagedError("bytes of something that is no text")
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
    if encoding or type(data) not in (bytes, Piece):
        raise UnsafeError("a call of bytearray with anything but bytes")
    return data


def _ordered_dict(source: Source, arguments: tuple[Any, ...]) -> dict[Any, Any]:
    if not arguments:
        return {}
    (pairs,) = arguments  # Python 2
    if type(pairs) is not list or any(type(pair) not in (list, tuple) for pair in pairs):
        raise DamagedError("a dictionary of something else than pairs")
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
FUNCTIONS = {tuple(name.rsplit(".", 1)): Function(name, call) for name, call in _CALLS.items()}
"""The globals that are known, by module and name."""

LAZY_FROM = 1024
"""Byte strings and texts of so many bytes stay in the file until somebody needs them."""

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
                return settle(self.stack.pop())
            instruction = dispatch.get(key[0])
            if instruction is None:
                raise _refusal(key)
            instruction(self)  # type: ignore[arg-type]  # typeshed's table is that of the C class
        raise CutOffError

    def find_class(self, module: str, name: str) -> Function:
        """Look a global up among the functions that are known; nothing is imported."""
        function = FUNCTIONS.get((module, name))
        if function is None:
            raise UnsafeError(f"{module[:80]}.{name[:80]}")
        return function

    def load_frame(self) -> None:
        """Frames are transparent: their content is what follows, and a piece is found where it is in the file."""
        (length,) = struct.unpack("<Q", self.read(8))
        self._source.check_is_left(length)

    def load_long4(self) -> None:
        """Push a long integer."""
        (length,) = struct.unpack("<i", self.read(4))
        if not 0 <= length <= _LONGEST_INTEGER:
            raise DamagedError(f"an integer of {length:,} bytes")
        self.append(int.from_bytes(self.read(length), "little", signed=True))

    def load_piece_after(self, kind: type[Piece], format: str) -> None:
        """Push a string whose length comes before it, or pass over it if it is long."""
        (length,) = struct.unpack(format, self.read(struct.calcsize(format)))
        if length < 0:
            raise DamagedError("a string of negative length")
        if length < LAZY_FROM:
            self.append(kind.decode(self.read(length)))
        else:
            self.append(kind(self._source, self._source.skip(length), length))

    def load_line(self, kind: type[Piece]) -> None:
        """Push a string that ends with its line, or pass over it if it is long."""
        offset, length = self._source.skip_line()
        line = kind(self._source, offset, length)
        self.append(line if length >= LAZY_FROM else line.settled())

    def load_tuple(self) -> None:
        """Replace everything above the last mark by a tuple of it."""
        items = self.pop_mark()  # which changes what `self.append` is
        self.append(tuple_of(items))

    def load_short_tuple(self, length: int) -> None:
        """Replace the last one to three items by a tuple of them."""
        if len(self.stack) < length:
            raise DamagedError("a tuple of more items than there are")
        self.stack[-length:] = [tuple_of(self.stack[-length:])]

    def pop_mark(self) -> list[Any]:
        """Take everything above the last mark off the stack."""
        items = self.stack
        self.stack = self.metastack.pop()
        self.append = self.stack.append
        return items

    def load_list(self) -> None:
        """Replace everything above the last mark by a list of it."""
        items = self.pop_mark()
        self.append([settle(item) for item in items])

    def load_dict(self) -> None:
        """Replace everything above the last mark, keys and values, by a dictionary of it."""
        items = self.pop_mark()
        self.append({})
        self._set_items(items)

    def load_append(self) -> None:
        """Add the last item to the list below it."""
        value = settle(self.stack.pop())
        self._last(list).append(value)

    def load_appends(self) -> None:
        """Add everything above the last mark to the list below it."""
        items = self.pop_mark()
        self._last(list).extend([settle(item) for item in items])

    def load_setitem(self) -> None:
        """Add the last key and value to the dictionary below them."""
        value = self.stack.pop()
        self._set_items([self.stack.pop(), value])

    def load_setitems(self) -> None:
        """Add every key and value above the last mark to the dictionary below them."""
        self._set_items(self.pop_mark())

    def load_put(self) -> None:
        """Remember the last item under a number."""
        index = int(self.readline()[:-1])
        if not 0 <= index < _LARGEST_MEMO_INDEX:
            raise DamagedError("a memo of absurd size")
        self.memo[index] = self.stack[-1]

    def load_reduce(self) -> None:
        """Call one of our own functions."""
        arguments = self.stack.pop()
        function = self.stack[-1]
        if type(function) is not Function:
            raise UnsafeError(f"a call of a {type_name(function)}")
        self.stack[-1] = function.call(self._source, items_of(arguments))

    def load_build(self) -> None:
        """Give an array its shape and data, or a dtype its byte order."""
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
            target[checked_key(settle(items[index]))] = settle(items[index + 1])

    _own_instructions: ClassVar[dict[bytes, Any]] = {
        pickle.FRAME: load_frame,
        pickle.LONG4: load_long4,
        pickle.SHORT_BINBYTES: partial(load_piece_after, kind=Piece, format="<B"),
        pickle.BINBYTES: partial(load_piece_after, kind=Piece, format="<I"),
        pickle.BINBYTES8: partial(load_piece_after, kind=Piece, format="<Q"),
        pickle.BYTEARRAY8: partial(load_piece_after, kind=Piece, format="<Q"),
        pickle.SHORT_BINSTRING: partial(load_piece_after, kind=OldString, format="<B"),
        pickle.BINSTRING: partial(load_piece_after, kind=OldString, format="<i"),
        pickle.SHORT_BINUNICODE: partial(load_piece_after, kind=Text, format="<B"),
        pickle.BINUNICODE: partial(load_piece_after, kind=Text, format="<I"),
        pickle.BINUNICODE8: partial(load_piece_after, kind=Text, format="<Q"),
        pickle.STRING: partial(load_line, kind=OldStringLine),
        pickle.UNICODE: partial(load_line, kind=TextLine),
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
            return UnsafeError(f"the instruction {opcode.name}")
    return DamagedError(f"no instruction has the code 0x{code.hex()}")
