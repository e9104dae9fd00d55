"""Arrays and dtypes, built step by step from parts that are checked."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.datasets.safe_pickle.source import DamagedError, Source, UnsafeError
from fewshot_bench.datasets.safe_pickle.unsettled import Buffer, Piece, Unsettled, type_name

_LARGEST_ARRAY = 2**48
_MOST_DIMENSIONS = 32


class Dtype(Unsettled):
    """A dtype between the call that names its type and the state that says its byte order."""

    __slots__ = ("_has_state", "dtype")

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self._has_state = False

    def settled(self) -> Any:
        """Refuse: no dtype is plain data."""
        raise UnsafeError("numpy.dtype as a value")

    def set_state(self, source: Source, state: tuple[Any, ...]) -> None:
        """Take the byte order of (version, byte order, subarray, names, fields, item size, alignment, flags)."""
        if self._has_state or len(state) != 8 or state[1] not in ("<", ">", "|") or state[5] not in (-1, self._size):
            raise DamagedError("a dtype whose state is not one")
        if any(part is not None for part in state[2:5]):
            raise UnsafeError("a structured dtype")
        self.dtype = self.dtype.newbyteorder(state[1])
        self._has_state = True

    @property
    def _size(self) -> int:
        return self.dtype.itemsize


class Array(Unsettled):
    """An array between the call that makes an empty one and the state with its shape and data."""

    __slots__ = ("_array",)

    def __init__(self) -> None:
        self._array: NDArray[Any] | None = None

    def settled(self) -> NDArray[Any]:
        """The array, once it has its data."""
        if self._array is None:
            raise DamagedError("an array without data")
        return self._array

    def set_state(self, source: Source, state: tuple[Any, ...]) -> None:
        """Take (version, shape, dtype, whether in Fortran order, data)."""
        if self._array is not None or len(state) != 5 or state[0] != 1 or type(state[3]) not in (bool, int):
            raise DamagedError("an array whose state is not one")
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
    if isinstance(data, Piece):
        return data.buffer()
    if type(data) is str:
        data = data.encode("latin1")
    if type(data) is not bytes:
        raise UnsafeError(f"an array of Python objects (its data are {type_name(data)})")
    return data, 0, len(data)


def _bytes_in(shape: tuple[Any, ...], itemsize: int) -> int:
    if len(shape) > _MOST_DIMENSIONS or any(type(extent) is not int or extent < 0 for extent in shape):
        raise DamagedError("an array whose shape is not one")
    # Empty arrays may have large extents too, but not such that their product overflows in NumPy.
    if itemsize * math.prod(max(extent, 1) for extent in shape) > _LARGEST_ARRAY:
        raise DamagedError("an array of an absurd shape")
    return itemsize * int(math.prod(shape))


def _check_characters(array: NDArray[Any]) -> None:
    """NumPy does not check code points, and Python fails with a SystemError when it meets a false one."""
    if array.size and array.reshape(-1, order="A").view(array.dtype.byteorder + "u4").max() > 0x10FFFF:
        raise DamagedError("a character that does not exist")
