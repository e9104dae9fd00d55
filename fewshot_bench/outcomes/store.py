"""Outcomes on a disk or behind a URL: parts that never change, readable after a kill at any moment.

<folder>/<cell key>/cell.json
<folder>/<cell key>/run=0/episodes-00000-00512-<digest>.parquet
<folder>/<cell key>/failures/run=0-episodes-00512-01024.json
"""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fewshot_bench._io.locations import Location, is_local, location_of
from fewshot_bench._io.notebooks import html_rows
from fewshot_bench._io.resuming import note_saved
from fewshot_bench._io.storage import check_writable, files_under, is_file, read_all, remove_abandoned, write_once
from fewshot_bench.errors import ArgumentError, IrregularFileError, OutcomeError, ShapeError
from fewshot_bench.limits import MOST_EPISODES
from fewshot_bench.outcomes import failures
from fewshot_bench.outcomes.cell import Cell, MethodCard
from fewshot_bench.outcomes.failures import Failure
from fewshot_bench.outcomes.frame import CONFIDENCE, Outcomes, check_frame, episode_frame, split_consecutive
from fewshot_bench.outcomes.manifest import MANIFEST, describe, described_in, read_manifest, stored_manifest
from fewshot_bench.outcomes.packing import Positions, position_type
from fewshot_bench.outcomes.part import Columns, Identity, Part, frame_of, joined, new_parts, numbers_by_run
from fewshot_bench.outcomes.stored_table import LARGEST_PART
from fewshot_bench.plugins import described

T = TypeVar("T")
_KEY = re.compile(r"[0-9a-f]{16}")
_RUN_FOLDER = re.compile(r"run=\d{1,5}")
_MOST_CLAIMED = 4 * MOST_EPISODES  # episodes may be stored several times
_WAITS = (0.0, 0.05, 0.2, 1.0, 3.0)  # seconds; a network disk may list old names for a while
_NEIGHBOURING = 1.5 / 65_535  # of two rounded confidences
_MOVED = (errno.ENOENT, errno.ESTALE)


def parts_among(folder: Location, names: Iterable[str]) -> list[Part]:
    """The parts among a cell's files, by name.

    Args:
        folder: of the cell.
        names: of its files, relative to it.

    Raises:
        OutcomeError: a file is where a folder of parts should be, or the names claim too many episodes.
    """
    ordered = sorted(names)
    for name in filter(_RUN_FOLDER.fullmatch, ordered):
        raise IrregularFileError(folder / name, "no folder", "a folder")
    parts = [part for name in ordered if (part := Part.named(folder, name)) is not None]
    counts = [part.episode_range[2] - part.episode_range[1] for part in parts if part.episode_range is not None]
    claimed = sum(count for count in counts if count <= MOST_EPISODES)  # a part that claims more is refused itself
    if claimed > _MOST_CLAIMED:
        raise OutcomeError(f"{folder} is damaged (the names of its parts claim {claimed:,} episodes). Delete it.")
    return parts


def parts_in(folder: Location) -> list[Part]:
    """The parts in the folder of a cell, by name."""
    # While one part replaces another, a listing may show neither; a second one shows the new part.
    return parts_among(folder, files_under(folder)) or parts_among(folder, files_under(folder))


def with_parts(folder: Location, use: Callable[[list[Part]], T]) -> T:
    """Use the parts in the folder of a cell; try again if a compaction removes them meanwhile."""
    return retry_if_moved(lambda: use(parts_in(folder)))


def retry_if_moved(use: Callable[[], T]) -> T:
    """List and use parts; try again if `use` raises FileNotFoundError, as a compaction removes parts."""
    for wait in _WAITS:
        if wait:
            time.sleep(wait)
        try:
            return use()
        except OSError as error:
            if error.errno not in _MOVED and not isinstance(error, FileNotFoundError):
                raise
            gone = error
    raise gone


def episodes_of(
    parts: Sequence[Part],
    identity: Identity,
    *,
    with_predictions: bool = True,
    known: dict[str, Columns] | None = None,
) -> pd.DataFrame:
    """All episodes of some parts of one cell, by run and episode, each once: the fastest of its copies.

    Args:
        parts: at least one, by name.
        identity: of the cell.
        with_predictions: statistics of accuracies need none.
        known: rows without predictions of parts that were read before, by name; new ones are added.

    Returns:
        The columns of `episode_frame`, [E].

    Raises:
        FileNotFoundError: a part is gone.
        OutcomeError: a part is damaged, or two disagree about an episode in anything but the seconds.
    """
    before = {} if known is None or with_predictions else known
    new = [part for part in parts if part.name not in before]
    contents = read_all([part.location for part in new], LARGEST_PART)
    read = {
        part.location: part.read(content, identity, with_predictions=with_predictions)
        for part, content in zip(new, contents, strict=True)
    }
    columns = [before[part.name] if part.name in before else read[part.location] for part in parts]
    before.update({part.name: read[part.location] for part in new})
    frame = merged(parts, columns)
    return episodes_of(parts, identity).drop(columns="predictions") if frame is None else frame


