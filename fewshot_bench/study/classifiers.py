"""What classifies the episodes of a study: one backbone's embeddings, made once each, or the backbone itself."""

from __future__ import annotations

import numpy as np
import torch

from fewshot_bench.adaptation import Adaptation, EmbeddedSplit, EmbeddingAdaptation, Features, Finetune
from fewshot_bench.backbones import Backbone, embed
from fewshot_bench.datasets import Dataset
from fewshot_bench.engine.classifier import Classifier, EmbeddingClassifier
from fewshot_bench.engine.classify import gram_is_worth_building
from fewshot_bench.engine.finetune import FinetuneClassifier
from fewshot_bench.errors import StudyError
from fewshot_bench.progress import Progress
from fewshot_bench.study.augmented_views import augmented_view, name_of_view
from fewshot_bench.study.study import Study
from fewshot_bench.training.recipe import AugmentationName


class ClassifierSource:
    """Makes the classifiers of one backbone; adaptations that want the same embeddings share them."""

    def __init__(self, study: Study, dataset: Dataset, backbone: Backbone, device: str, progress: Progress) -> None:
        self._study, self._dataset, self._backbone = study, dataset, backbone
        self._device, self._progress = device, progress
        self._raw: dict[tuple[int, int, AugmentationName], torch.Tensor] = {}
        self._made: dict[tuple[Features, int], EmbeddedSplit] = {}

    def __call__(self, adaptation: Adaptation) -> Classifier:
        """The classifier of an adaptation.

        Raises:
            StudyError: it is of a kind that nobody here knows how to run.
        """
        images = self._dataset.split(self._study.split)
        if isinstance(adaptation, EmbeddingAdaptation):
            return EmbeddingClassifier(adaptation, self._embedded(adaptation))
        if not isinstance(adaptation, Finetune):
            raise StudyError(f"{adaptation.name} should be an EmbeddingAdaptation or a Finetune to be run.")
        if adaptation.trains_on_embeddings:
            rows = self._views(adaptation.augmented_views, adaptation.seed, adaptation.augmentation)
            return FinetuneClassifier.on_embeddings(adaptation, rows, len(images))
        return FinetuneClassifier.on_images(adaptation, images, self._backbone, self._device)

    def _embedded(self, adaptation: EmbeddingAdaptation) -> EmbeddedSplit:
        """Embeddings as the adaptation wants them, with a Gram matrix where the whole study makes it worth while.

        What is stored already makes no difference, so a study that goes on rounds as one that never stopped.
        """
        key = (adaptation.features, adaptation.augmented_views)
        if key not in self._made:
            raw = EmbeddedSplit(
                self._views(adaptation.augmented_views, self._study.seed),
                len(self._dataset.split(self._study.split)),
            )
            center = self._center() if adaptation.features == "cl2" else None
            made = raw.with_features(adaptation.features, center)
            is_worth_it = gram_is_worth_building(len(made.embeddings), self._products(), 1)
            self._made[key] = made.with_gram() if is_worth_it else made
        return self._made[key]

    def _products(self) -> int:
        """Inner products that one method of the study needs."""
        protocols = self._study.protocols(self._dataset.split(self._study.split).class_sizes)
        return sum(p.runs * p.episodes * p.way * p.shot * p.way * (p.shot + p.query) for p in protocols)

    def _views(self, views: int, seed: int, augmentation: AugmentationName = "auto") -> torch.Tensor:
        """Raw embeddings of the plain images, then of each augmented view, [(1 + views) * I, D]."""
        made = [self._view(view, seed, augmentation) for view in range(views + 1)]
        # One alone is not copied: it is mapped from the cache, and its pages are shared with other processes.
        return torch.cat(made) if views else made[0]

    def _view(self, view: int, seed: int, augmentation: AugmentationName) -> torch.Tensor:
        key = (view, seed, augmentation) if view else (0, 0, "auto")
        if key not in self._raw:
            split = self._dataset.split(self._study.split)
            embeddings = embed(
                split,
                self._backbone,
                device=self._device,
                augment=augmented_view(split, seed, view, augmentation) if view else None,
                augmentation_name=name_of_view(seed, view, augmentation) if view else "",
                progress=self._progress,
            )
            self._raw[key] = torch.from_numpy(embeddings).to(self._device)
        return self._raw[key]

    def _center(self) -> torch.Tensor:
        base = embed(self._dataset.base, self._backbone, device=self._device, progress=self._progress)
        return torch.from_numpy(base.mean(axis=0, dtype=np.float64).astype(np.float32)).to(self._device)
