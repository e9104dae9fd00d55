"""Outcomes in memory: a frame with one row per episode, and the checks that it can be stored."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fewshot_bench._io.notebooks import html_facts
from fewshot_bench.errors import ShapeError
from fewshot_bench.limits import LARGEST_EPISODE, LARGEST_WAY, MOST_RUNS
from fewshot_bench.outcomes.cell import Cell, ProtocolCard
from fewshot_bench.outcomes.claimed import check_claimed
from fewshot_bench.outcomes.packing import (
    Positions,
    packed_confidence,
    position_type,
    unpacked_confidence,
)

COLUMNS = ("run", "episode", "correct", "accuracy", "predictions", "seconds")
CONFIDENCE = "confidence"
"""The additional column of outcomes of whole splits."""
_EPISODE_BITS = 32
_DTYPE_KINDS = {"run": "iu", "episode": "iu", "correct": "iu", "accuracy": "f", "seconds": "fiu"}
_LARGEST = {"run": MOST_RUNS - 1, "episode": LARGEST_EPISODE}


def episode_keys(frame: pd.DataFrame) -> NDArray[np.int64]:
    """Run and episode of each row as one number, in the same order, [E]."""
    keys: NDArray[np.int64] = (frame["run"].to_numpy(np.int64) << _EPISODE_BITS) | frame["episode"].to_numpy(np.int64)
    return keys


def run_and_episode(keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The runs and episodes in keys of `episode_keys`, each [E]."""
    return keys >> _EPISODE_BITS, keys & ((1 << _EPISODE_BITS) - 1)


