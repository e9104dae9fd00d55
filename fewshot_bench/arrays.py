"""NumPy arrays from what people hold numbers in: lists, arrays, and tensors on any device."""

from __future__ import annotations

import operator
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.errors import PositionError, ShapeError

_REAL = "fiu"


def as_array(values: Any) -> NDArray[Any]:
    """Values as a NumPy array; a tensor is copied to the CPU and loses its gradient, bfloat16 becomes float32.

    >>> as_array([0.5, 0.25])
    array([0.5 , 0.25])
    """
    if hasattr(values, "detach") and hasattr(values, "cpu"):
        values = values.detach().cpu()
        if str(values.dtype) == "torch.bfloat16":
            values = values.float()
        return np.asarray(values.numpy())
    return np.asarray(values)


def is_real(array: NDArray[Any]) -> bool:
    """Whether an array holds real numbers: integers or floating point, not truth values, complex numbers or objects."""
    return array.dtype.kind in _REAL


def as_floats(values: Any) -> NDArray[np.float64]:
    """Numbers as float64, from whatever holds them; raises ShapeError for anything else, or rows of several lengths."""
    try:
        return np.asarray(as_array(values), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ShapeError(f"values should be an array of numbers: {error}.") from error


def is_position(key: Any) -> bool:
    """Whether something is one position, such as 3 or an element of an array, and no slice or array."""
    return isinstance(key, SupportsIndex) and not isinstance(key, bool) and not getattr(key, "ndim", 0)


def checked_position(key: Any, count: int, owner: str) -> int:
    """A position among so many, from 0; one from the end where it is negative.

    Raises:
        PositionError: there is nothing at that position.
    """
    position = operator.index(key)
    if not -count <= position < count:
        raise PositionError(f"{owner} has positions 0 to {count - 1:,}, not {position:,}.")
    return position % count


def checked_positions(key: Any, count: int, owner: str) -> slice | NDArray[Any]:
    """A slice, or positions or a mask as an array.

    Raises:
        PositionError: there is nothing at one of the positions.
        ShapeError: it is something else.
    """
    if isinstance(key, slice):
        return key
    array = as_array(key)
    if array.dtype == np.bool_ and array.shape == (count,):
        return np.flatnonzero(array)
    if array.ndim != 1 or not (array.dtype.kind in "iu" or not array.size):
        raise ShapeError(
            f"{owner} is indexed by a position, a slice, positions or a mask [{count:,}], not {key!r:.40}."
        )
    return np.array([checked_position(position, count, owner) for position in array.tolist()], np.int64)
