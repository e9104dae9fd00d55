"""Compare a results folder that was made among kills with one that nobody disturbed."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.report import TIMING_COLUMNS

Episode = tuple[str, int, int]
"""Key of a cell, run, number."""


@dataclass
class Comparison:
    """What differs between a results folder and that of an undisturbed run.

    Attributes:
        episodes: how many were compared.
        lost: episodes that are not stored.
        twice: episodes that lie in two parts, or twice in one.
        changed: episodes with other predictions, and those that the undisturbed run has not.
        tables: lines of `leaderboard.csv` that differ in anything but the time.
        left_over: unfinished files and leases, relative to the folder.
    """

    episodes: int = 0
    lost: list[Episode] = field(default_factory=list)
    twice: list[Episode] = field(default_factory=list)
    changed: list[Episode] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.lost or self.twice or self.changed or self.tables or self.left_over)


def compared(results: Path, undisturbed: Path) -> Comparison:
    """Compare two results folders of the same command.

    Args:
        results: made among kills; the last run of the command ended by itself.
        undisturbed: made by one run of one process.
    """
    found, expected = dict(_predictions(results)), dict(_predictions(undisturbed))
    stored = Counter(raw_episodes(results / "outcomes"))
    lines = [_without_timing(folder / "leaderboard.csv") for folder in (results, undisturbed)]
    return Comparison(
        episodes=len(expected),
        lost=sorted(expected.keys() - found.keys()),
        twice=sorted(episode for episode, count in stored.items() if count > 1),
        changed=sorted(episode for episode in found if found[episode] != expected.get(episode)),
        tables=[a or b for a, b in zip(*_padded(*lines), strict=True) if a != b],
        left_over=left_over(results),
    )


def raw_episodes(outcomes: Path) -> Iterator[Episode]:
    """Every row of every part as it lies on the disk, whatever the parts are called."""
    for path in outcomes.rglob("*.parquet"):
        if not path.name.startswith("."):
            table = pq.ParquetFile(path).read(columns=["run", "episode"])  # read_table would add run= of a folder
            key = path.relative_to(outcomes).parts[0]
            for run, episode in zip(table["run"].to_pylist(), table["episode"].to_pylist(), strict=True):
                yield key, int(run), int(episode)


class RowsOfParts:
    """Counts the rows of all parts again and again, each part once."""

    def __init__(self) -> None:
        self._known: dict[Path, int] = {}

    def in_folder(self, results: Path) -> int:
        """How many rows are stored."""
        parts = [path for path in results.rglob("*.parquet") if not path.name.startswith(".")]
        for path in parts:
            if path not in self._known:
                self._known[path] = pq.ParquetFile(path).metadata.num_rows
        return sum(self._known[path] for path in parts)


def left_over(folder: Path) -> list[str]:
    """Unfinished files and leases below a folder; locks that nobody holds may lie there for good."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    unfinished = [path for path in files if path.name.startswith(".") or path.suffix in (".tmp", ".lease")]
    return sorted(str(path.relative_to(folder)) for path in unfinished if path.suffix != ".lock")


def _predictions(results: Path) -> Iterator[tuple[Episode, bytes]]:
    store = OutcomeStore(results / "outcomes")
    for cell in store.cells():
        frame = store.read(cell)
        for run, episode, predictions in zip(frame["run"], frame["episode"], frame["predictions"], strict=True):
            yield (cell.key, int(run), int(episode)), bytes(predictions)


def _without_timing(path: Path) -> list[str]:
    rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
    kept = [place for place, column in enumerate(rows[0]) if column not in TIMING_COLUMNS]
    return [",".join(row[place] for place in kept) for row in rows]


def _padded(first: list[str], second: list[str]) -> tuple[list[str], list[str]]:
    length = max(len(first), len(second))
    return first + [""] * (length - len(first)), second + [""] * (length - len(second))
