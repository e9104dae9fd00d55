"""One part of a cell's outcomes: a Parquet file that holds some consecutive episodes of one run."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fewshot_bench.atomic import write_atomically
from fewshot_bench.errors import OutcomeError
from fewshot_bench.outcomes.episode_frame import COLUMNS

_NAME = re.compile(r"run-(\d+)-episodes-(\d+)-(\d+)\.parquet")
_UNREADABLE = (pa.ArrowException, OSError, ValueError)
_OTHER_ROWS = "its rows are not those that its name says"


@dataclass(frozen=True, order=True)
class Part:
    """Episodes `first` up to but not including `end` of one run; the name of the file says which."""

    run: int
    first: int
    end: int
    path: Path

    @classmethod
    def place(cls, folder: Path, run: int, first: int, end: int) -> Part:
        """The part of those episodes, wherever it is going to be written."""
        return cls(run, first, end, folder / f"run-{run:03d}-episodes-{first:05d}-{end:05d}.parquet")

    def write(self, frame: pd.DataFrame) -> None:
        """Write the rows, all or nothing.

        Args:
            frame: as `episode_frame` makes it, one row per episode of this part.
        """
        table = pa.Table.from_pandas(frame, schema=_schema(set(frame["predictions"].map(len))), preserve_index=False)
        content = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata(None), content, compression="zstd", write_page_checksum=True)
        write_atomically(self.path, content.getvalue().to_pybytes())

    def check(self) -> None:
        """Read the part's own summary, at the end of the file, which a truncated file has not.

        Raises:
            OutcomeError: the file is damaged.
        """
        self._open().close()

    def read(self, queries: Collection[int], *, with_predictions: bool = True) -> pd.DataFrame:
        """All rows, page checksums verified.

        Args:
            queries: how many predictions an episode can have.
            with_predictions: without them no object is made per row; they are checked all the same.

        Raises:
            OutcomeError: the file is damaged.
        """
        with self._open() as file:
            try:
                table: pa.Table = file.read()
                fits = self._fits(table, queries)
            except _UNREADABLE as error:
                raise self._damaged(error) from error
        if not fits:
            raise self._damaged(_OTHER_ROWS)
        frame: pd.DataFrame = (table if with_predictions else table.drop_columns(["predictions"])).to_pandas()
        return frame

    def _open(self) -> Any:
        try:
            file = pq.ParquetFile(self.path, page_checksum_verification=True)
            is_ours = file.schema_arrow.names == list(COLUMNS) and file.metadata.num_rows == self.end - self.first
        except _UNREADABLE as error:
            raise self._damaged(error) from error
        if not is_ours:
            file.close()
            raise self._damaged(_OTHER_ROWS)
        return file

    def _fits(self, table: pa.Table, queries: Collection[int]) -> bool:
        """Whether the rows agree with the file's name and with each other; page headers have no checksum."""
        found = pc.binary_length(table["predictions"]).to_numpy()
        run, episode, correct, accuracy = (table[name].to_numpy() for name in ("run", "episode", "correct", "accuracy"))
        return bool(
            len(table) == self.end - self.first
            and (run == self.run).all()
            and (episode == np.arange(self.first, self.end)).all()
            and all(int(length) in queries for length in np.unique(found))
            and (accuracy == correct / found).all()
        )

    def _damaged(self, finding: object) -> OutcomeError:
        return OutcomeError(
            f"stored outcomes in {self.path} are damaged ({finding}). Delete that file and run again: only its "
            f"{self.end - self.first:,} episodes are repeated."
        )


def parts_in(folder: Path) -> list[Part]:
    """The parts of a cell, by run and first episode; what an interrupted write has left is no part."""
    if not folder.is_dir():
        return []
    matches = [(path, _NAME.fullmatch(path.name)) for path in folder.iterdir()]
    return sorted(Part(int(match[1]), int(match[2]), int(match[3]), path) for path, match in matches if match)


def _schema(queries: Collection[int]) -> pa.Schema:
    """Columns for episodes with these numbers of queries; where it is one number, it is part of the type."""
    predictions = pa.binary(*queries) if len(queries) == 1 else pa.binary()
    return pa.schema(
        [
            pa.field("run", pa.int16()),
            pa.field("episode", pa.int32()),
            pa.field("correct", pa.int32()),
            pa.field("accuracy", pa.float64()),
            pa.field("predictions", predictions),
            pa.field("seconds", pa.float64()),
        ]
    )
