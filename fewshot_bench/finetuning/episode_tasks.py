"""The two augmented views of every support image that each step is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fewshot_bench.training.augmentation import Augmentation
from fewshot_bench.training.randomness import keyed_uniform

Normalise = Callable[[Tensor], Tensor]

# What an episode draws numbers for, so that no draw repeats another.
FOR_VIEWS, FOR_DROPOUT, FOR_ORDER, FOR_CHOICE = range(4)

# Augmenting that many images in one call pays for its overhead; the views of several steps are made together.
_IMAGES_AT_ONCE = 4096


@dataclass(frozen=True)
class EpisodeKeys:
    """Where the random numbers of some episodes come from.

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


class FreshViews(StepViews):
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
        """Take the support images.

        Args:
            support: uint8 [E, S, C, H, W].
            keys: of the episodes.
            augmentation: makes a view from an image and random numbers.
            normalise: uint8 [B, C, H, W] -> float [B, C', S, S].
            steps: how many there will be, so that no views are made for nothing; None where nobody knows.
        """
        self._steps = steps
        self._support, self._keys, self._augmentation, self._normalise = support, keys, augmentation, normalise
        self._steps_at_once = max(1, _IMAGES_AT_ONCE // (2 * support.shape[0] * support.shape[1]))
        self._first, self._made = 0, support.new_empty(0)

    def at(self, step: int, chosen: Tensor | None) -> Tensor:
        """See `StepViews`; views are made for all images, so that which are chosen changes none."""
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
        left = self._steps_at_once if self._steps is None else max(1, self._steps - first)
        steps = min(self._steps_at_once, left)
        per_step = 2 * images * numbers
        uniform = torch.stack(
            [keyed_uniform(self._keys.on_cpu, (step, FOR_VIEWS), per_step) for step in range(first, first + steps)]
        )
        twice = self._support.repeat(1, 2, 1, 1, 1).expand(steps, *[-1] * 5)
        flat = twice.flatten(0, 2)
        made = self._augmentation(flat, uniform.view(len(flat), numbers))
        return made.view(steps, episodes, 2 * images, *self._support.shape[2:])


class PooledViews(StepViews):
    """Two of a few views that were made once, drawn anew in every step for every image."""

    def __init__(self, pool: Tensor, keys: EpisodeKeys, normalise: Normalise | None = None) -> None:
        """Take the views.

        Args:
            pool: V views of each support image, or what the frozen layers make of them, [E, V, S, ...].
            keys: of the episodes.
            normalise: applied to the views of each step, where the pool holds images.
        """
        self._pool, self._keys, self._normalise = pool, keys, normalise

    def at(self, step: int, chosen: Tensor | None) -> Tensor:
        """See `StepViews`."""
        episodes, views, images = self._pool.shape[:3]
        drawn = keyed_uniform(self._keys.on_device, (step, FOR_CHOICE), 2 * images).view(episodes, 2, images)
        first = (drawn[:, 0] * views).long()
        # One of the others: the second view is never the first.
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
