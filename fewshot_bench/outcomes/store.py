"""Outcomes on disk: append-only, readable after a kill at any moment.

<folder>/<cell key>/cell.json
<folder>/<cell key>/parts/run-000-episodes-00000-00512.parquet
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fewshot_bench.atomic import write_atomically
from fewshot_bench.errors import OutcomeError, ShapeError
from fewshot_bench.outcomes.cell import Cell
from fewshot_bench.outcomes.continued import continued
from fewshot_bench.outcomes.description import description_text
from fewshot_bench.outcomes.episode_frame import episode_frame, stretches
from fewshot_bench.outcomes.outcomes import Outcomes
from fewshot_bench.outcomes.parts import Part, parts_in


class OutcomeStore:
    """The outcomes of many cells in one folder.

    Nothing is ever overwritten, so processes may append to different cells, or to different episodes of one
    cell, at once. An episode that is stored twice counts once.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._opened: set[str] = set()

    def check_folder(self) -> None:
        """See that the folder can be made or written to, before any time is spent on outcomes; makes nothing.

        Raises:
            OSError: a file is in the way, or the folder cannot be written to.
        """
        folder = self.folder.absolute()
        there = next(place for place in (folder, *folder.parents) if place.exists())
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
        if not os.access(there, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(there))

    def open_cell(self, cell: Cell) -> None:
        """Make room for a cell, or check that the stored one is the same.

        A cell that goes on under other versions of the packages records both; what an older release did not record
        is added.

        Raises:
            OutcomeError: the stored description is damaged, or has another name for the method.
        """
        stored = self._stored_like(cell)
        if stored is None:
            write_atomically(self._description(cell.key), cell.as_json().encode())
        elif (merged := continued(stored, cell)) != stored:
            write_atomically(self._description(cell.key), merged.as_json().encode())
        self._opened.add(cell.key)

    def done(self, cell: Cell) -> dict[int, NDArray[np.int64]]:
        """The sorted numbers of the stored episodes of each run that has any.

        Raises:
            OutcomeError: a part is damaged, or the method is stored under another name.
        """
        self._stored_like(cell)
        episodes: dict[int, list[NDArray[np.int64]]] = {}
        for part in parts_in(self._parts(cell.key)):
            part.check()
            episodes.setdefault(part.run, []).append(np.arange(part.first, part.end))
        return {run: np.unique(np.concatenate(numbers)) for run, numbers in episodes.items()}

    def append(
        self,
        cell: Cell,
        run: int,
        numbers: NDArray[np.int64],
        predictions: NDArray[np.uint8],
        seconds_per_episode: float,
        *,
        truth: NDArray[np.uint8] | None = None,
    ) -> None:
        """Store what a method did on some episodes of one run.

        Args:
            cell: the method and the protocol.
            run: number of the run, from 0.
            numbers: which episodes of the run, [E]; each stretch of consecutive numbers becomes one part.
            predictions: position of the predicted class of every query, queries class by class, uint8 [E, M].
            seconds_per_episode: mean time that one episode took.
            truth: position of the true class of every query, uint8 [E, M]; may be left out where the protocol has as
                many queries of every class.

        Raises:
            ShapeError: the predictions or the truth are not those of the cell's protocol.
        """
        card = cell.protocol
        if truth is None and not card.has_even_queries:
            raise ShapeError(f"{card.task} has other numbers of queries in each class: say which by their truth.")
        way = card.way if len(card.queries_per_episode) == 1 else predictions.shape[-1] // card.query
        self.append_frame(cell, episode_frame(run, numbers, predictions, way, seconds_per_episode, truth=truth))

    def append_frame(self, cell: Cell, frame: pd.DataFrame) -> None:
        """Store what a method did on episodes that may differ in their number of queries.

        Args:
            cell: the method and the protocol.
            frame: as `episode_frame` makes it, or several of them together, [E].

        Raises:
            ShapeError: the predictions are not those of the cell's protocol.
        """
        _check_queries(cell, frame)
        if cell.key not in self._opened:
            self.open_cell(cell)
        for run in frame["run"].unique():
            rows = frame[frame["run"] == run]
            for stretch in stretches(rows.sort_values("episode", kind="stable").drop_duplicates("episode")):
                first, end = int(stretch["episode"].iloc[0]), int(stretch["episode"].iloc[-1]) + 1
                part = Part.place(self._parts(cell.key), int(run), first, end)
                if not part.path.exists():
                    part.write(stretch)

    def record_failure(self, cell: Cell, run: int, numbers: NDArray[np.int64], reason: str) -> None:
        """Store that episodes failed, and why.

        Args:
            cell: the method and the protocol.
            run: number of the run, from 0.
            numbers: which episodes of the run, [E].
            reason: one line.
        """
        content = json.dumps({"run": run, "episodes": [int(number) for number in numbers], "reason": reason})
        name = hashlib.sha256(content.encode()).hexdigest()[:16]
        write_atomically(self.cell_folder(cell) / "failed" / f"{name}.json", content.encode())

    def read(self, cell_or_key: Cell | str, *, with_predictions: bool = True) -> pd.DataFrame:
        """All episodes of a cell, sorted by run and episode, each once (of copies, that of the first part).

        Args:
            cell_or_key: which cell.
            with_predictions: statistics of accuracies can do without them.

        Raises:
            OutcomeError: nothing is stored for that cell, or a part is damaged.
        """
        key = cell_or_key if isinstance(cell_or_key, str) else cell_or_key.key
        parts = parts_in(self._parts(key))
        if not parts:
            raise OutcomeError(f"there are no outcomes in {self.folder / key}. Run that study first.")
        cell = self._stored_cell(key) if isinstance(cell_or_key, str) else cell_or_key
        queries = cell.protocol.queries_per_episode
        frames = [part.read(queries, with_predictions=with_predictions) for part in parts]
        together = pd.concat(frames, ignore_index=True).drop_duplicates(["run", "episode"], keep="first")
        return together.sort_values(["run", "episode"], ignore_index=True)

    def outcomes(self, cell: Cell) -> Outcomes:
        """A cell with all of its episodes.

        Raises:
            OutcomeError: nothing is stored for that cell, or a part is damaged.
        """
        return Outcomes(cell, self.read(cell))

    def cells(self) -> list[Cell]:
        """Every cell that has outcomes, by key.

        Raises:
            OutcomeError: a description is damaged.
        """
        keys = sorted(path.parent.name for path in self.folder.glob("*/cell.json"))
        return [self._stored_cell(key) for key in keys if parts_in(self._parts(key))]

    def _stored_like(self, cell: Cell) -> Cell | None:
        """The stored description of a cell, if there is one; it must name the method alike."""
        path = self._description(cell.key)
        if not path.is_file():
            return None
        stored = self._stored_cell(cell.key)
        if stored.method.name != cell.method.name:
            raise OutcomeError(
                f"{path.parent} holds the outcomes of the same method under the name {stored.method.name}, not "
                f"{cell.method.name}. Leave out the settings that only repeat a default, change the name in {path}, or "
                "use another results folder."
            )
        return stored

    def _stored_cell(self, key: str) -> Cell:
        path = self._description(key)
        try:
            cell = Cell.from_json(description_text(path))
        except (OSError, OutcomeError) as error:
            raise OutcomeError(f"{path} is damaged ({error}). {_delete(path.parent)}") from error
        if cell.key != key:
            raise OutcomeError(f"{path} describes another cell than its folder is named after. {_delete(path.parent)}")
        return cell

    def _description(self, key: str) -> Path:
        return self.folder / key / "cell.json"

    def cell_folder(self, cell: Cell) -> Path:
        """Everything that is stored of a cell."""
        return self.folder / cell.key

    def _parts(self, key: str) -> Path:
        return self.folder / key / "parts"


def _delete(folder: Path) -> str:
    return f"Delete the folder {folder} and run that study again."


def _check_queries(cell: Cell, frame: pd.DataFrame) -> None:
    card = cell.protocol
    expected = card.queries_per_episode
    found = next((count for count in frame["predictions"].map(len) if count not in expected), None)
    if found is not None:
        several = f" to {expected[-1]}" if len(expected) > 1 else ""
        raise ShapeError(
            f"{card.task} with {card.query} queries per class has {expected[0]}{several} predictions per episode, not "
            f"{found}."
        )
