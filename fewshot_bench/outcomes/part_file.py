"""One part of a cell's outcomes: a Parquet file that never changes, named by what it holds and by its own digest.

run=0/episodes-00000-00512-<digest>.parquet    episodes 0 to 511 of one run
together-<digest>.parquet                      episodes of all runs, as compaction leaves them
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fewshot_bench._io.locations import Place
from fewshot_bench.errors import OutcomeError
from fewshot_bench.limits import LARGEST_EPISODE, MOST_EPISODES, MOST_RUNS
from fewshot_bench.outcomes.cell_schema import mapping_in
from fewshot_bench.outcomes.claimed import CLAIMED_COLUMNS, CLAIMED_TYPES, claimed_columns
from fewshot_bench.outcomes.columns import (
    CONSTANTS,
    METADATA,
    STORED,
    Columns,
    Identity,
    rows_are_packed,
    stored_types,
    table_of,
    unpacked_rows,
)
from fewshot_bench.outcomes.packing import OTHER_ROWS, damaged
from fewshot_bench.outcomes.stored_table import LARGEST_PART, StoredTable, fits, rows_that_fit

_DIGEST = "[0-9a-f]{16}"
_OF_ONE_RUN = re.compile(rf"run=(\d{{1,5}})/episodes-(\d{{5,9}})-(\d{{5,9}})-({_DIGEST})\.parquet")
_OF_ALL_RUNS = re.compile(rf"together-({_DIGEST})\.parquet")
_UNREADABLE = (pa.ArrowException, OSError, ValueError, KeyError)


@dataclass(frozen=True)
class Part:
    """A part by its name.

    Attributes:
        folder: of the cell.
        name: of the file, relative to that folder.
        digest: that the name says.
        stretch: run, first episode and the number behind the last; None where there may be several runs.
    """

    folder: Place
    name: str
    digest: str
    stretch: tuple[int, int, int] | None

    @classmethod
    def named(cls, folder: Place, name: str) -> Part | None:
        """The part that a file is, by its name; None where it is none."""
        if (found := _OF_ONE_RUN.fullmatch(name)) is not None:
            return cls(folder, name, found[4], (int(found[1]), int(found[2]), int(found[3])))
        if (found := _OF_ALL_RUNS.fullmatch(name)) is not None:
            return cls(folder, name, found[1], None)
        return None

    @property
    def place(self) -> Place:
        """Of the file."""
        return self.folder / self.name

    def check(self, content: bytes) -> None:
        """See that the bytes are those that the name says.

        Raises:
            OutcomeError: the file is damaged.
        """
        if digest(content) != self.digest:
            raise self.damaged("its bytes are not those that its name says")

    def read(self, content: bytes, identity: Identity, *, with_predictions: bool) -> Columns:
        """All rows.

        Args:
            content: of the file.
            identity: of the cell.
            with_predictions: whether they are wanted; they are checked like all other columns in either case.

        Raises:
            OutcomeError: the file is damaged, or belongs to another cell.
        """
        self.check(content)
        try:
            file = self._opened(content, identity)
            if identity.is_claimed:
                columns = self._claimed(file, identity, with_predictions)
            else:
                columns = self._columns(file, identity, with_predictions)
        except _UNREADABLE as error:
            raise self.damaged(error) from error
        if columns is None:
            raise self.damaged(OTHER_ROWS)
        return columns

    def numbers(self, content: bytes, identity: Identity) -> list[tuple[int, Any]]:
        """Which episodes of which runs the part holds.

        Raises:
            OutcomeError: the file is damaged, or belongs to another cell.
        """
        found = self.read(content, identity, with_predictions=False)
        return [(int(run), found["episode"][found["run"] == run]) for run in np.unique(found["run"])]

    @property
    def claimed(self) -> tuple[int, Any]:
        """Run and numbers of the episodes, by the name alone, of a part of one run.

        Raises:
            OutcomeError: the name cannot be that of a part.
        """
        assert self.stretch is not None
        run, first, end = self.stretch
        if not (0 < end - first <= MOST_EPISODES and run < MOST_RUNS and end - 1 <= LARGEST_EPISODE):
            raise self.damaged(OTHER_ROWS)
        return run, np.arange(first, end, dtype=np.int32)

    def damaged(self, finding: object) -> OutcomeError:
        """The error that says what is wrong with this file, and the way out."""
        return damaged(self.place, finding, self.stretch)

    def _opened(self, content: bytes, identity: Identity) -> StoredTable:
        """The file, if it is a part of this cell, by what it says of itself.

        Raises:
            OutcomeError: it is of another cell, or not what its name says.
            ValueError: it is no file that was ever stored.
        """
        if identity.is_claimed:
            file = StoredTable(content, (*CONSTANTS, *CLAIMED_COLUMNS), (*CONSTANTS, "classes"))
        else:
            file = StoredTable(content, STORED, CONSTANTS)
        theirs = mapping_in(file.metadata.get(METADATA, b""))
        if theirs != identity.claims(*(self.stretch or (None, 0, 0))):
            if any(theirs.get(name) != getattr(identity, name) for name in CONSTANTS):
                raise OutcomeError(
                    f"{self.place} holds outcomes of another method or protocol than its folder. Move that file to the "
                    "cell it belongs to, or delete it."
                )
            raise self.damaged(OTHER_ROWS)
        if self.stretch is not None and file.rows != self.stretch[2] - self.stretch[1]:
            raise self.damaged(OTHER_ROWS)
        return file

    def _claimed(self, file: StoredTable, identity: Identity, with_predictions: bool) -> Columns | None:
        """The rows of a claimed cell, if they are what such a cell stores."""
        if self.stretch is not None:
            return None
        table = file.read(CLAIMED_TYPES, 0)
        found = claimed_columns(table, identity.way, {name: getattr(identity, name) for name in CONSTANTS})
        if found is not None and not _are_in_order(found):
            return None
        if found is not None and with_predictions:
            found["predictions"] = np.full(len(found["run"]), b"", dtype=object)
        return found

    def _columns(self, file: StoredTable, identity: Identity, with_predictions: bool) -> Columns | None:
        """The rows, if they agree with the name and with each other."""
        table = file.read(stored_types(identity), identity.bytes_of_queries)
        found = {name: table[name].to_numpy() for name in STORED if name not in (*CONSTANTS, "predictions")}
        queries, predictions = found.pop("queries"), table["predictions"]
        if not (_are_constant(table, identity) and self._are_ours(found) and _are_in_range(found, queries, identity)):
            return None
        if not with_predictions:
            return found if rows_are_packed(predictions, queries, identity.way) else None
        unpacked = unpacked_rows(predictions, queries, identity.way)
        return None if unpacked is None else {**found, "predictions": unpacked}

    def _are_ours(self, found: Columns) -> bool:
        """Whether the episodes are those of the name."""
        if self.stretch is None:
            least = min(int(found["run"].min()), int(found["episode"].min()))
            return least >= 0 and int(found["episode"].max()) <= LARGEST_EPISODE and _are_in_order(found)
        run, episodes = self.claimed
        return bool((found["run"] == run).all() and np.array_equal(found["episode"], episodes))


def new_parts(frame: pd.DataFrame, identity: Identity, run: int | None) -> Iterator[tuple[str, bytes, pd.DataFrame]]:
    """Names, contents and rows of the parts that hold some rows: one, unless it would be refused for its size.

    Args and errors are those of `new_part`.
    """
    most = rows_that_fit(identity.bytes_of_queries)
    try:
        yield *new_part(frame, identity, run), frame
        return
    except OutcomeError:
        if len(frame) <= most:
            raise
    for start in range(0, len(frame), most):
        some = frame.iloc[start : start + most]
        yield *new_part(some, identity, run), some


def new_part(frame: pd.DataFrame, identity: Identity, run: int | None) -> tuple[str, bytes]:
    """Name and content of the part that holds some rows.

    Args:
        frame: as `episode_frame` or `claimed_frame` makes it, by run and episode; consecutive episodes of one run, or
            episodes of several runs.
        identity: of the cell.
        run: of all rows; None for several.

    Raises:
        ShapeError: a prediction is of no class of the protocol.
        OutcomeError: no reader would take it, since it is too large, or too large for what it takes on a disk.
    """
    first, end = int(frame["episode"].iloc[0]), int(frame["episode"].iloc[-1]) + 1
    table, stream = table_of(frame, identity), pa.BufferOutputStream()
    few = [name for name in table.column_names if name not in ("episode", "predictions")]
    # Statistics, and the schema of Arrow, would double a small part.
    options = {"compression": "zstd", "use_dictionary": few, "write_statistics": False, "store_schema": False}
    options |= {"data_page_version": "1.0", "version": "2.6"}  # as readers expect it
    with pq.ParquetWriter(stream, table.schema, **options) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({METADATA: json.dumps(identity.claims(run, first, end), sort_keys=True)})
    content: bytes = stream.getvalue().to_pybytes()
    if len(content) > LARGEST_PART or not fits(len(frame), identity.bytes_of_queries, len(content)):
        raise OutcomeError(f"{len(frame):,} episodes are too many for one part")
    if run is None:
        return f"together-{digest(content)}.parquet", content
    return f"run={run}/episodes-{first:05d}-{end:05d}-{digest(content)}.parquet", content


def digest(content: bytes) -> str:
    """What the name of a part says of its bytes: the start of their SHA-256."""
    return hashlib.sha256(content).hexdigest()[:16]


def _are_constant(table: pa.Table, identity: Identity) -> bool:
    """Whether the columns that are the same in every row say what the cell does."""
    return all(table[name].unique().to_pylist() == [getattr(identity, name)] for name in CONSTANTS)


def _are_in_order(found: Columns) -> bool:
    """Whether each episode is there once, by run and number."""
    keys = (found["run"].astype(np.int64) << 32) + found["episode"]
    return bool((np.diff(keys) > 0).all())


def _are_in_range(found: Columns, queries: Any, identity: Identity) -> bool:
    """Whether the numbers of all rows can be those of the protocol, and agree with each other."""
    if not all(int(count) in identity.queries for count in np.unique(queries)):
        return False
    correct, seconds = found["correct"], found["seconds"]
    if int(correct.min()) < 0 or (correct > queries).any() or (found["accuracy"] != correct / queries).any():
        return False
    return bool((np.isnan(seconds) | (np.isfinite(seconds) & (seconds >= 0))).all())
