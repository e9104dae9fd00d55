"""What computes the outcomes of a method: its embeddings, made once and shared, its classifier, and its workers.

Classifiers and workers are made by factories that can be sent to other processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewshot_bench.adaptation import (
    MAML,
    Adaptation,
    EmbeddedSplit,
    EmbeddingAdaptation,
    Features,
    Finetune,
    Probe,
    TrainedClassifier,
)
from fewshot_bench.backbones import Backbone, BaseHead, embed
from fewshot_bench.datasets import ImageSplit
from fewshot_bench.engine.classify import Classifier, EmbeddingClassifier, gram_pays, outcome_frame, together
from fewshot_bench.engine.engine import Chunk, Engine
from fewshot_bench.engine.finetune import FinetuneClassifier, as_finetune, base_head_for
from fewshot_bench.engine.whole_split import WholeClassifier
from fewshot_bench.episodes import Episodes, Protocol, draw
from fewshot_bench.errors import DatasetError, StudyError
from fewshot_bench.progress import Progress
from fewshot_bench.study.base_stage import whole_head
from fewshot_bench.study.probes import OnProbe, ProbeImages, probe_of
from fewshot_bench.study.provenance import PeakMemory
from fewshot_bench.study.resolved import ResolvedStudy
from fewshot_bench.training import AUGMENTATION_VERSION, choose_augmentation, image_keys, keyed_uniform
from fewshot_bench.training.recipe import AugmentationName


def augmented_view(
    split: ImageSplit, seed: int, view: int, augmentation_name: AugmentationName = "auto"
) -> Callable[[Tensor, slice], Tensor]:
    """What makes one view of every image of a split, in parts of any size.

    Args:
        split: the images.
        seed: of the study.
        view: number of the view, from 1.
        augmentation_name: what makes it.

    Returns:
        A function from uint8 [B, C, H, W], and which images of the split these are, to their views, uint8
        [B, C, H, W]. The view of an image depends on its pixels, the seed, the view and its position only.
    """
    _, height, width, channels = split.images.shape
    augmentation = choose_augmentation(augmentation_name, channels=channels, image_size=min(height, width))
    uniform = keyed_uniform(image_keys(seed, np.arange(len(split))), [view], augmentation.numbers)
    return lambda images, which: augmentation(images, uniform[which])


def name_of_view(seed: int, view: int, augmentation_name: AugmentationName = "auto") -> str:
    """The name under which the embeddings of a view are cached; another seed, view or code has another."""
    return f"{augmentation_name}, version {AUGMENTATION_VERSION}, view {view} of seed {seed}"


@dataclass(eq=False)
class PreparedEmbeddings:
    """The embeddings that methods work on, as arrays; each process puts them on its device once.

    Attributes:
        views: of the plain images, then of each augmented view, float32 [I, D] each.
        features: what is done to them.
        center: to be subtracted first, [D], where the features want it.
        base_covariance: within the classes of the base split, [D, D], where the adaptation wants it.
        with_gram: whether inner products of all rows are computed at once.
    """

    views: Sequence[NDArray[np.float32]]
    features: Features = "raw"
    center: NDArray[np.float32] | None = None
    base_covariance: NDArray[np.float32] | None = None
    with_gram: bool = False
    _on_device: dict[str, EmbeddedSplit] = field(default_factory=dict, init=False, repr=False)

    def on(self, device: str) -> EmbeddedSplit:
        """The embeddings on a device, with their features."""

        def copied(array: NDArray[np.float32] | None) -> Tensor | None:
            return None if array is None else torch.from_numpy(np.array(array)).to(device)

        if device not in self._on_device:
            rows = torch.from_numpy(self._rows()).to(device)
            split = EmbeddedSplit(rows, len(self.views[0])).with_features(self.features, copied(self.center))
            split = replace(split, base_covariance=copied(self.base_covariance))
            self._on_device[device] = split.with_gram() if self.with_gram else split
        return self._on_device[device]

    def _rows(self) -> NDArray[np.float32]:
        """All views in one array, [(1 + V) * I, D]: mapped from the cache, or a copy.

        PyTorch warns of arrays that cannot be written to, such as those in another process's shared memory.
        """
        is_mapped = len(self.views) == 1 and self.views[0].flags.writeable
        return self.views[0] if is_mapped else np.concatenate(self.views)

    def __getstate__(self) -> dict[str, Any]:
        """For another process: the arrays alone, which processes of one machine may share."""
        return {**self.__dict__, "_on_device": {}}


ClassifierFactory = Callable[[str], Classifier]
"""Makes a classifier on a device, in whichever process."""


@dataclass(frozen=True)
class OnEmbeddings:
    """Makes the classifier of a method that needs nothing but embeddings."""

    adaptation: EmbeddingAdaptation | Finetune
    embeddings: PreparedEmbeddings
    base_head: BaseHead | None = None

    def __call__(self, device: str) -> Classifier:
        """The classifier on a device."""
        split = self.embeddings.on(device)
        if isinstance(self.adaptation, Finetune):
            return FinetuneClassifier.on_embeddings(self.adaptation, split.embeddings, split.images, self.base_head)
        return EmbeddingClassifier(self.adaptation, split)


@dataclass(frozen=True, eq=False)
class OnWholeSplit:
    """Makes the classifier of a whole split from a network's own head."""

    adaptation: TrainedClassifier
    embeddings: NDArray[np.float32]
    head: BaseHead

    def __call__(self, device: str) -> Classifier:
        """The classifier on a device."""

        def logits(images: NDArray[np.int64]) -> Tensor:
            return self.head(torch.from_numpy(self.embeddings[images]).to(device))

        return WholeClassifier(logits, self.adaptation.name)


