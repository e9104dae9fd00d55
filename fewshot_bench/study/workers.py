"""What classifies the episodes of a study: one backbone's embeddings, made once each, or the backbone itself.

Augmented views of a split, to be embedded beside the plain images.

One method at work in one process, which need not be the one that a study was started in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewshot_bench.adaptation import Adaptation, EmbeddedSplit, EmbeddingAdaptation, Features, Finetune
from fewshot_bench.backbones import Backbone, BaseHead, embed
from fewshot_bench.datasets import Dataset, ImageSplit
from fewshot_bench.engine.adapt import outcome_frame, together
from fewshot_bench.engine.classify import Classifier, EmbeddingClassifier, gram_pays
from fewshot_bench.engine.engine import Chunk, Engine
from fewshot_bench.engine.finetune import FinetuneClassifier, base_head_for
from fewshot_bench.engine.local import LocalEngine
from fewshot_bench.episodes import Episodes, Protocol, draw
from fewshot_bench.errors import DatasetError, StudyError
from fewshot_bench.progress import Progress
from fewshot_bench.study.provenance import PeakMemory
from fewshot_bench.study.study import Study
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


class Ingredients:
    """The embeddings that methods work on, as arrays; what a process makes of them it makes once.

    Args:
        views: of the plain images, then of each augmented view, float32 [I, D] each.
        features: what is done to them.
        center: to be subtracted first, [D], where the features want it.
        base_covariance: within the classes of the base split, [D, D], where the adaptation wants it.
        with_gram: whether inner products of all rows are computed at once.
    """

    def __init__(
        self,
        views: Sequence[NDArray[np.float32]],
        features: Features = "raw",
        center: NDArray[np.float32] | None = None,
        *,
        base_covariance: NDArray[np.float32] | None = None,
        with_gram: bool = False,
    ) -> None:
        self.views, self.features, self.center, self.with_gram = tuple(views), features, center, with_gram
        self.base_covariance = base_covariance
        self._made: dict[str, EmbeddedSplit] = {}

    def on(self, device: str) -> EmbeddedSplit:
        """The embeddings on a device, with their features."""
        if device not in self._made:
            rows = torch.from_numpy(self._rows()).to(device)
            center, covariance = (_on(device, array) for array in (self.center, self.base_covariance))
            made = EmbeddedSplit(rows, len(self.views[0])).with_features(self.features, center)
            made = replace(made, base_covariance=covariance)
            self._made[device] = made.with_gram() if self.with_gram else made
        return self._made[device]

    def _rows(self) -> NDArray[np.float32]:
        """All views in one array, [(1 + V) * I, D]: mapped from the cache as it is, or a copy.

        PyTorch warns of arrays that cannot be written to, as those are that another process has put into shared memory.
        """
        is_mapped = len(self.views) == 1 and self.views[0].flags.writeable
        return self.views[0] if is_mapped else np.concatenate(self.views)

    def __getstate__(self) -> dict[str, Any]:
        """For another process: the arrays alone, which processes of one machine may share."""
        return {**self.__dict__, "_made": {}}


def _on(device: str, array: NDArray[np.float32] | None) -> torch.Tensor | None:
    """A copy of an array on a device."""
    return None if array is None else torch.from_numpy(np.array(array)).to(device)


@dataclass(frozen=True)
class OnEmbeddings:
    """Makes the classifier of a method that needs embeddings and nothing else, in whichever process."""

    adaptation: EmbeddingAdaptation | Finetune
    ingredients: Ingredients
    base_head: BaseHead | None = None

    def __call__(self, device: str) -> Classifier:
        """The classifier on a device."""
        split = self.ingredients.on(device)
        if isinstance(self.adaptation, Finetune):
            return FinetuneClassifier.on_embeddings(self.adaptation, split.embeddings, split.images, self.base_head)
        return EmbeddingClassifier(self.adaptation, split)


@dataclass(frozen=True)
class OnImages:
    """The same for a method that changes the backbone."""

    adaptation: Finetune
    split: ImageSplit
    backbone: Backbone

    def __call__(self, device: str) -> Classifier:
        """The classifier on a device.

        Raises:
            StudyError: what should be tuned is not there.
        """
        return FinetuneClassifier.on_images(self.adaptation, self.split, self.backbone, device)


class ClassifierSource:
    """Makes the classifiers of one backbone; adaptations that want the same embeddings share them."""

    def __init__(
        self,
        study: Study,
        dataset: Dataset,
        backbone: Backbone,
        device: str,
        progress: Progress,
        engine: Engine | None = None,
    ) -> None:
        self._study, self._dataset, self._backbone = study, dataset, backbone
        self._device, self._progress = device, progress
        self._engine = engine or LocalEngine(device)
        self._views_made: dict[tuple[int, int, AugmentationName], NDArray[np.float32]] = {}
        self._ingredients: dict[tuple[Features, int, int, AugmentationName, bool, bool], Ingredients] = {}

    def __call__(self, adaptation: Adaptation) -> Classifier:
        """The classifier of an adaptation, in this process.

        Raises:
            StudyError: it is of a kind that nobody here knows how to run.
        """
        return self.recipe(adaptation)(self._device)

    def recipe(self, adaptation: Adaptation) -> OnEmbeddings | OnImages:
        """What makes the classifier of an adaptation wherever it is computed; embeddings are made now.

        Raises:
            StudyError: it is of a kind that nobody here knows how to run.
        """
        if isinstance(adaptation, EmbeddingAdaptation):
            return OnEmbeddings(adaptation, self._with_features(adaptation))
        if not isinstance(adaptation, Finetune):
            raise StudyError(f"{adaptation.name} should be an EmbeddingAdaptation or a Finetune to be run.")
        if adaptation.trains_on_embeddings:
            head = base_head_for(adaptation, self._backbone)  # first, since embeddings take their time
            key = (adaptation.augmented_views, adaptation.seed, adaptation.augmentation)
            return OnEmbeddings(adaptation, self._shared("raw", *key), head)
        return OnImages(adaptation, self._split, self._backbone)

    @property
    def _split(self) -> ImageSplit:
        return self._dataset.split(self._study.split)

    def _with_features(self, adaptation: EmbeddingAdaptation) -> Ingredients:
        """Embeddings as the adaptation wants them, with a Gram matrix where the whole study makes it worth while.

        What is stored already makes no difference, so a study that goes on rounds as one that never stopped.
        """
        views = adaptation.augmented_views
        is_worth_it = gram_pays(adaptation, (1 + views) * len(self._split), self._work())
        # What takes a covariance of all dimensions needs the embeddings themselves, and no inner products.
        needs_covariance = adaptation.needs_base_covariance
        return self._shared(
            adaptation.features,
            views,
            self._study.seed,
            adaptation.augmentation_of_views if views else "auto",
            with_gram=is_worth_it and not needs_covariance,
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
    ) -> Ingredients:
        key = (features, views, seed, augmentation, with_gram, with_covariance)
        if key not in self._ingredients:
            arrays = [self._view(view, seed, augmentation) for view in range(views + 1)]
            center = self._center() if features == "cl2" else None
            covariance = self._base_covariance(features, center) if with_covariance else None
            self._ingredients[key] = Ingredients(
                arrays, features, center, base_covariance=covariance, with_gram=with_gram
            )
        return self._ingredients[key]

    def _work(self) -> list[tuple[int, int, int, int]]:
        """Number of episodes, way, shot and queries per class, for each protocol of the study."""
        protocols = self._study.protocols(self._split.class_sizes)
        return [(p.runs * p.episodes, p.way, p.shot, p.query) for p in protocols]

    def _view(self, view: int, seed: int, augmentation: AugmentationName) -> NDArray[np.float32]:
        """Raw embeddings of the plain images, which are view 0, or of an augmented view, [I, D]."""
        key = (view, seed, augmentation) if view else (0, 0, "auto")
        if key not in self._views_made:
            arguments = (self._split, self._backbone, self._device, seed, view, augmentation)
            self._views_made[key] = self._engine.call(embedded_view, *arguments, progress=self._progress)
        return self._views_made[key]

    def _base_split(self, setting: str) -> ImageSplit:
        """The base split, which a setting needs.

        Raises:
            DatasetError: there is none.
        """
        try:
            return self._dataset.base
        except DatasetError as error:
            instead = {"features=cl2": "features=l2", "covariance=base": "covariance=support"}[setting]
            raise DatasetError(f"{setting} needs embeddings of the base split: {error} Use {instead}.") from error

    def _embedded(self, base: ImageSplit) -> NDArray[np.float32]:
        """Raw embeddings of the base split, [I, D]."""
        embeddings: NDArray[np.float32] = self._engine.call(
            embed, base, self._backbone, device=self._device, progress=self._progress
        )
        return embeddings

    def _center(self) -> NDArray[np.float32]:
        base = self._embedded(self._base_split("features=cl2"))
        center: NDArray[np.float32] = base.mean(axis=0, dtype=np.float64).astype(np.float32)
        return center

    def _base_covariance(self, features: Features, center: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """Covariance within the classes of the base split with these features, [D, D]."""
        base = self._base_split("covariance=base")
        embedded = Ingredients([self._embedded(base)], features, center).on(self._device)
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
    """Embeddings of a split as it is, which is view 0, or of an augmented view of it, [I, D]."""
    return embed(
        split,
        backbone,
        device=device,
        augment=augmented_view(split, seed, view, augmentation) if view else None,
        augmentation_name=name_of_view(seed, view, augmentation) if view else "",
        progress=progress,
    )


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
