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

F = TypeVar("F", bound=Callable[..., Any])


def takes_arrays(loss: F) -> F:
    """Decorate a loss to take arrays and lists, which become tensors on the device of its first tensor.

    Where all are tensors, nothing is done to them.

    >>> from fewshot_bench.losses import cross_entropy
    >>> round(float(cross_entropy([[2.0, 0.0]], [0])), 4)
    0.1269
    """

    @wraps(loss)
    def take(*args: Any, **kwargs: Any) -> Any:
        if not all(isinstance(value, Tensor) for value in args):
            args = _as_tensors(loss.__name__, args, [*args, *kwargs.values()])
        if any(isinstance(value, np.ndarray | list | tuple) for value in kwargs.values()):
            kwargs = dict(
                zip(kwargs, _as_tensors(loss.__name__, kwargs.values(), [*args, *kwargs.values()]), strict=True)
            )
        try:
            return loss(*args, **kwargs)
        except TypeError as error:
            try:
                signature(loss).bind(*args, **kwargs)
            except TypeError:
                known = signature(loss).parameters
                unknown = next((name for name in kwargs if name not in known), None)
                if unknown is not None:
                    raise unknown_argument(loss.__name__, unknown, known) from None
            raise ArgumentError(f"{loss.__name__}: {error}.") from error

    return cast(F, take)


def _as_tensors(name: str, values: Any, everything: list[Any]) -> tuple[Any, ...]:
    device = next((value.device for value in everything if isinstance(value, Tensor)), None)
    return tuple(
        _tensor(name, value, device) if isinstance(value, np.ndarray | list | tuple) else value for value in values
    )


def _tensor(name: str, value: Any, device: torch.device | None) -> Tensor:
    try:
        return torch.as_tensor(value, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(f"{name} takes arrays of numbers: {error}.") from error