def merged(parts: Sequence[Part], columns: Sequence[Columns]) -> pd.DataFrame | None:
    """All episodes of some parts that have been read, each once: the fastest of its copies.

    Args:
        parts: at least one, by name.
        columns: of each.

    Returns:
        The columns of `episode_frame`, [E]; None if there are copies without predictions, which must agree too.

    Raises:
        OutcomeError: two disagree about an episode in anything but the seconds.
    """
    together = joined(columns)
    order = np.lexsort((together["seconds"], together["episode"], together["run"]))  # NaN comes last
    rows = {name: values[order] for name, values in together.items()}
    is_same = (rows["run"][1:] == rows["run"][:-1]) & (rows["episode"][1:] == rows["episode"][:-1])
    is_copy = np.append(False, is_same)
    if is_copy.any():
        if "predictions" not in rows:
            return None
        part_numbers = np.repeat(np.arange(len(parts)), [len(part["run"]) for part in columns])[order]
        for row in np.flatnonzero(is_copy):
            _check_copy(rows, int(row), parts[part_numbers[row - 1]], parts[part_numbers[row]])
        rows = {name: values[~is_copy] for name, values in rows.items()}
    return frame_of(rows)


def _check_copy(rows: Columns, row: int, before: Part, part: Part) -> None:
    """See that a row agrees with the copy before it; raises OutcomeError if they differ in anything but the seconds.

    Confidences of two machines may be rounded to neighbouring values.
    """
    compared = {name: values[row - 1 : row + 1] for name, values in rows.items() if name != "seconds"}
    confidence = compared.pop(CONFIDENCE, np.zeros(2))
    if any(values[0] != values[1] for values in compared.values()) or abs(np.diff(confidence))[0] > _NEIGHBOURING:
        raise OutcomeError(
            f"run {rows['run'][row]}, episode {rows['episode'][row]} is stored twice and differently, in "
            f"{before.location} and in {part.location}. Delete the one that is wrong and run again."
        )


