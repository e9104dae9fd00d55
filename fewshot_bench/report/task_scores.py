"""What several methods did on the episodes of one protocol, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fewshot_bench.errors import FewshotBenchError
from fewshot_bench.outcomes import Cell, OutcomeStore, ProtocolCard
from fewshot_bench.outcomes.claimed import NO_CLASSES
from fewshot_bench.report.classes import ClaimedClasses, claimed_classes, classes_of_episodes
from fewshot_bench.statistics import data_half_widths


@dataclass(frozen=True, eq=False)
class TaskScores:
    """The accuracies of some cells of one protocol, matched by run and episode.

    Attributes:
        cells: the methods, all on one protocol, [A].
        run: run of each episode that any of them has, [E].
        episode: its number within the run, [E].
        accuracy: fraction of queries classified correctly, NaN where a method lacks the episode, [A, E].
        seconds: what all stored episodes of each method took, NaN where nobody measured it, [A].
        failed: how many episodes of each method could not be computed, [A]; empty where nobody looked.
        claims: the classes of each episode, where files claim them.
    """

    cells: Sequence[Cell]
    run: NDArray[np.int64]
    episode: NDArray[np.int64]
    accuracy: NDArray[np.float64]
    seconds: NDArray[np.float64]
    failed: Sequence[int] = ()
    claims: ClaimedClasses = field(default_factory=ClaimedClasses)

    @property
    def protocol(self) -> ProtocolCard:
        """That all of the cells share."""
        return self.cells[0].protocol

    @property
    def classes(self) -> NDArray[np.int64] | None:
        """The classes of each episode, [E, N]; None where they cannot be known."""
        return self._classes_or_why[0]

    @property
    def why_no_classes(self) -> str:
        """Why they are not known; empty where they are, or where no class sizes are recorded."""
        return self._classes_or_why[1]

    @cached_property
    def _classes_or_why(self) -> tuple[NDArray[np.int64] | None, str]:
        if self.protocol.is_claimed:
            return self.claims.numbers, self.claims.why_not
        recorded = sorted({cell.class_sizes for cell in self.cells if cell.class_sizes})
        if not recorded:
            return None, ""
        if len(recorded) > 1:
            return None, "cells disagree about the class sizes, see fewshot-bench audit"
        try:
            return classes_of_episodes(self.protocol, recorded[0], self.run, self.episode), ""
        except FewshotBenchError:
            return None, "classes of the episodes unknown, see fewshot-bench audit"

    def of(self, position: int) -> NDArray[np.bool_]:
        """Which episodes a method has, [E]."""
        there: NDArray[np.bool_] = ~np.isnan(self.accuracy[position])
        return there

    def pair(self, a: int, b: int) -> NDArray[np.bool_]:
        """Which episodes two methods share, [E]."""
        return self.of(a) & self.of(b)


def task_scores(frames: Sequence[pd.DataFrame], cells: Sequence[Cell], failed: Sequence[int] = ()) -> TaskScores:
    """Match the episodes of some cells.

    Args:
        frames: of each cell, with the columns run, episode, accuracy and seconds; an episode counts once.
        cells: all on one protocol.
        failed: how many episodes of each could not be computed; empty where nobody looked.
    """
    tables = [frame.drop_duplicates(["run", "episode"]) for frame in frames]
    identities = [_identity(table) for table in tables]
    everything = np.unique(np.concatenate(identities))
    accuracy = np.full((len(cells), len(everything)), np.nan)
    places = [np.searchsorted(everything, identity) for identity in identities]
    for row, (table, place) in enumerate(zip(tables, places, strict=True)):
        accuracy[row, place] = table["accuracy"].to_numpy(np.float64)
    claims = ClaimedClasses()
    if cells[0].protocol.is_claimed:
        unknown = [pd.Series(NO_CLASSES, table.index) for table in tables]
        texts = [table.get("classes", none).to_numpy(object) for table, none in zip(tables, unknown, strict=True)]
        claims = claimed_classes(places, texts, len(everything), cells[0].protocol.way)
    seconds = np.array([float(table["seconds"].sum(skipna=False)) for table in tables])
    return TaskScores(list(cells), everything >> _BITS, everything & _MASK, accuracy, seconds, failed, claims)


def stored_scores(store: OutcomeStore, cells: Sequence[Cell]) -> TaskScores:
    """Match the episodes of some stored cells.

    Raises:
        OutcomeError: nothing is stored for a cell, or a part is damaged.
    """
    frames = [store.read(cell, with_predictions=False) for cell in cells]
    failed = [sum(len(failure.episodes) for failure in store.failures(cell)) for cell in cells]
    return task_scores(frames, cells, failed)


def data_half_widths_of(scores: TaskScores, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Half-widths of the data intervals of several rows of values on the same episodes.

    Args:
        scores: what the episodes are.
        values: accuracies or differences, NaN where an episode is lacking, [A, E].

    Returns:
        Half-widths, NaN where they cannot be had, [A].
    """
    result = np.full(len(values), np.nan)
    if scores.classes is None:
        return result
    there = ~np.isnan(values)
    patterns, of_row = np.unique(there, axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        rows = np.flatnonzero(np.ravel(of_row) == number)
        if pattern.any():
            result[rows] = data_half_widths(values[np.ix_(rows, pattern)], scores.classes[pattern])
    return result


_BITS = 32
_MASK = (1 << _BITS) - 1


def _identity(table: pd.DataFrame) -> NDArray[np.int64]:
    """Run and episode as one number."""
    identity: NDArray[np.int64] = (table["run"].to_numpy(np.int64) << _BITS) | table["episode"].to_numpy(np.int64)
    return identity
