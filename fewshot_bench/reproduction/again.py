"""The new outcomes of stored episodes: computed a chunk at a time, and kept where somebody wants them kept."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from fewshot_bench.audit.rebuild import Rebuilt
from fewshot_bench.audit.tasks import draw_again
from fewshot_bench.engine.adapt import outcome_frame, together
from fewshot_bench.episodes import Protocol
from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.progress import Progress

_NAMES = ["run", "episode"]


@dataclass(frozen=True)
class Again:
    """A method that was made again.

    Attributes:
        cell: as it is made here.
        method: what classifies.
        sizes: images per class of the split, [C].
        store: where new outcomes are kept, and those of an earlier time taken from; None to keep none.
    """

    cell: Cell
    method: Rebuilt
    sizes: Sequence[int]
    store: OutcomeStore | None = None

    def outcomes(self, wanted: pd.DataFrame, progress: Progress) -> pd.DataFrame:
        """The outcomes of some episodes, by run and number.

        Args:
            wanted: has their runs and numbers, [E].
            progress: shown one unit per episode.

        Returns:
            As `episode_frame` makes them, [E].
        """
        kept = self._kept(wanted)
        missing = _without(wanted, kept)
        frames = [] if kept.empty else [kept]
        with progress.step(f"{self.cell.protocol.task}, {self.cell.method.name}", len(missing)) as step:
            for rows in self._chunks(missing):
                frames.append(self._computed(rows))
                step.advance(len(rows))
        return together(frames)

    def _kept(self, wanted: pd.DataFrame) -> pd.DataFrame:
        if self.store is None or not self.store.done(self.cell):
            return wanted.iloc[:0]
        return self.store.read(self.cell).merge(wanted[_NAMES], on=_NAMES)

    def _chunks(self, missing: pd.DataFrame) -> Iterator[pd.DataFrame]:
        if missing.empty:
            return
        chunk = self.method.classifier.chunk(Protocol.of(self.cell.protocol))
        for _, rows in missing.groupby("run"):
            for start in range(0, len(rows), chunk):
                yield rows.iloc[start : start + chunk]

    def _computed(self, rows: pd.DataFrame) -> pd.DataFrame:
        frames = []
        for episodes in draw_again(self.cell.protocol, self.sizes, rows):
            began = time.perf_counter()
            predictions = self.method.classifier(episodes, len(rows))
            frames.append(outcome_frame(episodes, predictions, (time.perf_counter() - began) / len(episodes)))
        frame = together(frames)
        if self.store is not None:
            self.store.append_frame(self.cell, frame)
        return frame


def _without(wanted: pd.DataFrame, kept: pd.DataFrame) -> pd.DataFrame:
    names = pd.MultiIndex.from_frame(wanted[_NAMES])
    return wanted[~names.isin(pd.MultiIndex.from_frame(kept[_NAMES]))]
