"""What is on the stack but cannot be in the result as it is: strings still in the file, functions, arguments."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.datasets.safe_pickle.source import DamagedError, Source, UnsafeError


class Unsettled:
    """Something on the stack that cannot be in the result as it is."""

    __slots__ = ()

    def settled(self) -> Any:
        """What the result gets in its place, the same object each time."""
        raise NotImplementedError


Buffer = tuple["bytes | NDArray[np.uint8]", int, int]
"""Where an array's data are: in what, from which byte, how many bytes."""


class Piece(Unsettled):
    """A byte string of the file that has not been read."""

    __slots__ = ("_length", "_offset", "_source", "_value")

    def __init__(self, source: Source, offset: int, length: int) -> None:
        self._source = source
        self._offset = offset
        self._length = length
        self._value: Any = None

    def settled(self) -> Any:
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


class OldString(Piece):
    """A `str` of Python 2: bytes when an array is made of it, else text."""

    __slots__ = ()

    @staticmethod
    def decode(raw: bytes) -> str:
        """Text in which every character is one byte."""
        return raw.decode("latin1")


class Text(Piece):
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


class TextLine(Text):
    """A text of protocol 0."""

    __slots__ = ()

    @staticmethod
    def decode(raw: bytes) -> str:
        """Text with escapes for what is not latin-1."""
        return raw.decode("raw-unicode-escape")


class OldStringLine(Text):
    """A `str` of Python 2 in protocol 0: quoted, with escapes."""

    __slots__ = ()

    @staticmethod
    def decode(raw: bytes) -> str:
        """Text between its quotes."""
        if len(raw) < 2 or raw[:1] != raw[-1:] or raw[:1] not in (b"'", b'"'):
            raise DamagedError("a string without quotes")
        return codecs.escape_decode(raw[1:-1])[0].decode("latin1")


class Arguments(Unsettled):
    """A tuple of which an item is unsettled: usually the arguments of a call, sometimes just a tuple."""

    __slots__ = ("_value", "items")

    def __init__(self, items: tuple[Any, ...]) -> None:
        self.items = items
        self._value: tuple[Any, ...] | None = None

    def settled(self) -> tuple[Any, ...]:
        """The tuple with every item settled."""
        if self._value is None:
            self._value = tuple(settle(item) for item in self.items)
        return self._value


class Function(Unsettled):
    """A global of the few that are known; it stands for one of our own functions, never for the global itself."""

    __slots__ = ("call", "name")

    def __init__(self, name: str, call: Callable[[Source, tuple[Any, ...]], Any]) -> None:
        self.name = name
        self.call = call

    def settled(self) -> Any:
        """Refuse: no function is plain data."""
        raise UnsafeError(f"{self.name} as a value")


def settle(value: Any) -> Any:
    """What the result gets in place of a value: mostly the value itself."""
    return value.settled() if isinstance(value, Unsettled) else value


def tuple_of(items: list[Any]) -> tuple[Any, ...] | Arguments:
    """A tuple that can be the arguments of a call; of the tuples in it, which cannot, none is left unsettled."""
    if not any(isinstance(item, Unsettled) for item in items):
        return tuple(items)
    return Arguments(tuple(item.settled() if type(item) is Arguments else item for item in items))


def items_of(arguments: Any) -> tuple[Any, ...]:
    """The items of a tuple of arguments or of a state, settled or not."""
    if type(arguments) is Arguments:
        return arguments.items
    if type(arguments) is not tuple:
        raise UnsafeError(f"a call or a state with a {type_name(arguments)} in place of a tuple")
    return arguments


def type_name(value: Any) -> str:
    """What a value is, for a message."""
    return value.name if type(value) is Function else type(value).__name__.lower()
