"""The schema of outcomes: one row per episode."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fewshot_bench.errors import ShapeError
from fewshot_bench.limits import LARGEST_WAY
from fewshot_bench.outcomes.packing import Positions, position_type

COLUMNS = ("run", "episode", "correct", "accuracy", "predictions", "seconds")
_EPISODE_BITS = 32


def episode_keys(frame: pd.DataFrame) -> NDArray[np.int64]:
    """Run and episode of each row as one number, in the order of both, [E]."""
    keys: NDArray[np.int64] = (frame["run"].to_numpy(np.int64) << _EPISODE_BITS) | frame["episode"].to_numpy(np.int64)
    return keys


def run_and_episode(keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The runs and the episodes that `episode_keys` has put together, each [E]."""
    return keys >> _EPISODE_BITS, keys & ((1 << _EPISODE_BITS) - 1)


def query_counts(predictions: pd.Series, way: int) -> NDArray[np.int32]:
    """How many queries each episode has, [E].

    Args:
        predictions: of a frame, as bytes, [E].
        way: N, the largest of the protocol.
    """
    return predictions.map(len).to_numpy(np.int32) // np.int32(position_type(way).itemsize)


def positions_of(predictions: pd.Series, way: int) -> Positions:
    """The predicted classes of all queries of some episodes, one episode after the other, of `position_type`.

    Args:
        predictions: of a frame, as bytes, [E].
        way: N, the largest of the protocol.
    """
    return np.frombuffer(b"".join(predictions), position_type(way))


def padded_positions(predictions: pd.Series, way: int, most: int) -> Positions:
    """The predicted classes of the queries of each episode, [E, M].

    Args:
        predictions: of a frame, as bytes, [E].
        way: N, the largest of the protocol.
        most: M, queries of the episode that has most.

    Returns:
        Positions in the smallest type that has a value besides; that value, its largest, where an episode has fewer.
    """
    counts = query_counts(predictions, way)
    kind = position_type(way + 1)
    if (counts == most).all():
        return positions_of(predictions, way).reshape(len(counts), most).astype(kind, copy=False)
    padded = np.full((len(counts), most), np.iinfo(kind).max, kind)
    padded[np.arange(most) < counts[:, None]] = positions_of(predictions, way)
    return padded


def even_truth(way: int, queries: int) -> Positions:
    """Position of each query's true class, [M]; queries are ordered class by class, and every class has as many.

    Args:
        way: N.
        queries: M = N * Q, queries per episode.
    """
    return np.repeat(np.arange(way).astype(position_type(way)), queries // way)


def episode_frame(
    run: int,
    numbers: NDArray[np.int64],
    predictions: Positions,
    way: int,
    seconds: float = math.nan,
    *,
    truth: Positions | None = None,
) -> pd.DataFrame:
    """Say what a method did on each of some episodes of one run.

    Args:
        run: number of the run, from 0.
        numbers: which episodes of the run, [E].
        predictions: position of the predicted class of every query, queries class by class, [E, M]; of
            `position_type` of the protocol's largest N.
        way: N of these episodes.
        seconds: time per episode; NaN where nobody measured it.
        truth: position of the true class of every query, [E, M]; by default every class has as many.

    Returns:
        A frame with the columns run, episode, correct, accuracy, predictions (bytes) and seconds, [E].

    Raises:
        ShapeError: the predictions or the truth are not those of N-way episodes.
    """
    predictions = np.ascontiguousarray(predictions)
    numbers = np.asarray(numbers)
    _check(numbers, predictions, way)
    if truth is None:
        truth = even_truth(way, predictions.shape[1])
    elif truth.dtype.kind != "u" or truth.shape != predictions.shape or (truth.size and int(truth.max()) >= way):
        raise ShapeError(
            f"the truth must name classes of {way}-way episodes, {position_type(way)} {list(predictions.shape)}, not "
            f"{truth.dtype} {list(truth.shape)}{f' up to class {int(truth.max())}' if truth.size else ''}."
        )
    correct = (predictions == truth).sum(axis=1)
    return pd.DataFrame(
        {
            "run": np.full(len(numbers), run, dtype=np.int16),
            "episode": numbers.astype(np.int32),
            "correct": correct.astype(np.int32),
            "accuracy": correct / predictions.shape[1],
            "predictions": pd.Series([row.tobytes() for row in predictions], dtype=object),
            "seconds": np.full(len(numbers), seconds, dtype=np.float64),
        }
    )


def stretches(frame: pd.DataFrame) -> list[pd.DataFrame]:
    """Cut a frame, sorted by episode, wherever the numbers are not consecutive."""
    return [frame.iloc[start:end] for start, end in consecutive(frame["episode"].to_numpy())]


def consecutive(numbers: NDArray[np.integer[Any]]) -> list[tuple[int, int]]:
    """From where to where in sorted numbers, [E], each follows the one before."""
    cuts = [0, *(np.flatnonzero(np.diff(numbers) != 1) + 1), len(numbers)]
    return [(int(start), int(end)) for start, end in pairwise(cuts) if end > start]


def _check(numbers: NDArray[np.int64], predictions: NDArray[np.uint8], way: int) -> None:
    if not 1 <= way <= LARGEST_WAY:
        raise ShapeError(f"way must be 1 to {LARGEST_WAY:,}, not {way}.")
    kinds = dict.fromkeys((position_type(way), position_type(LARGEST_WAY)))  # the larger for a protocol of a larger N
    if predictions.dtype not in kinds or predictions.ndim != 2:
        raise ShapeError(
            f"predictions must be {' or '.join(map(str, kinds))} [E, N * Q], not {predictions.dtype} "
            f"{list(predictions.shape)}."
        )
    if numbers.shape != predictions.shape[:1]:
        raise ShapeError(f"there are {len(numbers)} episode numbers, but predictions of {len(predictions)} episodes.")
    if predictions.shape[1] == 0 or predictions.shape[1] % way:
        raise ShapeError(
            f"{predictions.shape[1]} queries per episode are not the same number for each of {way} classes."
        )
    if predictions.size and int(predictions.max()) >= way:
        raise ShapeError(f"a prediction names class {int(predictions.max())} of {way}-way episodes, counted from 0.")
