"""The new outcomes of stored episodes: computed a chunk at a time, and kept where somebody wants them kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fewshot_bench.engine.adapt import together
from fewshot_bench.engine.engine import Chunk, Worker
from fewshot_bench.engine.local import computed
from fewshot_bench.episodes import Protocol
from fewshot_bench.errors import ReproductionError
from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.progress import Progress
from fewshot_bench.study.pieces import reason_of

_NAMES = ["run", "episode"]


@dataclass(frozen=True)
class Again:
    """A method that was made again.

    Attributes:
        cell: as it is made here.
        worker: computes its outcomes.
        store: where new outcomes are kept, and those of an earlier time taken from; None to keep none.
    """

    cell: Cell
    worker: Worker
    store: OutcomeStore | None = None

    def outcomes(self, wanted: pd.DataFrame, progress: Progress) -> pd.DataFrame:
        """The outcomes of some episodes, by run and number.

        Args:
            wanted: has their runs and numbers, [E].
            progress: shown one unit per episode.

        Returns:
            As `episode_frame` makes them, [E].

        Raises:
            ReproductionError: the method failed.
        """
        kept = self._kept(wanted)
        missing = _without(wanted, kept)
        if missing.empty:
            return kept
        frames = [] if kept.empty else [kept]
        with progress.step(f"{self.cell.protocol.task}, {self.cell.method.name}", len(missing)) as step:
            for chunk in self._chunks(missing):
                frames.append(self._computed(chunk))
                step.advance(len(chunk))
        return together(frames)

    def _kept(self, wanted: pd.DataFrame) -> pd.DataFrame:
        if self.store is None or not self.store.done(self.cell):
            return wanted.iloc[:0]
        return self.store.read(self.cell).merge(wanted[_NAMES], on=_NAMES)

    def _chunks(self, missing: pd.DataFrame) -> Iterator[Chunk]:
        protocol = Protocol.of(self.cell.protocol)
        at_once = self.worker.chunk(protocol)
        for run in missing["run"].unique():
            numbers = missing.loc[missing["run"] == run, "episode"].to_numpy(np.int64)
            for start in range(0, len(numbers), at_once):
                yield Chunk(protocol, int(run), numbers[start : start + at_once], at_once)

    def _computed(self, chunk: Chunk) -> pd.DataFrame:
        finished = computed(self.worker, chunk)
        if finished.frame is None:
            assert finished.error is not None
            raise ReproductionError(
                f"{self.cell.method.name} failed on the episodes {chunk.numbers[0]} to {chunk.numbers[-1]} of run "
                f"{chunk.run}: {reason_of(finished.error)}"
            )
        if self.store is not None:
            self.store.append_frame(self.cell, finished.frame)
        return finished.frame


def _without(wanted: pd.DataFrame, kept: pd.DataFrame) -> pd.DataFrame:
    names = pd.MultiIndex.from_frame(wanted[_NAMES])
    return wanted[~names.isin(pd.MultiIndex.from_frame(kept[_NAMES]))]