class OutcomeStore:
    """The outcomes of many cells in one folder.

    Nothing is ever overwritten, so several processes may append at once. An episode that is stored twice counts once,
    and both copies must agree.

    >>> from tempfile import TemporaryDirectory
    >>> import fewshot_bench as fb
    >>> novel = fb.open_dataset("glyphs").novel
    >>> episodes = fb.sample_episodes(novel, fb.Protocol("glyphs", shot=5, episodes=50, runs=1))
    >>> evaluation = fb.evaluate("centroid", novel.images.reshape(len(novel), -1), episodes)
    >>> with TemporaryDirectory() as results:
    ...     store = evaluation.save(results)
    ...     print(store.cells()[0].method.name, len(store.read(store.cells()[0])))
    centroid 50
    """

    def __init__(self, folder: str | Location) -> None:
        if not isinstance(folder, str | Path) and not hasattr(folder, "fs"):
            raise ArgumentError(f"an outcome store is in a folder or behind a URL, not {described(folder)}.")
        self.folder = location_of(folder)
        self._opened: set[str] = set()
        # By cell and part, since parts never change: rows without predictions, and runs with numbers of episodes.
        self._rows: dict[str, dict[str, Columns]] = {}
        self._held: dict[str, dict[str, dict[int, NDArray[Any]]]] = {}

    def __repr__(self) -> str:
        return f"<OutcomeStore: {self.folder}>"

    def _repr_html_(self) -> str:
        rows = [(cell.method.marked_name, cell.protocol.task, cell.key) for cell in self.cells()]
        return html_rows(str(self.folder), ("method", "tasks", "cell"), rows)

    def cell_folder(self, cell_or_key: Cell | str) -> Location:
        """The folder of a cell."""
        return self.folder / (cell_or_key if isinstance(cell_or_key, str) else cell_or_key.key)

    def check_folder(self) -> None:
        """See that the folder can be made or written to, before any outcome is computed.

        Raises:
            OSError: a file is in the way, or the folder cannot be written to.
            LocationError: a URL cannot be reached.
        """
        check_writable(self.folder)

    def names_of(self, method: MethodCard, keys: Iterable[str] | None = None) -> list[str]:
        """The names under which a method is stored; descriptions that cannot be read are ignored.

        Args:
            method: whatever its name.
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
        """Describe a cell, or check that the stored one is the same; clean up after processes that died.

        A cell that is continued with other versions of the packages records both.

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

        Each part is verified once. Behind a URL its name is enough, since no file is there in part.

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
        confidence: NDArray[np.floating[Any]] | None = None,
    ) -> None:
        """Store what a method did on some episodes of one run.

        Args:
            cell: the method and the protocol.
            run: number of the run, from 0.
            numbers: of the episodes, [E]; each range of consecutive numbers becomes one part.
            predictions: position of the predicted class of every query, queries class by class, unsigned [E, M].
            seconds_per_episode: mean time of an episode.
            truth: position of the true class of every query, unsigned [E, M]; not needed if the protocol has equally
                many queries per class.
            confidence: probability of the predicted class, of a whole split, [E].

        Raises:
            ShapeError: the predictions or the truth are not those of the cell's protocol.
        """
        card = cell.protocol
        if truth is None and not card.has_even_queries:
            raise ShapeError(f"{card.task} has unequal numbers of queries per class. Pass their truth.")
        way = card.way if len(card.queries_per_episode) == 1 else predictions.shape[-1] // card.query
        if predictions.dtype.kind == "u" and int(predictions.max(initial=0)) < card.way:
            predictions = predictions.astype(position_type(card.way), copy=False)
        frame = episode_frame(run, numbers, predictions, way, seconds_per_episode, truth=truth, confidence=confidence)
        self.append_frame(cell, frame)

    def append_frame(self, cell: Cell, frame: pd.DataFrame, *, is_checked: bool = False) -> None:
        """Store what a method did on episodes that may differ in their number of queries.

        Args:
            cell: the method and the protocol.
            frame: as `episode_frame` makes it, or several together; from `claimed_frame` if they are claimed, [E].
            is_checked: whether `check_frame` has accepted it.

        Raises:
            ShapeError: it is not such a frame, or does not fit the cell's protocol.
            OSError: the disk is full, gone, ...; stored outcomes were not changed.
        """
        if not is_checked:
            check_frame(cell, frame)
        if cell.key not in self._opened:
            self.open_cell(cell)
        identity = Identity.of(cell)
        ordered = frame.sort_values(["run", "episode"], kind="stable").drop_duplicates(["run", "episode"])
        if cell.protocol.is_claimed:  # its numbers need not be consecutive, and nothing computes it in chunks
            groups: list[tuple[int | None, pd.DataFrame]] = [(None, ordered)]
        else:
            runs = [ordered[ordered["run"] == run] for run in ordered["run"].unique()]
            groups = [(int(rows["run"].iloc[0]), rows) for same in runs for rows in split_consecutive(same)]
        for run, rows_of_run in groups:
            for name, content, rows in new_parts(rows_of_run, identity, run):
                write_once(self.cell_folder(cell) / name, content)
                note_saved()
                numbers = numbers_by_run(rows["run"].to_numpy(), rows["episode"].to_numpy())
                self._held.setdefault(cell.key, {})[name] = numbers

    def read(self, cell_or_key: Cell | str, *, with_predictions: bool = True) -> pd.DataFrame:
        """All episodes of a cell, sorted by run and episode, each once: the fastest of its copies.

        Args:
            cell_or_key: the cell.
            with_predictions: statistics of accuracies need none.

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
                read_manifest(self.folder / key)  # raises an error that says what is there instead of a folder
            if rest and not key.startswith("."):
                files.setdefault(key, []).append(rest)
        described = sorted(
            key for key, names in files.items() if MANIFEST in names or is_file(self.folder / key / MANIFEST)
        )
        stored = [read_manifest(self.folder / key).cell for key in described]
        return [cell for cell in stored if parts_among(self.folder / cell.key, files[cell.key])]

    def record_failure(self, cell: Cell, run: int, numbers: NDArray[np.int64], reason: str) -> None:
        """Record that episodes could not be computed; outcomes that are stored later make the record void.

        Args:
            cell: the method and the protocol.
            run: number of the run, from 0.
            numbers: of the episodes, [E].
            reason: any text; one line of it is kept.
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
        unread = []
        for part in parts:
            if part.name not in held and part.episode_range is not None and not is_local(self.folder):
                held[part.name] = dict([part.claimed])
            elif part.name not in held:
                unread.append(part)
        for part, content in zip(unread, read_all([part.location for part in unread], LARGEST_PART), strict=True):
            held[part.name] = part.numbers(content, identity)
        return [entry for part in parts for entry in held[part.name].items()]
