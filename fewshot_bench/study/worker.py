"""One method at work in one process, which need not be the one that a study was started in."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pandas as pd

from fewshot_bench.datasets import ImageSplit
from fewshot_bench.engine.adapt import outcome_frame, together
from fewshot_bench.engine.classifier import Classifier
from fewshot_bench.engine.engine import Chunk
from fewshot_bench.episodes import Episodes, Protocol, draw
from fewshot_bench.study.classifiers import OnEmbeddings, OnImages
from fewshot_bench.study.provenance import PeakMemory


@dataclass(frozen=True)
class WorkerRecipe:
    """Makes a worker in whichever process; see `Engine.method`.

    Attributes:
        classifier: makes the method's classifier.
        class_sizes: images per class of the split, [C].
        class_names: for error messages, [C].
        dataset_fingerprint: of the dataset that the episodes index.
        device: of the classifier.
    """

    classifier: OnEmbeddings | OnImages
    class_sizes: tuple[int, ...]
    class_names: tuple[str, ...]
    dataset_fingerprint: str
    device: str

    @classmethod
    def of(cls, classifier: OnEmbeddings | OnImages, images: ImageSplit, device: str) -> WorkerRecipe:
        """The worker of a method on a split; it draws episodes without the images."""
        return cls(classifier, images.class_sizes, images.class_names, images.dataset_fingerprint, device)

    def __call__(self) -> MethodWorker:
        """The worker, in this process."""
        memory = PeakMemory(self.device)
        memory.start_method()
        return MethodWorker(self, self.classifier(self.device), memory)


class MethodWorker:
    """One method in one process; see `Worker`."""

    def __init__(self, recipe: WorkerRecipe, classifier: Classifier, memory: PeakMemory) -> None:
        self._recipe, self._classifier, self._memory = recipe, classifier, memory

    def chunk(self, protocol: Protocol) -> int:
        """How many episodes should be computed, and stored, together."""
        return self._classifier.chunk(protocol)

    def __call__(self, chunk: Chunk) -> pd.DataFrame:
        """The outcomes of a chunk."""
        recipe = self._recipe
        groups = draw(
            chunk.protocol,
            recipe.class_sizes,
            chunk.run,
            chunk.numbers,
            recipe.class_names,
            dataset_fingerprint=recipe.dataset_fingerprint,
        )
        return together([self._timed(episodes, chunk.at_once) for episodes in groups])

    def peak_bytes(self) -> int:
        """The most memory since this method began, or of the process where only that is known."""
        return self._memory.of_method()

    def _timed(self, episodes: Episodes, at_once: int) -> pd.DataFrame:
        """What the method did on episodes of one shape, with the time it took."""
        began = time.perf_counter()
        predictions = self._classifier(episodes, at_once)
        return outcome_frame(episodes, predictions, (time.perf_counter() - began) / len(episodes))
