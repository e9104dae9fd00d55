"""Parts as releases before the second layout left them: parts/run-000-episodes-00000-00512.parquet, without a digest.

They are read and never written; `fewshot-bench store compact` puts them into the present layout.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fewshot_bench.errors import OutcomeError
from fewshot_bench.limits import MOST_EPISODES, MOST_RUNS
from fewshot_bench.outcomes.columns import Columns, Identity
from fewshot_bench.outcomes.damage import OTHER_ROWS, damaged
from fewshot_bench.outcomes.episode_frame import COLUMNS
from fewshot_bench.outcomes.stored_table import StoredTable
from fewshot_bench.paths import Place

_NAME = re.compile(r"parts/run-(\d{3,5})-episodes-(\d{5,9})-(\d{5,9})\.parquet")
_UNREADABLE = (pa.ArrowException, OSError, ValueError)
_TYPES = {
    "run": pa.int16(),
    "episode": pa.int32(),
    "correct": pa.int32(),
    "accuracy": pa.float64(),
    "predictions": pa.binary(),
    "seconds": pa.float64(),
}
_LARGEST_WAY = 255  # whose predictions these releases stored


@dataclass(frozen=True)
class OldPart:
    """A part by its name; see `Part`, which it stands in for."""

    folder: Place
    name: str
    stretch: tuple[int, int, int]

    @classmethod
    def named(cls, folder: Place, name: str) -> OldPart | None:
        """The part that a file is, by its name; None where it is none."""
        found = _NAME.fullmatch(name)
        return None if found is None else cls(folder, name, (int(found[1]), int(found[2]), int(found[3])))

    @property
    def place(self) -> Place:
        """Of the file."""
        return self.folder / self.name

    def read(self, content: bytes, identity: Identity, *, with_predictions: bool) -> Columns:
        """All rows, page checksums verified.

        Raises:
            OutcomeError: the file is damaged.
        """
        try:
            table = self._open(content).read(_TYPES, identity.bytes_of_queries)
            fits = self._fits(table, identity)
        except _UNREADABLE as error:
            raise self.damaged(error) from error
        if not fits:
            raise self.damaged(OTHER_ROWS)
        found = {name: table[name].to_numpy() for name in COLUMNS if name != "predictions"}
        if with_predictions:
            rows = np.empty(len(table), dtype=object)
            rows[:] = table["predictions"].to_pylist()
            found["predictions"] = rows
        return found

    def numbers(self, content: bytes, identity: Identity) -> list[tuple[int, Any]]:
        """Run and numbers of the episodes, if the end of the file is there.

        Raises:
            OutcomeError: the file is damaged.
        """
        self._open(content)
        return [self.claimed]

    @property
    def claimed(self) -> tuple[int, Any]:
        """Run and numbers of the episodes, by the name alone."""
        run, first, end = self.stretch
        if not (0 < end - first <= MOST_EPISODES and run < MOST_RUNS):
            raise self.damaged(OTHER_ROWS)
        return run, np.arange(first, end, dtype=np.int32)

    def damaged(self, finding: object) -> OutcomeError:
        """The error that says what is wrong with this file, and the way out."""
        return damaged(self.place, finding, self.stretch)

    def _open(self, content: bytes) -> StoredTable:
        _, first, end = self.stretch
        try:
            file = StoredTable(content, COLUMNS, (), page_checksum_verification=True)
            is_ours = file.rows == end - first
        except _UNREADABLE as error:
            raise self.damaged(error) from error
        if not is_ours:
            raise self.damaged(OTHER_ROWS)
        return file

    def _fits(self, table: pa.Table, identity: Identity) -> bool:
        """Whether the rows agree with the file's name and with each other; page headers have no checksum."""
        found = pc.binary_length(table["predictions"]).to_numpy()
        names = ("run", "episode", "correct", "accuracy", "seconds")
        run, episode, correct, accuracy, seconds = (table[name].to_numpy() for name in names)
        its_run, first, end = self.stretch
        return bool(
            len(table) == end - first
            and (run == its_run).all()
            and (episode == np.arange(first, end)).all()
            and all(int(length) in identity.queries for length in np.unique(found))
            and (accuracy == correct / found).all()
            and ((correct >= 0) & (correct <= found)).all()
            and (np.isnan(seconds) | (np.isfinite(seconds) & (seconds >= 0))).all()
            and identity.way <= _LARGEST_WAY
            and max(map(max, table["predictions"].to_pylist())) < identity.way
        )
