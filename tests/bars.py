"""A split that a tiny network can learn, and what trainings on it give."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn

from fewshot_bench.backbones.networks import Conv4
from fewshot_bench.datasets.dataset import ImageSplit
from fewshot_bench.training import Recipe, TrainingResult, scratch_recipe, seeded_randomness, train_on_base

SIZE = 16


def bars(per_class: int = 12, channels: int = 1, classes: int = 4) -> ImageSplit:
    """Bars at different angles in noise: easy, but not linearly separable at the first weights."""
    random_numbers = np.random.default_rng(0)
    rows, columns = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    images = []
    for label in range(classes):
        angle = np.pi * label / classes
        distance = np.abs(rows * np.cos(angle) - columns * np.sin(angle))
        bar = np.where(distance < 2, 200, 30)[None, :, :, None]
        images.append(bar + random_numbers.integers(-30, 30, size=(per_class, SIZE, SIZE, channels)))
    pixels = np.concatenate(images).clip(0, 255).astype(np.uint8)
    names = tuple(f"bar {label}" for label in range(classes))
    return ImageSplit("toy", "base", pixels, names, (per_class,) * classes, "toy fingerprint")


def normalise(images: Tensor) -> Tensor:
    """To -1..1."""
    return images.float() / 127.5 - 1


def conv4(channels: int = 1) -> Conv4:
    """The same small network every time."""
    with seeded_randomness(7):
        return Conv4(width=8, in_chans=channels, image_size=SIZE)


def small_recipe(loss: str = "ce", **changes: Any) -> Recipe:
    """Two epochs of three steps."""
    return scratch_recipe(loss, **{"epochs": 2, "batch_size": 16, **changes})


def train(
    loss: str = "ce", split: ImageSplit | None = None, network: nn.Module | None = None, **changes: Any
) -> TrainingResult:
    """Train; arguments of `train_on_base` go there, others into the recipe."""
    split = split or bars()
    of_training = ("computing", "selection", "state", "after_epoch", "progress")
    given = {name: changes.pop(name) for name in of_training if name in changes}
    network = network or conv4(split.images.shape[3])
    return train_on_base(network, split, small_recipe(loss, **changes), normalise=normalise, **given)


def weights(result: TrainingResult) -> list[Tensor]:
    """Of backbone and head."""
    return [*result.backbone.state_dict().values(), *result.head.state_dict().values()]


def are_equal(one: TrainingResult, other: TrainingResult) -> bool:
    """Bit for bit."""
    return all(a.equal(b) for a, b in zip(weights(one), weights(other), strict=True))
