"""One part of a cell's outcomes: a Parquet file that never changes, named by what it holds and by its own digest.

run=0/episodes-00000-00512-<digest>.parquet    episodes 0 to 511 of one run
together-<digest>.parquet                      episodes of all runs, as compaction leaves them

Anybody may have written a part, so reading one checks every value against the cell.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fewshot_bench._io.locations import Location
from fewshot_bench.errors import OutcomeError
from fewshot_bench.limits import LARGEST_EPISODE, MOST_EPISODES, MOST_RUNS
from fewshot_bench.outcomes.cell import FORMAT, Cell
from fewshot_bench.outcomes.claimed import CLAIMED_COLUMNS, CLAIMED_TYPES, claimed_columns, claimed_table
from fewshot_bench.outcomes.frame import CONFIDENCE, query_counts
from fewshot_bench.outcomes.packing import (
    are_confidences,
    is_packed,
    packed,
    packed_confidence,
    packed_size,
    position_type,
    unpacked,
    unpacked_confidence,
)
from fewshot_bench.outcomes.schema import mapping_in
from fewshot_bench.outcomes.stored_table import LARGEST_PART, OTHER_ROWS, StoredTable, fits, rows_that_fit

METADATA = b"fewshot-bench"
"""The key of a file's metadata under which it says what it holds."""
CONSTANTS = ("protocol", "method", "seed")
STORED = (*CONSTANTS, "run", "episode", "queries", "correct", "accuracy", "predictions", "seconds")
Columns = dict[str, NDArray[Any]]
"""run, episode, correct, accuracy, seconds and, where they are wanted, predictions (bytes), each [E].

That of a whole split also has confidence. A claimed cell also has queries and classes (text), and its predictions are
empty.
"""
_ARROW_TYPES = {
    "run": pa.int16(),
    "episode": pa.int32(),
    "queries": pa.int32(),
    "correct": pa.int32(),
    "accuracy": pa.float64(),
    "seconds": pa.float64(),
    CONFIDENCE: pa.uint16(),
}
_FRAME_TYPES: Mapping[str, Any] = {
    "run": np.int16,
    "episode": np.int32,
    "correct": np.int32,
    "accuracy": np.float64,
    "predictions": object,
    "seconds": np.float64,
    CONFIDENCE: np.float64,
    "queries": np.int32,
    "classes": object,
}
_DIGEST = "[0-9a-f]{16}"
_OF_ONE_RUN = re.compile(rf"run=(\d{{1,5}})/episodes-(\d{{5,9}})-(\d{{5,9}})-({_DIGEST})\.parquet")
_OF_ALL_RUNS = re.compile(rf"together-({_DIGEST})\.parquet")
_UNREADABLE = (pa.ArrowException, OSError, ValueError, KeyError)


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
        is_whole: whether the episodes are the images of a split, and the parts hold confidences.
        format: of the parts.
    """

    protocol: str
    method: str
    seed: str
    way: int
    queries: range
    is_claimed: bool = False
    is_whole: bool = False
    format: int = FORMAT

    @classmethod
    def of(cls, cell: Cell) -> Identity:
        """The identity of a cell."""
        card = cell.protocol
        queries = card.queries_per_episode
        kind = (card.is_claimed, card.is_whole, card.format)
        return cls(card.fingerprint, cell.method.fingerprint, str(card.seed), card.way, queries, *kind)

    @property
    def stored(self) -> tuple[str, ...]:
        """The columns of a part whose episodes were computed."""
        return (*STORED, CONFIDENCE) if self.is_whole else STORED

    @property
    def bytes_of_queries(self) -> int:
        """The most memory that the predictions of an episode take; 0 if there are none."""
        return 0 if self.is_claimed else self.queries[-1] * position_type(self.way).itemsize

    def metadata(self, run: int | None, first: int, end: int) -> dict[str, Any]:
        """What a file says about itself, so that columns with one value need not be read.

        Args:
            run: of all its rows; None if there are several.
            first: number of its first episode.
            end: number behind that of its last.
        """
        metadata = {"format": self.format, "protocol": self.protocol, "method": self.method, "seed": self.seed}
        return metadata if run is None else metadata | {"run": run, "first": first, "end": end}


@dataclass(frozen=True)
class Part:
    """A part by its name.

    Attributes:
        folder: of the cell.
        name: of the file, relative to that folder.
        digest: in the name.
        episode_range: run, first episode and the number behind the last; None if there may be several runs.
    """

    folder: Location
    name: str
    digest: str
    episode_range: tuple[int, int, int] | None

    @classmethod
    def named(cls, folder: Location, name: str) -> Part | None:
        """The part that a file is by its name; None if it is not a part."""
        if (found := _OF_ONE_RUN.fullmatch(name)) is not None:
            return cls(folder, name, found[4], (int(found[1]), int(found[2]), int(found[3])))
        if (found := _OF_ALL_RUNS.fullmatch(name)) is not None:
            return cls(folder, name, found[1], None)
        return None

    @property
    def location(self) -> Location:
        """Of the file."""
        return self.folder / self.name

    def read(self, content: bytes, identity: Identity, *, with_predictions: bool) -> Columns:
        """All rows.

        Args:
            content: of the file.
            identity: of the cell.
            with_predictions: whether to return them; they are checked like all other columns in either case.

        Raises:
            OutcomeError: the file is damaged, or belongs to another cell.
        """
        if digest(content) != self.digest:
            raise self.damaged("its bytes do not match the digest in its name")
        read_rows = self._read_claimed if identity.is_claimed else self._read_computed
        try:
            columns = read_rows(self._opened(content, identity), identity, with_predictions)
        except _UNREADABLE as error:
            raise self.damaged(error) from error
        if columns is None:
            raise self.damaged(OTHER_ROWS)
        return columns

    def numbers(self, content: bytes, identity: Identity) -> dict[int, NDArray[Any]]:
        """The numbers of the episodes in the part, by run.

        Raises:
            OutcomeError: the file is damaged, or belongs to another cell.
        """
        found = self.read(content, identity, with_predictions=False)
        return numbers_by_run(found["run"], found["episode"])

    @property
    def claimed(self) -> tuple[int, NDArray[Any]]:
        """Run and episodes that the name of a part of one run claims; raises OutcomeError for an impossible name."""
        assert self.episode_range is not None
        run, first, end = self.episode_range
        if not (0 < end - first <= MOST_EPISODES and run < MOST_RUNS and end - 1 <= LARGEST_EPISODE):
            raise self.damaged(OTHER_ROWS)
        return run, np.arange(first, end, dtype=np.int32)

    def damaged(self, finding: object) -> OutcomeError:
        """The error about this file, with the way out."""
        episodes = (
            "its" if self.episode_range is None else f"only its {self.episode_range[2] - self.episode_range[1]:,}"
        )
        return OutcomeError(
            f"stored outcomes in {self.location} are damaged ({finding}). Delete that file and run again: {episodes} "
            "episodes are repeated."
        )

    def _opened(self, content: bytes, identity: Identity) -> StoredTable:
        """The file, if its metadata says that it is this part of this cell.

        Raises:
            OutcomeError: it is of another cell, or not what its name says.
            ValueError: it is not a file that was ever stored.
        """
        if identity.is_claimed:
            file = StoredTable(content, (*CONSTANTS, *CLAIMED_COLUMNS), (*CONSTANTS, "classes"))
        else:
            file = StoredTable(content, identity.stored, CONSTANTS)
        metadata = mapping_in(file.metadata.get(METADATA, b""))
        if any(metadata.get(name) != getattr(identity, name) for name in CONSTANTS):
            raise OutcomeError(
                f"{self.location} holds outcomes of another method or protocol than its folder. Move that file to the "
                "cell it belongs to, or delete it."
            )
        is_ours = metadata == identity.metadata(*(self.episode_range or (None, 0, 0)))
        if not is_ours or (
            self.episode_range is not None and file.rows != self.episode_range[2] - self.episode_range[1]
        ):
            raise self.damaged(OTHER_ROWS)
        return file

    def _read_claimed(self, file: StoredTable, identity: Identity, with_predictions: bool) -> Columns | None:
        """The rows of a claimed cell; None if they are not rows of such a cell."""
        if self.episode_range is not None:
            return None
        table = file.read(CLAIMED_TYPES, 0)
        found = claimed_columns(table, identity.way, {name: getattr(identity, name) for name in CONSTANTS})
        if found is None or not _are_in_order(found):
            return None
        return found | ({"predictions": np.full(len(found["run"]), b"", dtype=object)} if with_predictions else {})

    def _read_computed(self, file: StoredTable, identity: Identity, with_predictions: bool) -> Columns | None:
        """The rows; None if they disagree with the name or with each other."""
        table = file.read(_stored_types(identity), identity.bytes_of_queries)
        found = {name: table[name].to_numpy() for name in identity.stored if name not in (*CONSTANTS, "predictions")}
        queries, predictions = found.pop("queries"), table["predictions"]
        are_constant = all(table[name].unique().to_pylist() == [getattr(identity, name)] for name in CONSTANTS)
        if not (are_constant and self._are_ours(found) and _are_in_range(found, queries, identity)):
            return None
        if identity.is_whole:
            if not are_confidences(found[CONFIDENCE], identity.way):
                return None
            found[CONFIDENCE] = unpacked_confidence(found[CONFIDENCE])
        if not with_predictions:
            groups = _packed_groups(predictions, queries)
            return found if all(is_packed(group, count, identity.way) for _, group, count in groups) else None
        rows = _unpacked_rows(predictions, queries, identity.way)
        return None if rows is None else {**found, "predictions": rows}

    def _are_ours(self, found: Columns) -> bool:
        """Whether the episodes are those of the name."""
        if self.episode_range is None:
            least = min(int(found["run"].min()), int(found["episode"].min()))
            return least >= 0 and int(found["episode"].max()) <= LARGEST_EPISODE and _are_in_order(found)
        run, episodes = self.claimed
        return bool((found["run"] == run).all() and np.array_equal(found["episode"], episodes))


def new_parts(frame: pd.DataFrame, identity: Identity, run: int | None) -> Iterator[tuple[str, bytes, pd.DataFrame]]:
    """Name, content and rows of each part for some rows: one, unless it is too large; see `new_part`."""
    most = rows_that_fit(identity.bytes_of_queries)
    try:
        yield *new_part(frame, identity, run), frame
        return
    except OutcomeError:
        if len(frame) <= most:
            raise
    for start in range(0, len(frame), most):
        rows = frame.iloc[start : start + most]
        yield *new_part(rows, identity, run), rows


def new_part(frame: pd.DataFrame, identity: Identity, run: int | None) -> tuple[str, bytes]:
    """Name and content of the part that holds some rows.

    Args:
        frame: as `episode_frame` or `claimed_frame` makes it, by run and episode; consecutive episodes of one run, or
            episodes of several runs.
        identity: of the cell.
        run: of all rows; None if there are several.

    Raises:
        ShapeError: a prediction names a class that the protocol does not have.
        OutcomeError: no reader would take it, because it is too large, or too large for its size on a disk.
    """
    first, end = int(frame["episode"].iloc[0]), int(frame["episode"].iloc[-1]) + 1
    table, stream = table_of(frame, identity), pa.BufferOutputStream()
    repetitive = [name for name in table.column_names if name not in ("episode", "predictions")]
    # Statistics, and the schema of Arrow, would double a small part.
    options = {"compression": "zstd", "use_dictionary": repetitive, "write_statistics": False, "store_schema": False}
    options |= {"data_page_version": "1.0", "version": "2.6"}  # as readers expect it
    with pq.ParquetWriter(stream, table.schema, **options) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({METADATA: json.dumps(identity.metadata(run, first, end), sort_keys=True)})
    content: bytes = stream.getvalue().to_pybytes()
    if len(content) > LARGEST_PART or not fits(len(frame), identity.bytes_of_queries, len(content)):
        raise OutcomeError(f"{len(frame):,} episodes are too many for one part")
    if run is None:
        return f"together-{digest(content)}.parquet", content
    return f"run={run}/episodes-{first:05d}-{end:05d}-{digest(content)}.parquet", content


def digest(content: bytes) -> str:
    """The digest of a part's bytes in its name: the start of their SHA-256."""
    return hashlib.sha256(content).hexdigest()[:16]