class ClassifierBuilder:
    """Makes the classifiers of a trained backbone of a study; adaptations share embeddings."""

    def __init__(self, resolved: ResolvedStudy, backbone: Backbone, engine: Engine, progress: Progress) -> None:
        self._resolved, self._backbone = resolved, backbone
        self._engine, self._device, self._progress = engine, engine.device, progress
        self._split = resolved.images
        self._others: dict[str, NDArray[np.float32]] = {}
        self._views: dict[tuple[int, int, AugmentationName], NDArray[np.float32]] = {}
        self._prepared: dict[tuple[Features, int, int, AugmentationName, bool, bool], PreparedEmbeddings] = {}

    def worker_factory(self, adaptation: Adaptation) -> WorkerFactory:
        """What makes the workers of a method; embeddings are made now. Raises as `factory`."""
        images = self._split
        return WorkerFactory(
            self.factory(adaptation), images.class_sizes, images.class_names, images.dataset_fingerprint, self._device
        )

    def factory(self, adaptation: Adaptation) -> ClassifierFactory:
        """What makes the classifier of an adaptation; embeddings are made now.

        Raises:
            StudyError: its kind is unknown here, or what should be tuned is not there.
        """
        if isinstance(adaptation, EmbeddingAdaptation):
            return OnEmbeddings(adaptation, self._with_features(adaptation))
        if isinstance(adaptation, TrainedClassifier):
            classifier = whole_head(self._backbone, self._split)
            return OnWholeSplit(adaptation, self._view(0, 0, "auto"), classifier)
        if isinstance(adaptation, Probe):
            return self._probe(adaptation)
        if not isinstance(adaptation, Finetune | MAML):
            raise StudyError(f"{adaptation.name} should be an EmbeddingAdaptation or a Finetune to be run.")
        method = as_finetune(adaptation, self._backbone)
        if method.trains_on_embeddings:
            head = base_head_for(method, self._backbone)  # first, since embeddings take their time
            key = (method.augmented_views, method.seed, method.augmentation)
            return OnEmbeddings(method, self._shared("raw", *key), head)
        return partial(FinetuneClassifier.on_images, method, self._split, self._backbone)

    def _probe(self, adaptation: Probe) -> OnProbe:
        """A probe, fitted to the embeddings of the train split."""
        images = ProbeImages.of(self._resolved.dataset, adaptation)
        embeddings = [self._embedded(split) for split in images.splits]
        probe = probe_of(adaptation, images, embeddings, self._backbone, self._engine, self._progress)
        return OnProbe(adaptation.name, probe, self._view(0, 0, "auto"))

    def _with_features(self, adaptation: EmbeddingAdaptation) -> PreparedEmbeddings:
        """Embeddings with the features of an adaptation, with a Gram matrix where the whole study makes it pay.

        Stored outcomes make no difference, so a study that is resumed rounds like one that never stopped.
        """
        views, needs_covariance = adaptation.augmented_views, adaptation.needs_base_covariance
        work = [(p.runs * p.episodes, p.way, p.shot, p.query) for p in self._resolved.protocols]
        pays = gram_pays(adaptation, (1 + views) * len(self._split), work)
        return self._shared(
            adaptation.features,
            views,
            self._resolved.study.seed,
            adaptation.augmentation_of_views if views else "auto",
            # A covariance of all dimensions is taken from the embeddings themselves, not from inner products.
            with_gram=pays and not needs_covariance,
            with_covariance=needs_covariance,
        )

    def _shared(
        self,
        features: Features,
        views: int,
        seed: int,
        augmentation: AugmentationName,
        *,
        with_gram: bool = False,
        with_covariance: bool = False,
    ) -> PreparedEmbeddings:
        key = (features, views, seed, augmentation, with_gram, with_covariance)
        if key not in self._prepared:
            arrays = [self._view(view, seed, augmentation) for view in range(views + 1)]
            center = self._center() if features == "cl2" else None
            covariance = self._base_covariance(features, center) if with_covariance else None
            self._prepared[key] = PreparedEmbeddings(arrays, features, center, covariance, with_gram)
        return self._prepared[key]

    def _view(self, view: int, seed: int, augmentation: AugmentationName) -> NDArray[np.float32]:
        """Raw embeddings of the plain images, which are view 0, or of an augmented view, [I, D]."""
        key = (view, seed, augmentation) if view else (0, 0, "auto")
        if key not in self._views:
            arguments = (self._split, self._backbone, self._device, seed, view, augmentation)
            self._views[key] = self._engine.call(embedded_view, *arguments, progress=self._progress)
        return self._views[key]

    def _base_split(self, setting: str) -> ImageSplit:
        """The base split, which a setting needs; raises DatasetError if there is none."""
        try:
            return self._resolved.dataset.base
        except DatasetError as error:
            instead = {"features=cl2": "features=l2", "covariance=base": "covariance=support"}[setting]
            raise DatasetError(f"{setting} needs embeddings of the base split: {error} Use {instead}.") from error

    def _embedded(self, split: ImageSplit) -> NDArray[np.float32]:
        """Raw embeddings of another split, such as the base split, [I, D]; embedded when first asked for."""
        if split.name not in self._others:
            self._others[split.name] = self._engine.call(
                embed, split, self._backbone, device=self._device, progress=self._progress
            )
        return self._others[split.name]

    def _center(self) -> NDArray[np.float32]:
        base = self._embedded(self._base_split("features=cl2"))
        center: NDArray[np.float32] = base.mean(axis=0, dtype=np.float64).astype(np.float32)
        return center

    def _base_covariance(self, features: Features, center: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """Covariance within the classes of the base split with these features, [D, D]."""
        base = self._base_split("covariance=base")
        embedded = PreparedEmbeddings([self._embedded(base)], features, center).on(self._device)
        covariance: NDArray[np.float32] = embedded.covariance_within(base.class_sizes).cpu().numpy()
        return covariance


def embedded_view(
    split: ImageSplit,
    backbone: Backbone,
    device: str,
    seed: int,
    view: int,
    augmentation: AugmentationName,
    *,
    progress: Progress,
) -> NDArray[np.float32]:
    """Embeddings of the plain images of a split, which are view 0, or of an augmented view, [I, D]."""
    return embed(
        split,
        backbone,
        device=device,
        augment=augmented_view(split, seed, view, augmentation) if view else None,
        augmentation_name=name_of_view(seed, view, augmentation) if view else "",
        progress=progress,
    )


@dataclass(frozen=True)
class WorkerFactory:
    """Makes the workers of a method, in whichever process; see `Engine.method`. They draw episodes without the images.

    Attributes:
        classifier: makes the method's classifier.
        class_sizes: images per class of the split, [C].
        class_names: for error messages, [C].
        dataset_fingerprint: of the dataset that the episodes index.
        device: of the classifier.
    """

    classifier: ClassifierFactory
    class_sizes: tuple[int, ...]
    class_names: tuple[str, ...]
    dataset_fingerprint: str
    device: str

    def __call__(self) -> MethodWorker:
        """A worker in this process."""
        memory = PeakMemory(self.device)
        memory.start_method()
        return MethodWorker(self, self.classifier(self.device), memory)


class MethodWorker:
    """One method in one process; see `Worker`."""

    def __init__(self, factory: WorkerFactory, classifier: Classifier, memory: PeakMemory) -> None:
        self._factory, self._classifier, self._memory = factory, classifier, memory

    def chunk(self, protocol: Protocol) -> int:
        """How many episodes should be computed, and stored, together."""
        return self._classifier.chunk(protocol)

    def __call__(self, chunk: Chunk) -> pd.DataFrame:
        """The outcomes of a chunk."""
        groups = draw(
            chunk.protocol,
            self._factory.class_sizes,
            chunk.run,
            chunk.numbers,
            self._factory.class_names,
            dataset_fingerprint=self._factory.dataset_fingerprint,
        )
        return together([self._timed(episodes, chunk.at_once) for episodes in groups])

    def peak_bytes(self) -> int:
        """The most memory since this method began, or of the process where only that is known."""
        return self._memory.of_method()

    def _timed(self, episodes: Episodes, at_once: int) -> pd.DataFrame:
        """Outcomes of the method on episodes of one shape, with the time it took."""
        began = time.perf_counter()
        confidence = None
        if isinstance(self._classifier, WholeClassifier):
            predictions, confidence = self._classifier.with_confidence(episodes, at_once)
        else:
            predictions = self._classifier(episodes, at_once)
        return outcome_frame(episodes, predictions, (time.perf_counter() - began) / len(episodes), confidence)
