"""Outcomes on a disk or behind a URL: parts that never change, readable after a kill at any moment.

<folder>/<cell key>/cell.json
<folder>/<cell key>/run=0/episodes-00000-00512-<digest>.parquet
<folder>/<cell key>/failures/run=0-episodes-00512-01024.json
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fewshot_bench.atomic import remove_abandoned, write_once
from fewshot_bench.errors import OutcomeError, ShapeError
from fewshot_bench.outcomes import failures
from fewshot_bench.outcomes.cell import Cell, MethodCard
from fewshot_bench.outcomes.columns import Columns, Identity
from fewshot_bench.outcomes.episode_frame import episode_frame, stretches
from fewshot_bench.outcomes.failures import Failure
from fewshot_bench.outcomes.frame_check import check_frame
from fewshot_bench.outcomes.manifest import MANIFEST, describe, described_in, read_manifest, stored_manifest
from fewshot_bench.outcomes.outcomes import Outcomes
from fewshot_bench.outcomes.packing import Positions, position_type
from fewshot_bench.outcomes.part import Part, new_parts
from fewshot_bench.outcomes.parts import episodes_of, parts_among, with_parts
from fewshot_bench.outcomes.stored_table import LARGEST_PART
from fewshot_bench.paths import Place, is_local
from fewshot_bench.saved import note_saved
from fewshot_bench.stored_files import check_writable, files_under, is_file, read_all

_KEY = re.compile(r"[0-9a-f]{16}")


class OutcomeStore:
    """The outcomes of many cells in one folder.

    Nothing is ever overwritten, so processes may append to different cells, or to different episodes of one
    cell, at once. An episode that is stored twice counts once, and must be stored alike.
    """

    def __init__(self, folder: Place) -> None:
        self.folder = folder
        self._opened: set[str] = set()
        self._rows: dict[str, dict[str, Columns]] = {}  # without predictions, by cell and part: parts never change
        self._held: dict[str, dict[str, list[tuple[int, Any]]]] = {}  # by cell and part, once it was looked at

    def cell_folder(self, cell_or_key: Cell | str) -> Place:
        """Everything that is stored of a cell."""
        return self.folder / (cell_or_key if isinstance(cell_or_key, str) else cell_or_key.key)

    def check_folder(self) -> None:
        """See that the folder can be made or written to, before any time is spent on outcomes; makes nothing.

        Raises:
            OSError: a file is in the way, or the folder cannot be written to.
            PlaceError: a URL cannot be reached.
        """
        check_writable(self.folder)

    def names_of(self, method: MethodCard, keys: Iterable[str] | None = None) -> list[str]:
        """The names under which a method is stored, by cell; descriptions that cannot be read are passed over.

        Args:
            method: whose name may be another.
            keys: of the cells to look at; all by default.
        """
        names: dict[str, None] = {}
        for folder in described_in(self.folder) if keys is None else map(self.cell_folder, keys):
            with suppress(FileNotFoundError, OutcomeError):
                found = read_manifest(folder).cell.method
                if found.fingerprint == method.fingerprint:
                    names[found.name] = None
        return list(names)

    def open_cell(self, cell: Cell) -> None:
        """Make room for a cell, or check that the stored one is the same; clean up after processes that died.

        A cell that goes on under other versions of the packages records both; what an older release did not record
        is added.

        Raises:
            OutcomeError: the stored description is damaged, or of a later release.
        """
        folder = self.cell_folder(cell)
        describe(folder, cell)
        if cell.key not in self._opened:
            remove_abandoned(folder)
        self._opened.add(cell.key)

    def done(self, cell: Cell) -> dict[int, NDArray[np.int64]]:
        """The sorted numbers of the stored episodes of each run that has any.

        A part is looked at once, unless this store wrote it, whole or not: on a disk its digest is taken, behind a
        URL, where no file is ever there in part, its name is enough.

        Raises:
            OutcomeError: a part is damaged.
        """
        folder = self.cell_folder(cell)
        stored_manifest(folder)
        held = with_parts(folder, lambda parts: self._numbers(cell, parts))
        episodes: dict[int, list[NDArray[np.int64]]] = {}
        for run, numbers in held:
            episodes.setdefault(run, []).append(numbers)
        return {run: np.unique(np.concatenate(episodes[run])) for run in sorted(episodes)}

    def append(
        self,
        cell: Cell,
        run: int,
        numbers: NDArray[np.int64],
        predictions: Positions,
        seconds_per_episode: float,
        *,
        truth: Positions | None = None,
    ) -> None:
        """Store what a method did on some episodes of one run.

        Args:
            cell: the method and the protocol.
            run: number of the run, from 0.
            numbers: which episodes of the run, [E]; each stretch of consecutive numbers becomes one part.
            predictions: position of the predicted class of every query, queries class by class, unsigned [E, M].
            seconds_per_episode: mean time that one episode took.
            truth: position of the true class of every query, unsigned [E, M]; may be left out where the protocol has as
                many queries of every class.

        Raises:
            ShapeError: the predictions or the truth are not those of the cell's protocol.
        """
        card = cell.protocol
        if truth is None and not card.has_even_queries:
            raise ShapeError(f"{card.task} has other numbers of queries in each class: say which by their truth.")
        way = card.way if len(card.queries_per_episode) == 1 else predictions.shape[-1] // card.query
        if predictions.dtype.kind == "u" and int(predictions.max(initial=0)) < card.way:
            predictions = predictions.astype(position_type(card.way), copy=False)
        self.append_frame(cell, episode_frame(run, numbers, predictions, way, seconds_per_episode, truth=truth))

    def append_frame(self, cell: Cell, frame: pd.DataFrame, *, is_checked: bool = False) -> None:
        """Store what a method did on episodes that may differ in their number of queries.

        Args:
            cell: the method and the protocol.
            frame: as `episode_frame` makes it, or several of them together; `claimed_frame` if they are claimed, [E].
            is_checked: whether `check_frame` has found it well.

        Raises:
            ShapeError: it is no such frame, or the predictions are not those of the cell's protocol.
            OSError: the disk is full, gone, ...; what is stored is as it was.
        """
        if not is_checked:
            check_frame(cell, frame)
        if cell.key not in self._opened:
            self.open_cell(cell)
        identity = Identity.of(cell)
        ordered = frame.sort_values(["run", "episode"], kind="stable").drop_duplicates(["run", "episode"])
        if cell.protocol.is_claimed:  # its numbers need not be consecutive, and nothing computes it chunk by chunk
            self._write(cell, ordered, identity, None)
            return
        for run in ordered["run"].unique():
            for stretch in stretches(ordered[ordered["run"] == run]):
                self._write(cell, stretch, identity, int(run))

    def _write(self, cell: Cell, frame: pd.DataFrame, identity: Identity, run: int | None) -> None:
        """Store rows, of one run or, where it is None, of several, in as many parts as they need."""
        for name, content, rows in new_parts(frame, identity, run):
            write_once(self.cell_folder(cell) / name, content)
            note_saved()
            runs = rows["run"].to_numpy()
            held = [(int(one), rows["episode"].to_numpy()[runs == one]) for one in np.unique(runs)]
            self._held.setdefault(cell.key, {})[name] = held

    def read(self, cell_or_key: Cell | str, *, with_predictions: bool = True) -> pd.DataFrame:
        """All episodes of a cell, sorted by run and episode, each once (of copies, the one that took least time).

        Args:
            cell_or_key: which cell.
            with_predictions: statistics of accuracies can do without them.

        Raises:
            OutcomeError: nothing is stored for that cell, a part is damaged, or two disagree about an episode.
        """
        folder = self.cell_folder(cell_or_key)

        def read(parts: list[Part]) -> pd.DataFrame:
            if not parts:
                raise OutcomeError(f"there are no outcomes in {folder}. Run that study first.")
            cell = read_manifest(folder).cell if isinstance(cell_or_key, str) else cell_or_key
            known = self._rows.setdefault(cell.key, {})
            return episodes_of(parts, Identity.of(cell), with_predictions=with_predictions, known=known)

        return with_parts(folder, read)

    def outcomes(self, cell: Cell) -> Outcomes:
        """A cell with all of its episodes.

        Raises:
            OutcomeError: nothing is stored for that cell, or a part is damaged.
        """
        return Outcomes(cell, self.read(cell))

    def cells(self) -> list[Cell]:
        """Every cell that has outcomes, by key.

        Raises:
            OutcomeError: a description is damaged, or of a later release.
        """
        files: dict[str, list[str]] = {}
        for name in files_under(self.folder):
            key, _, rest = name.partition("/")
            if not rest and _KEY.fullmatch(key):
                read_manifest(self.folder / key)  # says what it is instead of a folder
            if rest and not key.startswith("."):
                files.setdefault(key, []).append(rest)
        described = sorted(
            key for key, names in files.items() if MANIFEST in names or is_file(self.folder / key / MANIFEST)
        )
        stored = [read_manifest(self.folder / key).cell for key in described]
        return [cell for cell in stored if parts_among(self.folder / cell.key, files[cell.key])]

    def record_failure(self, cell: Cell, run: int, numbers: NDArray[np.int64], reason: str) -> None:
        """Write down that episodes could not be computed; outcomes that are stored for them later make that void.

        Args:
            cell: the method and the protocol.
            run: number of the run, from 0.
            numbers: of the episodes, [E].
            reason: why; one line of it is kept.
        """
        if cell.key not in self._opened:
            self.open_cell(cell)
        failures.record(self.cell_folder(cell), run, numbers, reason)

    def failures(self, cell_or_key: Cell | str) -> list[Failure]:
        """What could not be computed and has no outcomes yet, by run and first episode.

        Raises:
            OutcomeError: a record or a part is damaged.
        """
        folder = self.cell_folder(cell_or_key)
        recorded = failures.recorded(folder, files_under(folder))
        if not recorded:
            return []
        cell = read_manifest(folder).cell if isinstance(cell_or_key, str) else cell_or_key
        return failures.still_open(recorded.values(), self.done(cell))

    def _numbers(self, cell: Cell, parts: list[Part]) -> list[tuple[int, Any]]:
        """Runs and numbers of the episodes in some parts of a cell."""
        identity = Identity.of(cell)
        held = self._held.setdefault(cell.key, {})
        new = [part for part in parts if part.name not in held]
        by_name = [] if is_local(self.folder) else [part for part in new if part.stretch is not None]
        held.update({part.name: [part.claimed] for part in by_name})
        by_content = [part for part in new if part.name not in held]
        for part, content in zip(by_content, read_all([part.place for part in by_content], LARGEST_PART), strict=True):
            held[part.name] = part.numbers(content, identity)
        return [entry for part in parts for entry in held[part.name]]
