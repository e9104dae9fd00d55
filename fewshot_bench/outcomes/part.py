"""One part of a cell's outcomes: a Parquet file that never changes, named by what it holds and by its own digest.

run=0/episodes-00000-00512-<digest>.parquet    episodes 0 to 511 of one run
together-<digest>.parquet                      episodes of all runs, as compaction leaves them
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fewshot_bench.errors import OutcomeError
from fewshot_bench.outcomes.claimed import claimed_columns
from fewshot_bench.outcomes.columns import CONSTANTS, METADATA, STORED, Columns, Identity, table_of, unpacked_rows
from fewshot_bench.outcomes.damage import OTHER_ROWS, damaged
from fewshot_bench.outcomes.kinds import mapping_in
from fewshot_bench.paths import Place

_DIGEST = "[0-9a-f]{16}"
_OF_ONE_RUN = re.compile(rf"run=(\d{{1,5}})/episodes-(\d{{5,9}})-(\d{{5,9}})-({_DIGEST})\.parquet")
_OF_ALL_RUNS = re.compile(rf"together-({_DIGEST})\.parquet")
_MOST_EPISODES = 50_000_000  # of one part; a file of a few bytes can claim any number
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
            with_predictions: without them fewer columns are read; the digest guards the others all the same.

        Raises:
            OutcomeError: the file is damaged, or belongs to another cell.
        """
        self.check(content)
        try:
            file = pq.ParquetFile(pa.BufferReader(content))
            self._check_claims(file, identity)
            if identity.is_claimed:
                columns = self._claimed(content, identity, with_predictions)
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
        if self.stretch is not None:
            self.check(content)
            return [self.claimed]
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
        if not (0 < end - first <= _MOST_EPISODES and run <= np.iinfo(np.int16).max):
            raise self.damaged(OTHER_ROWS)
        return run, np.arange(first, end, dtype=np.int32)

    def damaged(self, finding: object) -> OutcomeError:
        """The error that says what is wrong with this file, and the way out."""
        return damaged(self.place, finding, self.stretch)

    def _check_claims(self, file: Any, identity: Identity) -> None:
        """See that the file is a part of this cell, by what it says of itself.

        Raises:
            OutcomeError: it is of another cell, or not what its name says.
        """
        theirs = mapping_in((file.metadata.metadata or {}).get(METADATA, b""))
        if theirs != identity.claims(*(self.stretch or (None, 0, 0))):
            if any(theirs.get(name) != getattr(identity, name) for name in CONSTANTS):
                raise OutcomeError(
                    f"{self.place} holds outcomes of another method or protocol than its folder. Move that file to the "
                    "cell it belongs to, or delete it."
                )
            raise self.damaged(OTHER_ROWS)
        rows = file.metadata.num_rows
        if not 0 < rows <= _MOST_EPISODES or (self.stretch and rows != self.stretch[2] - self.stretch[1]):
            raise self.damaged(OTHER_ROWS)

    def _claimed(self, content: bytes, identity: Identity, with_predictions: bool) -> Columns | None:
        """The rows of a claimed cell, if they are what such a cell stores."""
        if self.stretch is not None:
            return None
        found = claimed_columns(content, identity.way, {name: getattr(identity, name) for name in CONSTANTS})
        if found is not None and with_predictions:
            found["predictions"] = np.full(len(found["run"]), b"", dtype=object)
        return found

    def _columns(self, file: Any, identity: Identity, with_predictions: bool) -> Columns | None:
        """The rows, if they agree with the name and with each other."""
        has_several = len(identity.queries) > 1
        wanted = ["correct", "seconds"] + ["queries"] * has_several + ["run", "episode"] * (self.stretch is None)
        table = file.read(columns=list(STORED) if with_predictions else wanted, use_threads=False)
        if with_predictions and table.column_names != list(STORED):
            return None
        found = {name: table[name].to_numpy() for name in wanted}
        if self.stretch is not None:
            run, found["episode"] = self.claimed
            found["run"] = np.full(len(table), run, np.int16)
        queries = found.pop("queries") if has_several else np.full(len(table), identity.queries[0], np.int32)
        if has_several and not all(int(count) in identity.queries for count in np.unique(queries)):
            return None
        if found["correct"].min() < 0 or (found["correct"] > queries).any():
            return None
        found["accuracy"] = found["correct"] / queries
        if with_predictions:
            predictions = unpacked_rows(table["predictions"], queries, identity.way)
            if predictions is None or not _agree(table, found, queries, identity):
                return None
            found["predictions"] = predictions
        return found


def new_part(frame: pd.DataFrame, identity: Identity, run: int | None) -> tuple[str, bytes]:
    """Name and content of the part that holds some rows.

    Args:
        frame: as `episode_frame` or `claimed_frame` makes it, by run and episode; consecutive episodes of one run, or
            episodes of several runs.
        identity: of the cell.
        run: of all rows; None for several.

    Raises:
        ShapeError: a prediction is of no class of the protocol.
    """
    first, end = int(frame["episode"].iloc[0]), int(frame["episode"].iloc[-1]) + 1
    table, stream = table_of(frame, identity), pa.BufferOutputStream()
    few = [name for name in table.column_names if name not in ("episode", "predictions")]
    # Statistics, and the schema of Arrow, would double a small part.
    options = {"compression": "zstd", "use_dictionary": few, "write_statistics": False, "store_schema": False}
    with pq.ParquetWriter(stream, table.schema, **options) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({METADATA: json.dumps(identity.claims(run, first, end), sort_keys=True)})
    content: bytes = stream.getvalue().to_pybytes()
    if run is None:
        return f"together-{digest(content)}.parquet", content
    return f"run={run}/episodes-{first:05d}-{end:05d}-{digest(content)}.parquet", content


def digest(content: bytes) -> str:
    """What the name of a part says of its bytes: the start of their SHA-256."""
    return hashlib.sha256(content).hexdigest()[:16]


def _agree(table: pa.Table, found: Columns, queries: Any, identity: Identity) -> bool:
    """Whether the columns that are only read with the predictions say what the others do."""
    constants = all(table[name].unique().to_pylist() == [getattr(identity, name)] for name in CONSTANTS)
    expected = {**{name: found[name] for name in ("run", "episode", "accuracy")}, "queries": queries}
    return constants and all((table[name].to_numpy() == values).all() for name, values in expected.items())
