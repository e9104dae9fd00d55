"""The columns of a part in memory, before they become a frame, and the table that is stored of a frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fewshot_bench.outcomes.cell import Cell
from fewshot_bench.outcomes.cell_schema import FORMAT
from fewshot_bench.outcomes.claimed import claimed_table
from fewshot_bench.outcomes.frame import query_counts
from fewshot_bench.outcomes.packing import is_packed, packed, packed_size, position_type, unpacked

METADATA = b"fewshot-bench"
"""Under which a file says what it holds."""
CONSTANTS = ("protocol", "method", "seed")
STORED = (*CONSTANTS, "run", "episode", "queries", "correct", "accuracy", "predictions", "seconds")

Columns = dict[str, NDArray[Any]]
"""run, episode, correct, accuracy, seconds and, where they are wanted, predictions (bytes), each [E].

Those of a claimed cell have queries and classes (text) besides, and no byte in their predictions.
"""

_DTYPES: Mapping[str, Any] = {
    "run": np.int16,
    "episode": np.int32,
    "correct": np.int32,
    "accuracy": np.float64,
    "predictions": object,
    "seconds": np.float64,
    "queries": np.int32,
    "classes": object,
}


_ARROW = {
    "run": pa.int16(),
    "episode": pa.int32(),
    "queries": pa.int32(),
    "correct": pa.int32(),
    "accuracy": pa.float64(),
    "seconds": pa.float64(),
}


@dataclass(frozen=True)
class Identity:
    """What parts must agree with to belong to a cell.

    Attributes:
        protocol: its fingerprint.
        method: its fingerprint.
        seed: of the episodes, in digits.
        way: N, the largest of the protocol.
        queries: how many queries an episode can have.
        is_claimed: whether a file claims which episodes there are.
    """

    protocol: str
    method: str
    seed: str
    way: int
    queries: range
    is_claimed: bool = False

    @classmethod
    def of(cls, cell: Cell) -> Identity:
        """The identity of a cell."""
        card = cell.protocol
        queries = card.queries_per_episode
        return cls(card.fingerprint, cell.method.fingerprint, str(card.seed), card.way, queries, card.is_claimed)

    @property
    def bytes_of_queries(self) -> int:
        """What the predictions of an episode take in memory at most; 0 where there are none."""
        return 0 if self.is_claimed else self.queries[-1] * position_type(self.way).itemsize

    def claims(self, run: int | None, first: int, end: int) -> dict[str, Any]:
        """What a file says of itself, so that nobody has to read columns that are the same in every row.

        Args:
            run: of all its rows; None where there are several.
            first: number of its first episode.
            end: number behind that of its last.
        """
        told = {"format": FORMAT, "protocol": self.protocol, "method": self.method, "seed": self.seed}
        where = {} if run is None else {"run": run, "first": first, "end": end}
        return told | where


def table_of(frame: pd.DataFrame, identity: Identity) -> pa.Table:
    """The rows that are stored of a frame, as `episode_frame` or `claimed_frame` makes it, [E].

    Raises:
        ShapeError: a prediction is of no class of the protocol.
    """
    columns: dict[str, Any] = {name: _constant(getattr(identity, name), len(frame)) for name in CONSTANTS}
    if identity.is_claimed:
        return claimed_table(frame, columns)
    queries = query_counts(frame["predictions"], identity.way)
    columns |= {name: frame[name].to_numpy(_DTYPES[name]) for name in ("run", "episode", "correct", "accuracy")}
    columns |= {"queries": queries, "predictions": _packed_rows(frame["predictions"], queries, identity.way)}
    columns["seconds"] = frame["seconds"].to_numpy(np.float64)
    return pa.table({name: columns[name] for name in STORED})


def stored_types(identity: Identity) -> dict[str, pa.DataType]:
    """The type of each column of a part, beside those that are the same in every row."""
    queries = identity.queries
    return _ARROW | {
        "predictions": pa.binary(packed_size(queries[0], identity.way)) if len(queries) == 1 else pa.binary()
    }


def joined(parts: Sequence[Columns]) -> Columns:
    """The rows of several parts behind each other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def frame_of(columns: Columns) -> pd.DataFrame:
    """The frame that the rest of the package works with: the columns of `episode_frame`, [E]."""
    return pd.DataFrame(
        {
            name: pd.Series(columns[name], dtype=object) if dtype is object else columns[name].astype(dtype)
            for name, dtype in _DTYPES.items()
            if name in columns
        }
    )


def rows_are_packed(column: pa.ChunkedArray, queries: NDArray[np.int32], way: int) -> bool:
    """Whether predictions are some that `table_of` stores; see `unpacked_rows`, which takes longer."""
    return all(is_packed(content, count, way) for _, content, count in _packs(column, queries))


def unpacked_rows(column: pa.ChunkedArray, queries: NDArray[np.int32], way: int) -> NDArray[np.object_] | None:
    """Predictions as bytes, `position_type` of each query, [E]; None where they are none that `table_of` stores."""
    rows = np.empty(len(queries), dtype=object)
    for which, content, count in _packs(column, queries):
        found = unpacked(content, count, way)
        if found is None:
            return None
        whole, size = found.tobytes(), count * position_type(way).itemsize
        rows[which] = [whole[start : start + size] for start in range(0, len(whole), size)]
    return rows


def _packs(
    column: pa.ChunkedArray, queries: NDArray[np.int32]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8], int]]:
    """The rows with as many queries each: which, their bytes, and the number; no bytes where they differ in size."""
    for count in np.unique(queries):
        which = np.flatnonzero(queries == count)
        some = column if len(which) == len(column) else column.take(pa.array(which))
        sizes = np.unique(pc.binary_length(some).to_numpy())
        values = some.combine_chunks().cast(pa.binary(int(sizes[0]))) if len(sizes) == 1 and sizes[0] else None
        if values is None:
            yield which, np.empty((len(which), 0), np.uint8), int(count)
        else:
            first, size = values.offset * int(sizes[0]), len(which) * int(sizes[0])
            content = np.frombuffer(values.buffers()[1], np.uint8)[first : first + size]
            yield which, content.reshape(len(which), int(sizes[0])), int(count)


def _packed_rows(predictions: pd.Series, queries: NDArray[np.int32], way: int) -> pa.Array:
    rows = np.empty(len(queries), dtype=object)
    sizes = set()
    for count in np.unique(queries):
        which = np.flatnonzero(queries == count)
        content = np.frombuffer(b"".join(predictions.iloc[which]), position_type(way)).reshape(len(which), int(count))
        some = packed(content, way)
        sizes.add(some.shape[1])
        whole, size = some.tobytes(), some.shape[1]
        rows[which] = [whole[start : start + size] for start in range(0, len(whole), size)]
    return pa.array(rows, type=pa.binary(*sizes) if len(sizes) == 1 else pa.binary())


def _constant(value: str, rows: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int8)), pa.array([value], pa.string()))
