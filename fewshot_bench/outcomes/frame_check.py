"""See that a frame can be stored: anybody may have written what computed it, and what is stored is there for good."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fewshot_bench.errors import ShapeError
from fewshot_bench.limits import LARGEST_EPISODE, MOST_RUNS
from fewshot_bench.outcomes.cell import Cell, ProtocolCard
from fewshot_bench.outcomes.claimed import check_claimed
from fewshot_bench.outcomes.episode_frame import COLUMNS, positions_of, query_counts
from fewshot_bench.outcomes.packing import position_type

_KINDS = {"run": "iu", "episode": "iu", "correct": "iu", "accuracy": "f", "seconds": "fiu"}
"""Of the numbers in each column, as NumPy calls them."""
_LARGEST = {"run": MOST_RUNS - 1, "episode": LARGEST_EPISODE}


def check_frame(cell: Cell, frame: object) -> None:
    """See that a frame is one of `episode_frame`, or several together, and that its episodes are the protocol's.

    That of a claimed cell is one of `claimed_frame`.

    Args:
        cell: where it is to be stored.
        frame: whatever is said to be one.

    Raises:
        ShapeError: it is none, with what is wrong.
    """
    if cell.protocol.is_claimed:
        check_claimed(cell.protocol, frame)
        return
    if not isinstance(frame, pd.DataFrame):
        raise ShapeError(f"outcomes should be a pandas DataFrame, not {type(frame).__name__}.")
    if missing := [name for name in COLUMNS if list(frame.columns).count(name) != 1]:
        raise ShapeError(f"outcomes should have the column {missing[0]} once, besides {', '.join(COLUMNS)}.")
    for name, kinds in _KINDS.items():
        kind = frame[name].dtype
        if not (isinstance(kind, np.dtype) and kind.kind in kinds):
            raise ShapeError(f"{name} should be {'numbers' if 'f' in kinds else 'whole numbers'}, not {kind}.")
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
    if not (np.isnan(seconds) | (np.isfinite(seconds) & (seconds >= 0))).all():  # NaN where nobody measured them
        raise ShapeError("seconds should be finite and 0 or more.")


def check_episodes(frame: pd.DataFrame, run: int, numbers: NDArray[np.int64]) -> None:
    """See that a frame is about some episodes of one run, and about each of them once.

    Args:
        frame: that `check_frame` has found well.
        run: number of the run.
        numbers: of the episodes, sorted, [E].

    Raises:
        ShapeError: it is about others.
    """
    found = np.sort(frame["episode"].to_numpy())
    if not ((frame["run"] == run).all() and np.array_equal(found, numbers)):
        raise ShapeError(
            f"outcomes should be of the {len(numbers):,} episodes of run {run} that were asked for, {numbers[0]} to "
            f"{numbers[-1]}, each once; these {len(found):,} are others."
        )


def _check_queries(card: ProtocolCard, queries: NDArray[np.int32]) -> None:
    """See that every episode has as many predictions as its protocol lets it have.

    Raises:
        ShapeError: one has another number.
    """
    expected = card.queries_per_episode
    found = next((count for count in np.unique(queries).tolist() if count not in expected), None)
    if found is not None:
        several = f" to {expected[-1]}" if len(expected) > 1 else ""
        raise ShapeError(
            f"{card.task} with {card.query} queries per class has {expected[0]}{several} predictions per episode, not "
            f"{found}."
        )


def _check_classes(card: ProtocolCard, frame: pd.DataFrame, queries: NDArray[np.int32]) -> None:
    """See that predictions are of the protocol's classes, and that no more are correct than there are.

    Raises:
        ShapeError: they are not.
    """
    largest = int(positions_of(frame["predictions"], card.way).max(initial=0))
    if largest >= card.way:
        raise ShapeError(f"a prediction names class {largest} of {card.way}-way episodes, counted from 0.")
    correct = frame["correct"].to_numpy()
    if ((correct < 0) | (correct > queries)).any():
        raise ShapeError("correct should be how many of the queries were classified correctly, and is another number.")
    if (frame["accuracy"].to_numpy(np.float64) != correct / queries).any():
        raise ShapeError("accuracy should be correct divided by the number of queries, in float64, and is not.")
