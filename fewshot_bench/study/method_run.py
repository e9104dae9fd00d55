"""One method of a study: whichever of its episodes are not stored yet, from images to outcomes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fewshot_bench.adaptation import Adaptation
from fewshot_bench.datasets import ImageSplit
from fewshot_bench.engine.adapt import outcome_frame, together
from fewshot_bench.engine.classifier import Classifier
from fewshot_bench.episodes import Episodes, Protocol, sample_by_shape
from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.progress import Progress
from fewshot_bench.study.provenance import PeakMemory, with_peak
from fewshot_bench.study.study import Study


@dataclass
class MethodRun:
    """One method of a study, which can be run a part of its episodes at a time.

    Attributes:
        study: that it belongs to.
        images: of the split.
        adaptation: what it does with each support set.
        source: makes its classifier; None once that is no longer wanted.
        planned: its cells, with their protocols.
        store: where the outcomes go.
        progress: shown one stage per cell.
        memory: told when the classifier is made.
    """

    study: Study
    images: ImageSplit
    adaptation: Adaptation
    source: Callable[[Adaptation], Classifier] | None
    planned: list[tuple[Cell, Protocol]]
    store: OutcomeStore
    progress: Progress
    memory: PeakMemory
    _classifier: Classifier | None = None

    def run(self, some: Sequence[tuple[Cell, Protocol]]) -> None:
        """Run the missing episodes of some cells; the classifier is made when the first is missing."""
        for cell, protocol in some:
            missing = missing_episodes(self.store, cell, protocol)
            if any(len(numbers) for numbers in missing):
                self._run(cell, protocol, missing)

    def forget(self) -> None:
        """Let the classifier and its embeddings go."""
        self._classifier = self.source = None

    def _run(self, cell: Cell, protocol: Protocol, missing: Sequence[NDArray[np.int64]]) -> None:
        classifier = self._made()
        self.store.open_cell(cell)
        chunk = self.study.chunk or classifier.chunk(protocol)
        total = sum(len(numbers) for numbers in missing)
        with self.progress.step(f"{protocol.way}-way {protocol.shot}-shot, {cell.method.name}", total) as step:
            for run, numbers in enumerate(missing):
                for start in range(0, len(numbers), chunk):
                    some = numbers[start : start + chunk]
                    groups = sample_by_shape(self.images, protocol, run, some)
                    frame = together([_timed(classifier, episodes, chunk) for episodes in groups])
                    self.store.append_frame(cell, frame)
                    step.advance(len(some))
        self.store.open_cell(replace(cell, provenance=with_peak(cell.provenance, self.memory)))

    def _made(self) -> Classifier:
        if self._classifier is None:
            assert self.source is not None
            self.memory.start_method()
            self._classifier = self.source(self.adaptation)
        return self._classifier


def _timed(classifier: Classifier, episodes: Episodes, chunk: int) -> pd.DataFrame:
    """What a method did on episodes of one shape, with the time it took."""
    began = time.perf_counter()
    predictions = classifier(episodes, chunk)
    return outcome_frame(episodes, predictions, (time.perf_counter() - began) / len(episodes))


def missing_episodes(store: OutcomeStore, cell: Cell, protocol: Protocol) -> list[NDArray[np.int64]]:
    """Numbers of the episodes of each run that are not stored yet."""
    done = store.done(cell)
    everything = np.arange(protocol.episodes)
    return [np.setdiff1d(everything, done.get(run, everything[:0])) for run in range(protocol.runs)]
