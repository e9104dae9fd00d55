"""Episodes as a trainer takes them: support images, two augmented views of each per step, and queries."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewshot_bench.finetuning.frozen_prefix import NetworkParts
from fewshot_bench.finetuning.recipe import REDRAWN, EpisodeRecipe
from fewshot_bench.training.augmentation import Augmentation
from fewshot_bench.training.randomness import image_keys, keyed_uniform

Normalise = Callable[[Tensor], Tensor]
# Streams of random numbers of an episode.
FOR_VIEWS, FOR_DROPOUT, FOR_ORDER, FOR_CHOICE = range(4)
# Views of several steps are made together: so many images in one call pay for its overhead.
_IMAGES_AT_ONCE = 4096


@dataclass(frozen=True, eq=False)
class EpisodeKeys:
    """Keys of the random numbers of some episodes.

    Attributes:
        on_cpu: int64 [E].
        on_device: the same.
    """

    on_cpu: Tensor
    on_device: Tensor


class StepViews(ABC):
    """Gives the inputs of each step, [E, 2B, ...]: the first views of B images, then the second."""

    @abstractmethod
    def at(self, step: int, chosen: Tensor | None) -> Tensor:
        """The inputs of a step.

        Args:
            step: from 0, asked for in order.
            chosen: positions of the step's images within the support set, int64 [E, B]; None for all, in order.
        """


class RedrawnViews(StepViews):
    """New views in every step, made for several steps at a time, where the images are."""

    def __init__(
        self,
        support: Tensor,
        keys: EpisodeKeys,
        augmentation: Augmentation,
        normalise: Normalise,
        *,
        steps: int | None = None,
    ) -> None:
        """Take the support images, uint8 [E, S, C, H, W].

        `normalise` makes float [B, C', S, S] of uint8 [B, C, H, W]; `steps` is their number, None if unknown.
        """
        self._steps = steps
        self._support, self._keys, self._augmentation, self._normalise = support, keys, augmentation, normalise
        self._steps_at_once = max(1, _IMAGES_AT_ONCE // (2 * support.shape[0] * support.shape[1]))
        self._first, self._made = 0, support.new_empty(0)

    def at(self, step: int, chosen: Tensor | None) -> Tensor:
        """See `StepViews`; views are made of all images, so they do not depend on which are chosen."""
        if not self._first <= step < self._first + len(self._made):
            self._first, self._made = step, self._make(step)
        views = self._made[step - self._first]
        if chosen is not None:
            views = _both_of(views, chosen)
        return by_episode(self._normalise, views)

    def _make(self, first: int) -> Tensor:
        """Views of the next steps, uint8 [steps, E, 2S, C, H, W]."""
        episodes, images = self._support.shape[:2]
        numbers = self._augmentation.numbers
        remaining = self._steps_at_once if self._steps is None else max(1, self._steps - first)
        steps = min(self._steps_at_once, remaining)
        per_step = 2 * images * numbers
        uniform = torch.stack(
            [keyed_uniform(self._keys.on_cpu, (step, FOR_VIEWS), per_step) for step in range(first, first + steps)]
        )
        twice = self._support.repeat(1, 2, 1, 1, 1).expand(steps, *[-1] * 5)
        flat = twice.flatten(0, 2)
        made = self._augmentation(flat, uniform.view(len(flat), numbers))
        return made.view(steps, episodes, 2 * images, *self._support.shape[2:])


class PooledViews(StepViews):
    """Two of a few views made once, drawn anew in every step for every image."""

    def __init__(self, pool: Tensor, keys: EpisodeKeys, normalise: Normalise | None = None) -> None:
        """Take V views of each support image, or their activations, [E, V, S, ...]; images are normalised later."""
        self._pool, self._keys, self._normalise = pool, keys, normalise

    def at(self, step: int, chosen: Tensor | None) -> Tensor:
        """See `StepViews`."""
        episodes, views, images = self._pool.shape[:3]
        drawn = keyed_uniform(self._keys.on_device, (step, FOR_CHOICE), 2 * images).view(episodes, 2, images)
        first = (drawn[:, 0] * views).long()
        # The second view is never the first.
        second = (first + 1 + (drawn[:, 1] * (views - 1)).long()) % views
        each = torch.arange(images, device=drawn.device)
        places = torch.cat([first * images + each, second * images + each], dim=1)
        inputs = _gathered(self._pool.flatten(1, 2), places)
        if chosen is not None:
            inputs = _both_of(inputs, chosen)
        if self._normalise is None:
            return inputs
        return by_episode(self._normalise, inputs)


def order_of_images(keys: Tensor, epoch: int, images: int) -> Tensor:
    """A random order of the support images for each episode, int64 [E, S]."""
    return keyed_uniform(keys, (epoch, FOR_ORDER), images).argsort(dim=1, stable=True)


def by_episode(function: Normalise, images: Tensor) -> Tensor:
    """Apply a function of batches, [B, ...] -> [B, ...], to [E, B, ...]."""
    made = function(images.flatten(0, 1))
    return made.view(*images.shape[:2], *made.shape[1:])


def _both_of(views: Tensor, chosen: Tensor) -> Tensor:
    """The two views of the chosen images, [E, 2B, ...] from [E, 2S, ...]."""
    images = views.shape[1] // 2
    return _gathered(views, torch.cat([chosen, chosen + images], dim=1))


def _gathered(rows: Tensor, places: Tensor) -> Tensor:
    """rows[e, places[e]] for every episode, [E, P, ...]."""
    episodes, per_episode = rows.shape[:2]
    flat = places + per_episode * torch.arange(episodes, device=places.device).unsqueeze(1)
    return rows.flatten(0, 1).index_select(0, flat.view(-1)).view(*places.shape, *rows.shape[2:])


@dataclass(frozen=True, eq=False)
class EpisodeTask:
    """Some episodes of one size.

    Attributes:
        keys: of the episodes' random numbers.
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


@dataclass(frozen=True, eq=False)
class ImageTasks:
    """Makes tasks from the images of a split.

    Attributes:
        images: uint8 [I, H, W, C].
        normalise: uint8 [B, C, H, W] -> float [B, C', S, S].
        augmentation: makes a view from an image and random numbers.
        parts: the backbone.
        recipe: gives views and seed.
        device: where to train.
    """

    images: NDArray[np.uint8]
    normalise: Normalise
    augmentation: Augmentation
    parts: NetworkParts
    recipe: EpisodeRecipe
    device: torch.device

    def __call__(self, support: NDArray[np.int32], query: NDArray[np.int32], keys: Tensor) -> EpisodeTask:
        """Prepare episodes of support images [E, N * K], class by class, and queries [E, M], with keys [E]."""
        both = EpisodeKeys(keys, keys.to(self.device))
        pixels, query_pixels = self._pixels(support), self._pixels(query)
        views = self.recipe.fixed_views
        return EpisodeTask(
            both,
            self._inputs(pixels),
            self._pooled(support, pixels, both, views)
            if views != REDRAWN
            else RedrawnViews(
                pixels, both, self.augmentation, self._inputs_of_batch, steps=self.recipe.steps(support.shape[1])
            ),
            query.shape[1],
            lambda part: self._inputs(query_pixels[:, part]),
        )

    def _pooled(self, support: NDArray[np.int32], pixels: Tensor, keys: EpisodeKeys, views: int) -> StepViews:
        """Views that are the same in every episode with the image."""
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
    """Some episodes of embeddings computed before.

    Args:
        embeddings: [(1 + V) * I, D]: the plain images, then their augmented views, V of 2 or more.
        images: I.
        support: image indices, class by class, [E, N * K].
        query: image indices, [E, M].
        keys: of the episodes, int64 [E].
    """
    both = EpisodeKeys(keys, keys.to(embeddings.device))
    rows, query_rows = (torch.from_numpy(part.astype(np.int64)).to(embeddings.device) for part in (support, query))
    views = len(embeddings) // images - 1
    pool = torch.stack([embeddings[rows + view * images] for view in range(1, views + 1)], dim=1)
    return EpisodeTask(
        both, embeddings[rows], PooledViews(pool, both), query.shape[1], lambda part: embeddings[query_rows[:, part]]
    )
