"""One small task and a network for it, where the numbers themselves do not matter."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fewshot_bench.backbones.networks import Conv4
from fewshot_bench.finetuning.episode_tasks import EpisodeTask, ImageTasks
from fewshot_bench.finetuning.frozen_prefix import NetworkParts, network_parts
from fewshot_bench.finetuning.recipe import EpisodeRecipe
from fewshot_bench.training.randomness import episode_keys

SIDE, WAY, SHOT, EPISODES = 16, 3, 2, 3


def normalise(images: Tensor) -> Tensor:
    """To -1..1."""
    return images.float() / 127.5 - 1


class Brightness:
    """Darkens each image by a random amount: a view that costs nothing."""

    numbers = 1

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        """See `Augmentation`."""
        return (images * uniform.view(-1, 1, 1, 1)).to(torch.uint8)


def conv4(width: int = 8, side: int = SIDE) -> nn.Module:
    """The same network every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Conv4(width=width, image_size=side).eval()


def recipe(**changes: Any) -> EpisodeRecipe:
    """Four epochs whose numbers change fast."""
    return EpisodeRecipe(**{"epochs": 4, "learning_rate": 1e-2, "dropout": 0.0, **changes})


def parts(chosen: EpisodeRecipe, network: nn.Module | None = None, side: int = SIDE) -> NetworkParts:
    """A prepared network."""
    sample = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    return network_parts(network or conv4(side=side), chosen, sample)


def task(prepared: NetworkParts, chosen: EpisodeRecipe, *, shot: int = SHOT, first: int = 0) -> EpisodeTask:
    """Episodes of random images, numbered from `first`."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, size=(60, SIDE, SIDE, 3), dtype=np.uint8)
    rows = np.stack([generator.permutation(60) for _ in range(first + EPISODES)])[first:].astype(np.int32)
    support, query = rows[:, : WAY * shot], rows[:, WAY * shot : WAY * shot + 6]
    tasks = ImageTasks(images, normalise, Brightness(), prepared, chosen, torch.device("cpu"))
    return tasks(support, query, episode_keys(0, 0, np.arange(first, first + EPISODES)))
