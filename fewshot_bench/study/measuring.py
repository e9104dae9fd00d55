"""How long the parts of a study take, measured on a few of each: images, steps of a training, chunks of episodes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch

from fewshot_bench.backbones import Backbone, embed
from fewshot_bench.datasets import ImageSplit
from fewshot_bench.study.augmented_views import augmented_view
from fewshot_bench.training import Recipe, seeded_randomness
from fewshot_bench.training.learner import Computing, Learner
from fewshot_bench.training.recipe import AugmentationName
from fewshot_bench.training.reproducibility import limited_threads

_ENOUGH = 0.4  # seconds that a measurement should take, for the clock and the caches
_PATIENCE = 8.0  # seconds after which it is not repeated
_MOST_IMAGES = 2048
_TIMES = 3
_ENOUGH_EPOCHS = 50


class Span(NamedTuple):
    """Seconds: the fastest and the slowest of a few measurements."""

    low: float
    high: float

    def times(self, count: float) -> Span:
        """As many times as long."""
        return Span(self.low * count, self.high * count)

    def plus(self, other: Span) -> Span:
        """One after the other."""
        return Span(self.low + other.low, self.high + other.high)


NO_TIME = Span(0.0, 0.0)


def per_unit(act: Callable[[int], object], most: int, *, first: int = 1) -> tuple[Span, int]:
    """Time something that is done to several at once: a few more each time, until it takes long enough.

    Args:
        act: does it to that many.
        most: never more than these.
        first: to begin with; that round only warms up if it is quick.

    Returns:
        Seconds for one, and how many were done at once at last.
    """
    count, seconds = min(first, most), _seconds(act, min(first, most))
    while seconds < _ENOUGH and count < most:
        count = min(most, 4 * count)
        seconds = _seconds(act, count)
    rounds = [seconds]
    while len(rounds) < _TIMES and sum(rounds) < _PATIENCE:
        rounds.append(_seconds(act, count))
    return Span(min(rounds) / count, max(rounds) / count), count


def _seconds(act: Callable[[int], object], count: int) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    act(count)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def seconds_per_image(
    split: ImageSplit, backbone: Backbone, device: str, augmentation: AugmentationName | None
) -> tuple[Span, int]:
    """What it takes to embed one image, and how many were embedded at once to find out.

    Args:
        split: some of whose images are embedded; nothing is kept.
        backbone: the network.
        device: a torch device.
        augmentation: what makes a view of them first; None for plain images.
    """
    augment = None if augmentation is None else augmented_view(split, 0, 1, augmentation)

    def some(count: int) -> None:
        part = replace(split, images=split.images[:count], class_sizes=(count,), class_names=("",), image_names=None)
        embed(part, backbone, device=device, augment=augment, use_cache=False)

    return per_unit(some, min(_MOST_IMAGES, len(split)), first=8)


def seconds_per_trained_image(
    split: ImageSplit, backbone: Backbone, recipe: Recipe, device: str, *, most: int
) -> tuple[Span, int]:
    """What a training step takes per image, and the size of the batch that told; a batch may be smaller than asked for.

    Args:
        split: the base split.
        backbone: a copy of it is trained for a few steps, and forgotten.
        recipe: of the training.
        device: a torch device.
        most: images that fit into a batch.
    """
    longer = replace(recipe, epochs=max(recipe.epochs, _ENOUGH_EPOCHS))  # or the schedule might end before the timing
    with limited_threads(recipe.threads), seeded_randomness(recipe.seed, device):
        learner = Learner(backbone.network, split, longer, backbone.preprocessing, torch.device(device), Computing())
        order = torch.randperm(len(split))
        return per_unit(lambda count: learner.step(order[:count], 0), min(most, len(split)), first=2)
