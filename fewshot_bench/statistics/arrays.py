"""What the other files ask of the arrays that they are given."""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewshot_bench.errors import ComparisonError, ShapeError

# The smallest positive number in full precision: no test can show a probability of 0, only one too small to write down.
SMALLEST_P = sys.float_info.min
# How far rounding moves a value, relative to the largest one: accuracies come from a division, differences from two.
ROUNDING = 64 * sys.float_info.epsilon
# A fraction may lie so much above 1 where a file was written in single precision.
ABOVE_ONE = 1e-6


def accuracies_of_episodes(accuracies: ArrayLike) -> NDArray[np.float64]:
    """Accuracies, [E], as finite float64.

    Raises:
        ShapeError: there is no episode, or an accuracy is NaN or infinite.
    """
    values = np.asarray(accuracies, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ShapeError(f"a mean over episodes needs accuracies [E] of at least one, not {list(values.shape)}.")
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise ShapeError(
            f"accuracies must be finite numbers; {bad} of {len(values)} are NaN or infinite. Run those episodes again."
        )
    return values


def paired_values(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two arrays of paired values, [E], as finite float64.

    Raises:
        ShapeError: the arrays do not pair up, hold NaN or what is not a number.
        ComparisonError: there are fewer than two pairs.
    """
    try:
        first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ShapeError(f"paired values must be two arrays [E] of numbers: {error}.") from error
    if first.ndim != 1 or first.shape != second.shape:
        raise ShapeError(f"paired values must be two arrays [E], not {list(first.shape)} and {list(second.shape)}.")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ShapeError("paired values must be finite numbers; some are NaN or infinite.")
    if len(first) < 2:
        raise ComparisonError(f"a paired t-test needs two episodes or more; there are {len(first)} in common.")
    return first, second


def accuracies_as_fractions(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Accuracies of two methods, [E], both in percent or both as fractions; a value above 1 makes both percentages.

    Raises:
        ShapeError: they do not pair up, hold NaN, are out of range, or one seems to be in percent and the other not.
        ComparisonError: there are fewer than two pairs.
    """
    first, second = paired_values(a, b)
    lowest, highest = min(first.min(), second.min()), max(first.max(), second.max())
    if lowest < 0 or highest > 100:
        raise ShapeError(
            f"accuracies lie between 0 and 1, or 0 and 100%, not at {lowest if lowest < 0 else highest:g}."
        )
    if highest <= 1 + ABOVE_ONE:
        return np.minimum(first, 1.0), np.minimum(second, 1.0)
    for values in (first, second):
        small = (values > 0) & (values <= 1)
        if small.any():
            raise ShapeError(
                f"accuracies mix percent and fractions: {highest:g} is a percentage, and {values[small][0]:g} is not. "
                "Convert one of them."
            )
    return first / 100, second / 100


def rounding_error(*values: NDArray[np.float64]) -> float:
    """How much of a difference between such values may be rounding."""
    return ROUNDING * max(float(np.abs(array).max()) for array in values)


def require_positive(**numbers: float) -> None:
    """Refuse numbers that are not finite and greater than 0; their keywords name them in the message.

    Raises:
        ShapeError: one of them is not.
    """
    for name, number in numbers.items():
        if not 0 < number < np.inf:
            raise ShapeError(f"{name.replace('_', ' ')} must be a finite number greater than 0, not {number}.")


def require_probability(**numbers: float) -> None:
    """Refuse numbers that do not lie between 0 and 1, without the ends; their keywords name them in the message.

    Raises:
        ShapeError: one of them does not.
    """
    for name, number in numbers.items():
        if not 0 < number < 1:
            raise ShapeError(f"{name.replace('_', ' ')} must lie between 0 and 1, not {number}.")
