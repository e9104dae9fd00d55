"""Losses take NumPy arrays and lists where they take tensors."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from fewshot_bench.arguments import unknown_argument
from fewshot_bench.errors import ArgumentError
from fewshot_bench.plugins import described

F = TypeVar("F", bound=Callable[..., Any])


def takes_arrays(loss: F) -> F:
    """Decorate a loss to take arrays and lists, which become tensors on the device of its first tensor.

    Where all are tensors, nothing is done to them.

    >>> from fewshot_bench.losses import cross_entropy
    >>> round(float(cross_entropy([[2.0, 0.0]], [0])), 4)
    0.1269
    """
    tensors = [name for name, parameter in signature(loss).parameters.items() if parameter.annotation == "Tensor"]

    @wraps(loss)
    def take(*args: Any, **kwargs: Any) -> Any:
        named = {name: kwargs[name] for name in tensors if name in kwargs}
        if not all(isinstance(value, Tensor) for value in (*args, *named.values())):
            device = next((value.device for value in (*args, *named.values()) if isinstance(value, Tensor)), None)
            args = tuple(_tensor(loss.__name__, value, device) for value in args)
            kwargs |= {name: _tensor(loss.__name__, value, device) for name, value in named.items()}
        try:
            return loss(*args, **kwargs)
        except (TypeError, AttributeError, IndexError, OverflowError) as error:
            known = signature(loss).parameters
            unknown = next((name for name in kwargs if name not in known), None)
            if unknown is not None:
                raise unknown_argument(loss.__name__, unknown, known) from None
            raise error if isinstance(error, ArgumentError) else ArgumentError(f"{loss.__name__}: {error}.") from error

    return cast(F, take)


_ARRAYS = (np.ndarray, list, tuple)


def _tensor(name: str, value: Any, device: torch.device | None) -> Tensor:
    if isinstance(value, Tensor):
        return value
    try:
        if isinstance(value, _ARRAYS):
            return torch.as_tensor(value, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(f"{name} takes arrays of numbers: {error}.") from error
    raise ArgumentError(f"{name} takes tensors, arrays and lists of numbers, not {described(value)}.")
