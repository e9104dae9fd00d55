"""The schema of outcomes: one row per episode."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fewshot_bench.errors import ShapeError
from fewshot_bench.outcomes.kinds import LARGEST_WAY

COLUMNS = ("run", "episode", "correct", "accuracy", "predictions", "seconds")
_EPISODE_BITS = 32


def episode_keys(frame: pd.DataFrame) -> NDArray[np.int64]:
    """Run and episode of each row as one number, in the order of both, [E]."""
    keys: NDArray[np.int64] = (frame["run"].to_numpy(np.int64) << _EPISODE_BITS) | frame["episode"].to_numpy(np.int64)
    return keys


def run_and_episode(keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The runs and the episodes that `episode_keys` has put together, each [E]."""
    return keys >> _EPISODE_BITS, keys & ((1 << _EPISODE_BITS) - 1)


def even_truth(way: int, queries: int) -> NDArray[np.uint8]:
    """Position of each query's true class, [M]; queries are ordered class by class, and every class has as many.

    Args:
        way: N.
        queries: M = N * Q, queries per episode.
    """
    return np.repeat(np.arange(way, dtype=np.uint8), queries // way)


def episode_frame(
    run: int,
    numbers: NDArray[np.int64],
    predictions: NDArray[np.uint8],
    way: int,
    seconds: float = math.nan,
    *,
    truth: NDArray[np.uint8] | None = None,
) -> pd.DataFrame:
    """Say what a method did on each of some episodes of one run.

    Args:
        run: number of the run, from 0.
        numbers: which episodes of the run, [E].
        predictions: position of the predicted class of every query, queries class by class, uint8 [E, M].
        way: N.
        seconds: time per episode; NaN where nobody measured it.
        truth: position of the true class of every query, uint8 [E, M]; by default every class has as many.

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
    elif truth.dtype != np.uint8 or truth.shape != predictions.shape or (truth.size and int(truth.max()) >= way):
        raise ShapeError(
            f"the truth must name classes of {way}-way episodes, uint8 {list(predictions.shape)}, not {truth.dtype} "
            f"{list(truth.shape)}{f' up to class {int(truth.max())}' if truth.size else ''}."
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
        raise ShapeError(f"outcomes hold class positions in one byte: way must be 1 to {LARGEST_WAY}, not {way}.")
    if predictions.dtype != np.uint8 or predictions.ndim != 2:
        raise ShapeError(f"predictions must be uint8 [E, N * Q], not {predictions.dtype} {list(predictions.shape)}.")
    if numbers.shape != predictions.shape[:1]:
        raise ShapeError(f"there are {len(numbers)} episode numbers, but predictions of {len(predictions)} episodes.")
    if predictions.shape[1] == 0 or predictions.shape[1] % way:
        raise ShapeError(
            f"{predictions.shape[1]} queries per episode are not the same number for each of {way} classes."
        )
    if predictions.size and int(predictions.max()) >= way:
        raise ShapeError(f"a prediction names class {int(predictions.max())} of {way}-way episodes, counted from 0.")