def query_counts(predictions: pd.Series, way: int) -> NDArray[np.int32]:
    """How many queries each episode has, [E], by the bytes of its predictions, [E], and N, the largest way."""
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
        most: M, the largest number of queries.

    Returns:
        Positions in the smallest type with one more value: its largest fills up episodes with fewer queries.
    """
    counts = query_counts(predictions, way)
    kind = position_type(way + 1)
    if (counts == most).all():
        return positions_of(predictions, way).reshape(len(counts), most).astype(kind, copy=False)
    padded = np.full((len(counts), most), np.iinfo(kind).max, kind)
    padded[np.arange(most) < counts[:, None]] = positions_of(predictions, way)
    return padded


def even_truth(way: int, queries: int) -> Positions:
    """Position of each query's true class, [M], for N `way`: M `queries` class by class, equally many for each."""
    return np.repeat(np.arange(way).astype(position_type(way)), queries // way)


def episode_frame(
    run: int,
    numbers: NDArray[np.int64],
    predictions: Positions,
    way: int,
    seconds: float = math.nan,
    *,
    truth: Positions | None = None,
    confidence: NDArray[np.floating[Any]] | None = None,
) -> pd.DataFrame:
    """The outcomes of a method on episodes of one run.

    Args:
        run: number of the run, from 0.
        numbers: of the episodes, [E].
        predictions: position of the predicted class of every query, queries class by class, [E, M]; of
            `position_type` of the protocol's largest N.
        way: N of these episodes.
        seconds: time per episode; NaN if it was not measured.
        truth: position of the true class of every query, [E, M]; by default every class has equally many.
        confidence: probability of the predicted class, of whole splits alone, [E]; rounded to what is stored.

    Returns:
        A frame with the columns run, episode, correct, accuracy, predictions (bytes), seconds and, where it is given,
        confidence, [E].

    Raises:
        ShapeError: the predictions or the truth are not those of N-way episodes.
    """
    predictions = np.ascontiguousarray(predictions)
    numbers = np.asarray(numbers)
    _check(numbers, predictions, way, is_even=truth is None)
    if truth is None:
        truth = even_truth(way, predictions.shape[1])
    elif truth.dtype.kind != "u" or truth.shape != predictions.shape or (truth.size and int(truth.max()) >= way):
        raise ShapeError(
            f"the truth must name classes of {way}-way episodes, {position_type(way)} {list(predictions.shape)}, not "
            f"{truth.dtype} {list(truth.shape)}{f' up to class {int(truth.max())}' if truth.size else ''}."
        )
    correct = (predictions == truth).sum(axis=1)
    rounded = {} if confidence is None else {CONFIDENCE: unpacked_confidence(packed_confidence(confidence, way))}
    return pd.DataFrame(
        {
            "run": np.full(len(numbers), run, dtype=np.int16),
            "episode": numbers.astype(np.int32),
            "correct": correct.astype(np.int32),
            "accuracy": correct / predictions.shape[1],
            "predictions": pd.Series([row.tobytes() for row in predictions], dtype=object),
            "seconds": np.full(len(numbers), seconds, dtype=np.float64),
            **rounded,
        }
    )


def split_consecutive(frame: pd.DataFrame) -> list[pd.DataFrame]:
    """Split a frame, sorted by episode, wherever the numbers are not consecutive."""
    return [frame.iloc[start:end] for start, end in consecutive(frame["episode"].to_numpy())]


def consecutive(numbers: NDArray[np.integer[Any]]) -> list[tuple[int, int]]:
    """The start and end of each range of consecutive numbers in sorted numbers, [E]."""
    cuts = [0, *(np.flatnonzero(np.diff(numbers) != 1) + 1), len(numbers)]
    return [(int(start), int(end)) for start, end in pairwise(cuts) if end > start]


def _check(numbers: NDArray[np.int64], predictions: NDArray[np.uint8], way: int, *, is_even: bool) -> None:
    if not 1 <= way <= LARGEST_WAY:
        raise ShapeError(f"way must be 1 to {LARGEST_WAY:,}, not {way}.")
    dtypes = dict.fromkeys((position_type(way), position_type(LARGEST_WAY)))  # the larger for a protocol of a larger N
    if predictions.dtype not in dtypes or predictions.ndim != 2:
        raise ShapeError(
            f"predictions must be {' or '.join(map(str, dtypes))} [E, N * Q], not {predictions.dtype} "
            f"{list(predictions.shape)}."
        )
    if numbers.shape != predictions.shape[:1]:
        raise ShapeError(f"there are {len(numbers)} episode numbers, but predictions of {len(predictions)} episodes.")
    if predictions.shape[1] == 0 or (is_even and predictions.shape[1] % way):
        raise ShapeError(
            f"{predictions.shape[1]} queries per episode are not the same number for each of {way} classes."
        )
    if predictions.size and int(predictions.max()) >= way:
        raise ShapeError(f"a prediction names class {int(predictions.max())} of {way}-way episodes, counted from 0.")


@dataclass(frozen=True, eq=False)
class Outcomes:
    """A cell and one row per episode, as `episode_frame` makes them.

    Attributes:
        cell: the method and the protocol.
        frame: columns run, episode, correct, accuracy, predictions, seconds, [E]; of whole splits confidence too.

    >>> import fewshot_bench as fb
    >>> novel = fb.open_dataset("glyphs").novel
    >>> episodes = fb.sample_episodes(novel, fb.Protocol("glyphs", shot=5, episodes=50, runs=1))
    >>> outcomes = fb.evaluate("centroid", novel.images.reshape(len(novel), -1), episodes).outcomes
    >>> outcomes
    <Outcomes: centroid, glyphs 5-way 5-shot, 50 episodes, 60.05%>
    >>> outcomes.accuracy.shape, outcomes.predictions.shape
    ((50,), (50, 75))
    """

    cell: Cell
    frame: pd.DataFrame

    def __repr__(self) -> str:
        protocol, accuracy = self.cell.protocol, 100 * self.frame["accuracy"].mean()
        task = f"{protocol.dataset} {protocol.way}-way {protocol.shot}-shot"
        return f"<Outcomes: {self.cell.method.marked_name}, {task}, {len(self.frame):,} episodes, {accuracy:.2f}%>"

    def _repr_html_(self) -> str:
        protocol, mean = self.cell.protocol, 100 * self.frame["accuracy"].mean()
        facts = {"tasks": protocol.task, "episodes": len(self), "mean accuracy": f"{mean:.2f}%"}
        return html_facts(self.cell.method.marked_name, facts)

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """Fraction of the queries classified correctly, [E]."""
        return self.frame["accuracy"].to_numpy(np.float64)

    @property
    def run(self) -> NDArray[np.int64]:
        """Run of each episode, [E]."""
        return self.frame["run"].to_numpy(np.int64)

    @property
    def episode(self) -> NDArray[np.int64]:
        """Number of each episode within its run, [E]."""
        return self.frame["episode"].to_numpy(np.int64)

    @property
    def predictions(self) -> Positions:
        """Position of the predicted class of every query, [E, M].

        An episode with fewer queries is filled up with the largest value of the type: 255, or 65,535.
        """
        card = self.cell.protocol
        return padded_positions(self.frame["predictions"], card.way, card.queries_per_episode[-1])

    def __len__(self) -> int:
        return len(self.frame)


def check_frame(cell: Cell, frame: object) -> None:
    """See that a frame can be stored: one of `episode_frame` or several together, that fits the cell's protocol.

    The frame of a claimed cell is one of `claimed_frame`.

    Args:
        cell: that it belongs to.
        frame: any object.

    Raises:
        ShapeError: it is not such a frame, with the reason.
    """
    if cell.protocol.is_claimed:
        check_claimed(cell.protocol, frame)
        return
    if not isinstance(frame, pd.DataFrame):
        raise ShapeError(f"outcomes should be a pandas DataFrame, not {type(frame).__name__}.")
    expected = (*COLUMNS, CONFIDENCE) if cell.protocol.is_whole else COLUMNS
    if missing := [name for name in expected if list(frame.columns).count(name) != 1]:
        raise ShapeError(f"outcomes should have the column {missing[0]} once, besides {', '.join(expected)}.")
    for name, dtypes in _DTYPE_KINDS.items():
        dtype = frame[name].dtype
        if not (isinstance(dtype, np.dtype) and dtype.kind in dtypes):
            raise ShapeError(f"{name} should be {'numbers' if 'f' in dtypes else 'whole numbers'}, not {dtype}.")
    for name, largest in _LARGEST.items():
        if not frame[name].between(0, largest).all():
            raise ShapeError(f"{name} should be 0 to {largest:,}.")
    predictions = frame["predictions"].tolist()
    if set(map(type, predictions)) - {bytes}:
        raise ShapeError("predictions should be bytes, one for each query.")
    size = position_type(cell.protocol.way).itemsize
    if any(len(row) % size for row in predictions):
        raise ShapeError(f"predictions of {cell.protocol.task} should be {size} bytes for each query.")
    queries = query_counts(frame["predictions"], cell.protocol.way)
    _check_queries(cell.protocol, queries)
    _check_classes(cell.protocol, frame, queries)
    seconds = frame["seconds"].to_numpy(np.float64)
    if not (np.isnan(seconds) | (np.isfinite(seconds) & (seconds >= 0))).all():  # NaN if not measured
        raise ShapeError("seconds should be finite and 0 or more.")
    if cell.protocol.is_whole:
        if frame[CONFIDENCE].dtype.kind != "f":
            raise ShapeError(f"confidence should be numbers, not {frame[CONFIDENCE].dtype}.")
        packed_confidence(frame[CONFIDENCE].to_numpy(np.float64), cell.protocol.way)


def check_episodes(frame: pd.DataFrame, run: int, numbers: NDArray[np.int64]) -> None:
    """See that a frame holds certain episodes of one run, each once.

    Args:
        frame: that `check_frame` has accepted.
        run: number of the run.
        numbers: of the episodes, sorted, [E].

    Raises:
        ShapeError: it holds others.
    """
    found = np.sort(frame["episode"].to_numpy())
    if not ((frame["run"] == run).all() and np.array_equal(found, numbers)):
        raise ShapeError(
            f"outcomes should be of the {len(numbers):,} episodes of run {run} that were asked for, {numbers[0]} to "
            f"{numbers[-1]}, each once; these {len(found):,} are others."
        )


def _check_queries(card: ProtocolCard, queries: NDArray[np.int32]) -> None:
    """See that the protocol allows the number of predictions of each episode."""
    expected = card.queries_per_episode
    found = next((count for count in np.unique(queries).tolist() if count not in expected), None)
    if found is not None:
        several = f" to {expected[-1]}" if len(expected) > 1 else ""
        raise ShapeError(
            f"{card.task} with {card.query} queries per class has {expected[0]}{several} predictions per episode, not "
            f"{found}."
        )


def _check_classes(card: ProtocolCard, frame: pd.DataFrame, queries: NDArray[np.int32]) -> None:
    """See that predictions name classes of the protocol, and that the counts are possible."""
    largest = int(positions_of(frame["predictions"], card.way).max(initial=0))
    if largest >= card.way:
        raise ShapeError(f"a prediction names class {largest} of {card.way}-way episodes, counted from 0.")
    correct = frame["correct"].to_numpy()
    if ((correct < 0) | (correct > queries)).any():
        raise ShapeError("correct should be the number of queries that were classified correctly.")
    if (frame["accuracy"].to_numpy(np.float64) != correct / queries).any():
        raise ShapeError("accuracy should be correct divided by the number of queries, in float64.")
