"""One method of a study, timed on a few chunks of episodes."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.adaptation import Adaptation, Features, Finetune
from fewshot_bench.backbones import Backbone, embeddings_file
from fewshot_bench.datasets import Dataset, ImageSplit
from fewshot_bench.engine.engine import Chunk
from fewshot_bench.episodes import Protocol
from fewshot_bench.progress import SILENT
from fewshot_bench.study.augmented_views import name_of_view
from fewshot_bench.study.classifiers import ClassifierSource
from fewshot_bench.study.measuring import Span, per_unit
from fewshot_bench.study.study import Study
from fewshot_bench.study.worker import MethodWorker, WorkerRecipe
from fewshot_bench.training.recipe import AugmentationName

_EPOCHS = 3


@dataclass(frozen=True)
class View:
    """Embeddings that a method needs.

    Attributes:
        split: of these images.
        augmentation: what makes the view; None for plain images.
        name: of the view in the cache; empty for plain images.
    """

    split: ImageSplit
    augmentation: AugmentationName | None
    name: str

    def is_kept(self, backbone: Backbone, device: str) -> bool:
        """Whether they are in the cache."""
        return embeddings_file(self.split, backbone, self.name, device).is_file()


class MeasuredSource(ClassifierSource):
    """The source of a study's classifiers, with made-up embeddings where none are kept; it notes what it was asked for.

    Made-up embeddings lie around a centre for each class, so that adaptations that stop early have something to do.
    """

    def __init__(self, study: Study, dataset: Dataset, backbone: Backbone, device: str) -> None:
        super().__init__(study, dataset, backbone, device, SILENT)
        self.views: list[View] = []

    def _view(self, view: int, seed: int, augmentation: AugmentationName) -> NDArray[np.float32]:
        name = name_of_view(seed, view, augmentation) if view else ""
        asked = View(self._split, augmentation if view else None, name)
        self.views.append(asked)
        if asked.is_kept(self._backbone, self._device):
            return super()._view(view, seed, augmentation)
        generator = np.random.default_rng(view)
        size, classes = self._backbone.embedding_size, len(self._split.class_sizes)
        centres = np.random.default_rng(0).standard_normal((classes, size))
        made = generator.standard_normal((len(self._split), size), dtype=np.float32)
        made += centres.astype(np.float32)[self._split.labels]
        return made

    def _center(self) -> NDArray[np.float32]:
        self.views.append(View(self._base_split("features=cl2"), None, ""))
        return np.zeros(self._backbone.embedding_size, dtype=np.float32)

    def _base_covariance(self, features: Features, center: NDArray[np.float32] | None) -> NDArray[np.float32]:
        self.views.append(View(self._base_split("covariance=base"), None, ""))
        return np.eye(self._backbone.embedding_size, dtype=np.float32)


@dataclass(frozen=True)
class ChunkTime:
    """What one episode of a protocol takes.

    Attributes:
        per_episode: seconds.
        timed: episodes in each chunk that was timed.
        chunk: episodes in each chunk of the study.
        is_extrapolated: whether a few epochs were timed and the others added.
    """

    per_episode: Span
    timed: int
    chunk: int
    is_extrapolated: bool = False


class TimedMethod:
    """One method of a study on a device, to be timed."""

    def __init__(self, study: Study, dataset: Dataset, backbone: Backbone, adaptation: Adaptation, device: str) -> None:
        self._study, self._images, self._adaptation, self._device = (
            study,
            dataset.split(study.split),
            adaptation,
            device,
        )
        self._source = MeasuredSource(study, dataset, backbone, device)

    def measured(self, protocols: list[Protocol]) -> tuple[list[View], Span, list[ChunkTime]]:
        """The embeddings that it needs, the seconds to get ready with them, and the time of each protocol."""
        self._source.recipe(self._adaptation)  # makes up embeddings, which is not to be timed
        began = time.perf_counter()
        worker = self._worker(self._adaptation)
        ready = time.perf_counter() - began
        return self._source.views, Span(ready, ready), [self._timed(worker, protocol) for protocol in protocols]

    def _worker(self, adaptation: Adaptation) -> MethodWorker:
        return WorkerRecipe.of(self._source.recipe(adaptation), self._images, self._device)()

    def _timed(self, worker: MethodWorker, protocol: Protocol) -> ChunkTime:
        chunk = min(self._study.chunk or worker.chunk(protocol), protocol.episodes)
        if not isinstance(self._adaptation, Finetune) or self._adaptation.epochs <= _EPOCHS:
            return ChunkTime(*_episodes(worker, protocol, chunk), chunk)
        one, timed = _episodes(self._worker(replace(self._adaptation, epochs=1)), protocol, chunk)
        several, _ = _episodes(self._worker(replace(self._adaptation, epochs=_EPOCHS)), protocol, timed, first=timed)
        more = (self._adaptation.epochs - 1) / (_EPOCHS - 1)
        low = one.low + max(0.0, several.low - one.low) * more
        high = one.high + max(0.0, several.high - one.low) * more
        return ChunkTime(Span(low, high), timed, chunk, is_extrapolated=True)


def _episodes(worker: MethodWorker, protocol: Protocol, most: int, *, first: int = 1) -> tuple[Span, int]:
    return per_unit(lambda count: worker(Chunk(protocol, 0, np.arange(count), count)), most, first=first)
