"""NumPy arrays from what people hold numbers in: lists, arrays, and tensors on any device."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

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