def table_of(frame: pd.DataFrame, identity: Identity) -> pa.Table:
    """The stored rows of a frame, [E]; raises ShapeError if a prediction names a class beyond the protocol's."""
    columns: dict[str, Any] = {name: _constant(getattr(identity, name), len(frame)) for name in CONSTANTS}
    if identity.is_claimed:
        return claimed_table(frame, columns)
    queries = query_counts(frame["predictions"], identity.way)
    numbers = ("run", "episode", "correct", "accuracy", "seconds")
    columns |= {name: frame[name].to_numpy(_FRAME_TYPES[name]) for name in numbers}
    columns |= {"queries": queries, "predictions": _packed_rows(frame["predictions"], queries, identity.way)}
    if identity.is_whole:
        columns[CONFIDENCE] = packed_confidence(frame[CONFIDENCE].to_numpy(np.float64), identity.way)
    return pa.table({name: columns[name] for name in identity.stored})


def numbers_by_run(run: NDArray[Any], episode: NDArray[Any]) -> dict[int, NDArray[Any]]:
    """The numbers of the episodes of each run, from the run and the episode of each row, [E] both."""
    return {int(number): episode[run == number] for number in np.unique(run)}


def joined(parts: Sequence[Columns]) -> Columns:
    """The rows of several parts, one after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def frame_of(columns: Columns) -> pd.DataFrame:
    """The columns as a frame like that of `episode_frame`, [E]."""
    return pd.DataFrame(
        {
            name: pd.Series(columns[name], dtype=object) if dtype is object else columns[name].astype(dtype)
            for name, dtype in _FRAME_TYPES.items()
            if name in columns
        }
    )


def _stored_types(identity: Identity) -> dict[str, pa.DataType]:
    """The type of each column of a part, other than the constant ones."""
    queries = identity.queries
    size = packed_size(queries[0], identity.way) if len(queries) == 1 else -1  # any
    return _ARROW_TYPES | {"predictions": pa.binary(size)}


def _unpacked_rows(column: pa.ChunkedArray, queries: NDArray[np.int32], way: int) -> NDArray[np.object_] | None:
    """Predictions as bytes, `position_type` of each query, [E]; None if `table_of` would not store these bytes."""
    rows = np.empty(len(queries), dtype=object)
    for rows_of_size, content, count in _packed_groups(column, queries):
        found = unpacked(content, count, way)
        if found is None:
            return None
        rows[rows_of_size] = _split(found.tobytes(), count * position_type(way).itemsize)
    return rows


def _packed_groups(
    column: pa.ChunkedArray, queries: NDArray[np.int32]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8], int]]:
    """For each number of queries: which rows have it, their bytes (none if they differ in size), and the number."""
    for count in np.unique(queries):
        rows_of_size = np.flatnonzero(queries == count)
        rows = column if len(rows_of_size) == len(column) else column.take(pa.array(rows_of_size))
        sizes = np.unique(pc.binary_length(rows).to_numpy())
        size = int(sizes[0]) if len(sizes) == 1 else 0
        content = np.empty(0, np.uint8)
        if size:
            values = rows.combine_chunks().cast(pa.binary(size))
            content = np.frombuffer(values.buffers()[1], np.uint8)[values.offset * size :][: len(rows_of_size) * size]
        yield rows_of_size, content.reshape(len(rows_of_size), size), int(count)


def _packed_rows(predictions: pd.Series, queries: NDArray[np.int32], way: int) -> pa.Array:
    rows = np.empty(len(queries), dtype=object)
    sizes = set()
    for count in np.unique(queries):
        rows_of_size = np.flatnonzero(queries == count)
        content = np.frombuffer(b"".join(predictions.iloc[rows_of_size]), position_type(way)).reshape(
            len(rows_of_size), int(count)
        )
        group = packed(content, way)
        sizes.add(group.shape[1])
        rows[rows_of_size] = _split(group.tobytes(), group.shape[1])
    return pa.array(rows, type=pa.binary(*sizes) if len(sizes) == 1 else pa.binary())


def _split(content: bytes, size: int) -> list[bytes]:
    return [content[start : start + size] for start in range(0, len(content), size)]


def _constant(value: str, rows: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int8)), pa.array([value], pa.string()))


def _are_in_order(found: Columns) -> bool:
    """Whether each episode is there once, by run and number."""
    keys = (found["run"].astype(np.int64) << 32) + found["episode"]
    return bool((np.diff(keys) > 0).all())


def _are_in_range(found: Columns, queries: Any, identity: Identity) -> bool:
    """Whether the numbers of all rows are possible in the protocol, and agree with each other."""
    if not all(int(count) in identity.queries for count in np.unique(queries)):
        return False
    correct, seconds = found["correct"], found["seconds"]
    if int(correct.min()) < 0 or (correct > queries).any() or (found["accuracy"] != correct / queries).any():
        return False
    return bool((np.isnan(seconds) | (np.isfinite(seconds) & (seconds >= 0))).all())
