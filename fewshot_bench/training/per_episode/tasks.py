"""Some episodes as a trainer wants them: support, views and queries as inputs of what is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewshot_bench.training.augment import Augmentation
from fewshot_bench.training.per_episode.network_parts import NetworkParts
from fewshot_bench.training.per_episode.recipe import FRESH, EpisodeRecipe
from fewshot_bench.training.per_episode.views import (
    EpisodeKeys,
    FreshViews,
    Normalise,
    PooledViews,
    StepViews,
    by_episode,
)
from fewshot_bench.training.randomness import image_keys, keyed_uniform


@dataclass(frozen=True)
class EpisodeTask:
    """Some episodes of one size.

    Attributes:
        keys: where each episode's random numbers come from.
        support: inputs of the plain support images, class by class, [E, N * K, ...].
        views: the augmented views of each step.
        queries: M, queries per episode.
        query: inputs of some of the queries, by position, [E, b, ...].
    """

    keys: EpisodeKeys
    support: Tensor
    views: StepViews
    queries: int
    query: Callable[[slice], Tensor]


@dataclass(frozen=True)
class ImageTasks:
    """Makes tasks from the images of a split.

    Attributes:
        images: uint8 [I, H, W, C].
        normalise: uint8 [B, C, H, W] -> float [B, C', S, S].
        augmentation: makes a view from an image and random numbers.
        parts: the backbone.
        recipe: whose views and seed count.
        device: where to train.
    """

    images: NDArray[np.uint8]
    normalise: Normalise
    augmentation: Augmentation
    parts: NetworkParts
    recipe: EpisodeRecipe
    device: torch.device

    def __call__(self, support: NDArray[np.int32], query: NDArray[np.int32], keys: Tensor) -> EpisodeTask:
        """Prepare some episodes.

        Args:
            support: image indices, class by class, [E, N * K].
            query: image indices, [E, M].
            keys: of the episodes, int64 [E].
        """
        both = EpisodeKeys(keys, keys.to(self.device))
        pixels, questions = self._pixels(support), self._pixels(query)
        views = self.recipe.views_made_once
        return EpisodeTask(
            both,
            self._inputs(pixels),
            self._pooled(support, pixels, both, views)
            if views != FRESH
            else FreshViews(
                pixels, both, self.augmentation, self._inputs_of_batch, steps=self.recipe.steps(support.shape[1])
            ),
            query.shape[1],
            lambda some: self._inputs(questions[:, some]),
        )

    def _pooled(self, support: NDArray[np.int32], pixels: Tensor, keys: EpisodeKeys, views: int) -> StepViews:
        """Views that are the same in whatever episode an image is."""
        of_images = image_keys(self.recipe.seed, support.reshape(-1).astype(np.int64))
        made = []
        for view in range(1, views + 1):
            uniform = keyed_uniform(of_images, (view,), self.augmentation.numbers)
            images = self.augmentation(pixels.flatten(0, 1), uniform).view(pixels.shape)
            made.append(images if self.parts.first is None else self._inputs(images))
        pool = torch.stack(made, dim=1)
        return PooledViews(pool, keys, self._inputs_of_batch if self.parts.first is None else None)

    def _pixels(self, indices: NDArray[np.int32]) -> Tensor:
        """uint8 [E, B, C, H, W]."""
        rows = torch.from_numpy(np.asarray(self.images[indices.reshape(-1)])).to(self.device)
        return rows.permute(0, 3, 1, 2).reshape(*indices.shape, rows.shape[3], *rows.shape[1:3])

    def _inputs(self, pixels: Tensor) -> Tensor:
        return by_episode(self._inputs_of_batch, pixels)

    def _inputs_of_batch(self, pixels: Tensor) -> Tensor:
        return self.parts.inputs(self.normalise(pixels))


def embedding_task(
    embeddings: Tensor, images: int, support: NDArray[np.int32], query: NDArray[np.int32], keys: Tensor
) -> EpisodeTask:
    """Some episodes of embeddings that were made before.

    Args:
        embeddings: [(1 + V) * I, D]: the images as they are, then their augmented views, V of 2 or more.
        images: I.
        support: image indices, class by class, [E, N * K].
        query: image indices, [E, M].
        keys: of the episodes, int64 [E].
    """
    both = EpisodeKeys(keys, keys.to(embeddings.device))
    rows, questions = (torch.from_numpy(some.astype(np.int64)).to(embeddings.device) for some in (support, query))
    views = len(embeddings) // images - 1
    pool = torch.stack([embeddings[rows + view * images] for view in range(1, views + 1)], dim=1)
    return EpisodeTask(
        both, embeddings[rows], PooledViews(pool, both), query.shape[1], lambda some: embeddings[questions[:, some]]
    )
