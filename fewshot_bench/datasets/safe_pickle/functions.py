"""The functions that a pickle can call. Each checks its arguments itself; too many or too few are a ValueError."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.datasets.safe_pickle.arrays import Array, Dtype, array_of
from fewshot_bench.datasets.safe_pickle.source import DamagedError, Source, UnsafeError
from fewshot_bench.datasets.safe_pickle.unsettled import Function, Piece, Text, type_name

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
