"""Whether stored predictions give the stored numbers of correct answers."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fewshot_bench.outcomes.cell import Cell
from fewshot_bench.outcomes.episode_frame import even_truth, positions_of, query_counts
from fewshot_bench.outcomes.packing import Positions


def even_rows(cell: Cell, frame: pd.DataFrame) -> list[tuple[pd.DataFrame, Positions, int]]:
    """Rows with as many predictions each, the true classes of their queries, [E, M], and N.

    Args:
        cell: of a protocol in which every class has as many queries.
        frame: one row per episode.
    """
    counts = query_counts(frame["predictions"], cell.protocol.way)
    found = []
    for queries in np.unique(counts).tolist():
        rows = frame[counts == queries]
        way = queries // cell.protocol.query
        found.append((rows, np.tile(even_truth(way, queries), (len(rows), 1)), way))
    return found


def first_wrong(rows: pd.DataFrame, truth: Positions, way: int, most: int) -> str:
    """What is wrong with the counts of some episodes, in words; empty where they are what the predictions give.

    Args:
        rows: of N-way episodes with as many queries each.
        truth: the true classes of the queries, [E, M].
        way: N.
        most: the classes that an episode of the protocol has at most.
    """
    lengths = query_counts(rows["predictions"], most)
    if (lengths != truth.shape[1]).any():
        first = int(np.argmax(lengths != truth.shape[1]))
        return f"{_name(rows.iloc[first])} has {lengths[first]} predictions for {truth.shape[1]} queries"
    predictions = positions_of(rows["predictions"], most).reshape(truth.shape)
    if predictions.max() >= way:
        bad = rows.iloc[int(np.argmax(predictions.max(axis=1) >= way))]
        return f"{_name(bad)} has predictions of other classes than the {way} of its task"
    correct = (predictions == truth).sum(axis=1)
    stored = rows["correct"].to_numpy()
    differs = (correct != stored) | (rows["accuracy"].to_numpy() != correct / truth.shape[1])
    if not differs.any():
        return ""
    first = int(np.argmax(differs))
    return (
        f"{int(differs.sum()):,} episodes, first {_name(rows.iloc[first])}: {correct[first]} of {truth.shape[1]} "
        f"predictions are correct, and {stored[first]} is stored"
    )


def _name(row: pd.Series) -> str:
    return f"run {row['run']}, episode {row['episode']}"
