"""The columns of a part in memory, before they become a frame, and the table that is stored of a frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from fewshot_bench.outcomes.cell import Cell
from fewshot_bench.outcomes.claimed import claimed_table
from fewshot_bench.outcomes.description import FORMAT
from fewshot_bench.outcomes.packing import packed, unpacked

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
    queries = frame["predictions"].map(len).to_numpy(np.int32)
    columns |= {name: frame[name].to_numpy(_DTYPES[name]) for name in ("run", "episode", "correct", "accuracy")}
    columns |= {"queries": queries, "predictions": _packed_rows(frame["predictions"], queries, identity.way)}
    columns["seconds"] = frame["seconds"].to_numpy(np.float64)
    return pa.table({name: columns[name] for name in STORED})


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


def unpacked_rows(column: pa.ChunkedArray, queries: NDArray[np.int32], way: int) -> NDArray[np.object_] | None:
    """Predictions as bytes, one byte per query, [E]; None where they are none that `table_of` stores."""
    rows = np.empty(len(queries), dtype=object)
    stored = column.to_pylist()
    for count in np.unique(queries):
        which = np.flatnonzero(queries == count)
        content = b"".join(stored[row] for row in which)
        size, rest = divmod(len(content), len(which))
        if rest or any(len(stored[row]) != size for row in which):
            return None
        found = unpacked(np.frombuffer(content, np.uint8).reshape(len(which), size), int(count), way)
        if found is None:
            return None
        whole = found.tobytes()
        rows[which] = [whole[start : start + int(count)] for start in range(0, len(whole), int(count))]
    return rows


def _packed_rows(predictions: pd.Series, queries: NDArray[np.int32], way: int) -> pa.Array:
    rows = np.empty(len(queries), dtype=object)
    sizes = set()
    for count in np.unique(queries):
        which = np.flatnonzero(queries == count)
        content = np.frombuffer(b"".join(predictions.iloc[which]), np.uint8).reshape(len(which), int(count))
        some = packed(content, way)
        sizes.add(some.shape[1])
        whole, size = some.tobytes(), some.shape[1]
        rows[which] = [whole[start : start + size] for start in range(0, len(whole), size)]
    return pa.array(rows, type=pa.binary(*sizes) if len(sizes) == 1 else pa.binary())


def _constant(value: str, rows: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int8)), pa.array([value], pa.string()))
