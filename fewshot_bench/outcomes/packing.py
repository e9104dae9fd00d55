"""Predictions of an episode in few bytes: several digits of base N in each, for 5-way episodes three.

Stored like this and compressed, predictions of 75 queries take 16 bytes where one byte each takes 20 and three bits
each 19, all of them compressed too; benchmarks/README.md has the table. Above 256 classes each takes two bytes.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.errors import ShapeError

Positions: TypeAlias = NDArray[Any]
"""Positions of classes within an episode, of `position_type`."""

_VALUES = 256  # of a byte
_CONFIDENCES = 65_535


def position_type(way: int) -> np.dtype[Any]:
    """The smallest type for the position of one of N classes: one byte up to 256 classes, two above.

    >>> position_type(256), position_type(257)
    (dtype('uint8'), dtype('uint16'))
    """
    return np.dtype(np.uint8) if way <= _VALUES else np.dtype("<u2")


def digits_per_byte(way: int) -> int:
    """The number of predictions of N-way episodes, N up to 256, that fit into one byte."""
    digits = 1
    while max(2, way) ** (digits + 1) <= _VALUES:
        digits += 1
    return digits


def packed_size(queries: int, way: int) -> int:
    """Bytes that the predictions of an episode with M `queries` take in a protocol of N `way`."""
    return 2 * queries if way > _VALUES else -(-queries // digits_per_byte(way))


def packed(predictions: Positions, way: int) -> NDArray[np.uint8]:
    """Pack predictions.

    Args:
        predictions: position of the predicted class of every query, [E, M].
        way: N, the largest of the protocol.

    Returns:
        Bytes, the first prediction in the lowest digit of the first, uint8 [E, packed_size].

    Raises:
        ShapeError: a prediction names a class beyond N.
    """
    if predictions.size and int(predictions.max()) >= way:
        raise ShapeError(f"a prediction names class {int(predictions.max())} of {way}-way episodes, counted from 0.")
    if way > _VALUES:
        return np.ascontiguousarray(predictions, position_type(way)).view(np.uint8)
    episodes, queries = predictions.shape
    digits, size = digits_per_byte(way), packed_size(queries, way)
    filled = np.zeros((episodes, size * digits), dtype=np.uint8)
    filled[:, :queries] = predictions
    values: NDArray[np.uint8] = (filled.reshape(episodes, size, digits) @ _powers(way)).astype(np.uint8)
    return values


def is_packed(content: NDArray[np.uint8], queries: int, way: int) -> bool:
    """Whether `packed` can make these bytes.

    Args:
        content: of the episodes, uint8 [E, any size].
        queries: M, of these episodes.
        way: N, the largest of the protocol.
    """
    if content.shape[1] != packed_size(queries, way):
        return False
    if not content.size:
        return True
    if way > _VALUES:
        return int(content.view(position_type(way)).max()) < way
    digits = digits_per_byte(way)
    in_last = queries - (content.shape[1] - 1) * digits
    return bool((content < max(2, way) ** digits).all() and (content[:, -1] < max(2, way) ** in_last).all())


def unpacked(content: NDArray[np.uint8], queries: int, way: int) -> Positions | None:
    """Unpack predictions.

    Args:
        content: as `packed` makes it, uint8 [E, packed_size].
        queries: M, of these episodes.
        way: N, the largest of the protocol.

    Returns:
        Position of the predicted class of every query, of `position_type`, [E, M]; None if `packed` cannot make these
        bytes.
    """
    if not is_packed(content, queries, way):
        return None
    if way > _VALUES:
        return content.view(position_type(way))
    every = _digits_of_every_byte(way)[content].reshape(len(content), content.shape[1] * digits_per_byte(way))
    return np.ascontiguousarray(every[:, :queries])


def packed_confidence(confidence: NDArray[np.floating[Any]], way: int) -> NDArray[np.uint16]:
    """Pack the probabilities of predicted classes in two bytes each.

    Args:
        confidence: of the predictions, [E].
        way: C; the most probable of C classes has a probability of 1/C at least.

    Returns:
        In units of 1/65,535, rounded, uint16 [E].

    Raises:
        ShapeError: one is not such a probability.
    """
    if not (np.isfinite(confidence).all() and (confidence >= 0).all() and (confidence <= 1).all()):
        raise ShapeError("confidence should be probabilities, from 0 to 1.")
    values = np.rint(np.asarray(confidence, np.float64) * _CONFIDENCES).astype(np.uint16)
    if not are_confidences(values, way):
        least = float(np.min(confidence))
        raise ShapeError(f"confidence should be that of the most probable of {way:,} classes, not {least:.3g}.")
    return values


def are_confidences(values: NDArray[np.uint16], way: int) -> bool:
    """Whether `packed_confidence` can make these numbers for C `way` classes; one unit is left for rounding."""
    return not values.size or int(values.min()) >= math.floor(_CONFIDENCES / way) - 1


def unpacked_confidence(values: NDArray[np.uint16]) -> NDArray[np.float64]:
    """The probabilities that `packed_confidence` packed, [E]."""
    return values / _CONFIDENCES


def _powers(way: int) -> NDArray[np.int64]:
    return max(2, way) ** np.arange(digits_per_byte(way))


@cache
def _digits_of_every_byte(way: int) -> NDArray[np.uint8]:
    """The digits of each value of a byte, uint8 [256, digits]."""
    values: NDArray[np.uint8] = (np.arange(_VALUES)[:, None] // _powers(way) % max(2, way)).astype(np.uint8)
    return values
